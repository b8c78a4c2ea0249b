"""torch as harvib itself runs a model; all else is compared with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harvib.bench.runtimes.base import Prepared, Resident, Runtime, Shipped
from harvib.bench.timing import Frames
from harvib.classifier import Classifier
from harvib.streaming import Stream, why_not
from harvib.weights import ModelCard, save_model


class InTorch(Prepared):
    """A module that takes features and lengths as they are."""

    def __init__(self, model: nn.Module, shipped: Shipped, resident: Resident) -> None:
        self._model, self.shipped, self.resident = model, shipped, resident

    def ready(self, features: Tensor, lengths: Tensor) -> Any:
        return features, lengths

    def clip(self, given: Any) -> Any:
        return self._model(*given)

    def logits(self, result: Any) -> Tensor:
        found: Tensor = result
        return found


class _Eager(InTorch):
    def frames(self) -> Frames | None:
        return None if why_not(self._model) else _Frames(Stream(self._model))


class _Frames:
    calls = 1

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.begin = stream.restart

    def rows(self, clip: Any) -> Sequence[Any]:
        return list(clip[0][0])

    def see(self, row: Any) -> object:
        return self._stream.see(row)[None]


class Eager(Runtime):
    """The model as it is."""

    title = "torch"

    def prepare(self, model: Classifier, card: ModelCard, folder: Path, name: str) -> Prepared:
        file = folder / f"{name}.safetensors"
        save_model(file, model, card)
        shipped = Shipped(file.stat().st_size, "safetensors")
        return _Eager(model.eval(), shipped, Resident("torch", {"file": str(file)}))

    def about(self) -> str:
        return f"torch {torch.__version__}"
