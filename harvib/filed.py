"""Models in files for other programs that harvib wrote, read back: what all formats have in common."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn


class FileClassifier(nn.Module):
    """Features (B, T, D) and lengths (B,) to logits (B, C), by whatever runs the file.

    `features` is D, `classes` C, `parameters` the counts of the model that it was made from.
    """

    front = None

    def __init__(self, features: int, classes: int, parameters: dict[str, int]) -> None:
        super().__init__()
        self.features, self.classes, self.parameters_told = features, classes, parameters

    @abstractmethod
    def forward(self, x: Tensor, lengths: Tensor) -> Tensor: ...

    def parameter_counts(self) -> dict[str, int]:
        """Of the model that the file was made from, in floats and whole numbers alike."""
        return dict(self.parameters_told)
