"""Which rows of a padded batch are frames of its clips: packed one after another, and back in their places."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Self

from harvib.noise import uniform


@dataclass(frozen=True, eq=False)
class Frames:
    """Of B clips of at most `steps` T frames; `places` (N,) are those of all frames in B * T, None: every one.

    Statistics of a batch are those of packed frames: what pads a clip never enters them.
    """

    lengths: Tensor
    steps: int
    places: Tensor | None

    @classmethod
    def of(cls, lengths: Tensor, steps: int) -> Self:
        """Of clips of these lengths (B,)."""
        inside = torch.arange(steps, device=lengths.device) < lengths[:, None]
        places = inside.flatten().nonzero().squeeze(1)
        return cls(lengths, steps, None if len(places) == inside.numel() else places)

    def packed(self, x: Tensor) -> Tensor:
        """(B, T, D) to the frames alone, (N, D)."""
        rows = x.flatten(0, 1)
        return rows if self.places is None else rows.index_select(0, self.places)

    def padded(self, values: Tensor) -> Tensor:
        """(N, K) to (B, T, K), zero beyond a clip's length."""
        if self.places is not None:
            rows = values.new_zeros(len(self.lengths) * self.steps, values.shape[1])
            values = rows.index_copy(0, self.places, values)
        return values.view(len(self.lengths), self.steps, -1)

    def drawn(self, count: int) -> Tensor:
        """So many frames of each clip, drawn evenly with replacement: their rows among the packed, (B, count)."""
        lengths = self.lengths[:, None]
        drawn = (uniform(len(lengths), count, lengths.device) * lengths).long()
        # The largest number below one times a length may round up to it.
        return drawn.minimum(lengths - 1) + (lengths.cumsum(0) - lengths)
