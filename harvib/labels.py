"""The classes of clips that may have several, ragged: as 0 and 1, 100,000 clips of 3,862 classes take 1.5 GB."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harfeat.cache import Cache
from harvib.errors import InputError

_TOGETHER = 1024


@dataclass(frozen=True, eq=False)
class LabelSets:
    """The classes of V clips: clip v has index[offsets[v]:offsets[v + 1]], each once; there are `classes` C."""

    offsets: np.ndarray
    index: np.ndarray
    classes: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> np.ndarray:
        """(V,) how many classes each clip has."""
        return np.diff(self.offsets)

    def of(self, clips: np.ndarray) -> LabelSets:
        """Those of some of the clips, in their order."""
        counts = self.counts[clips]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        places = np.repeat(self.offsets[clips] - offsets[:-1], counts) + np.arange(offsets[-1])
        return LabelSets(offsets, self.index[places], self.classes)

    def dense(self, clips: np.ndarray) -> Tensor:
        """(B, C) float32: of each of these clips 1 at its classes, 0 elsewhere."""
        ours = self.of(clips)
        found = torch.zeros(len(clips), self.classes)
        rows = np.repeat(np.arange(len(clips)), ours.counts)
        found[torch.from_numpy(rows), torch.from_numpy(ours.index.astype(np.int64))] = 1
        return found

    def pieces(self) -> Iterator[tuple[slice, Tensor]]:
        """All clips in turn, some at a time: where they stand, and `dense` of them."""
        for start in range(0, len(self), _TOGETHER):
            part = slice(start, min(start + _TOGETHER, len(self)))
            yield part, self.dense(np.arange(part.start, part.stop))


Labels = Tensor | LabelSets
"""Of V clips: (V,) int64 where each has one, else sets."""


def labels_of(cache: Cache, several: bool) -> Labels:
    """The labels of all clips of a cache, as sets where they are taken for `several`."""
    if not several:
        return torch.from_numpy(cache.labels)
    offsets, index = cache.label_sets
    return LabelSets(np.asarray(offsets, np.int64), np.asarray(index), len(cache.classes))


def require_labels(cache: Cache, clips: np.ndarray) -> None:
    """Raise InputError where one of these clips has no label at all."""
    if not cache.has_several:
        return
    without = clips[np.diff(cache.label_sets[0])[clips] == 0]
    if len(without):
        raise InputError(
            f"{cache.path}: {len(without):,} clips have no label (first: {cache.clips[without[0]].name}), and "
            "nothing can be trained or measured on these: choose a split that leaves them unused"
        )
