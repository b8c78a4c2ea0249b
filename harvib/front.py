"""What stands in front of a classifier and is trained with it: from the stored rows to the classifier's features.

A run on features has none. A run on videos (`harvib.videos`) has the last block of its backbone there.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from harvib.data import ClipSet

_ROWS = 256


class Front(nn.Module, ABC):
    """Rows (B, T, M) to features (B, T, D). `lr` is its own learning rate; 0: it is not trained."""

    lr: float

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def shrunk(self, kept: Tensor) -> Self:
        """One that computes only the features `kept` (K,), ascending, as exactly as this one."""


@dataclass(frozen=True, eq=False)
class Ahead:
    """The front that a run starts with, and how a finished one is written into the run folder.

    `export` returns what the report tells about it.
    """

    front: Front
    export: Callable[[Path, Front], dict[str, Any]]


def fresh(ahead: Ahead | None) -> Front | None:
    """A copy of the front that a run starts with."""
    return None if ahead is None else copy.deepcopy(ahead.front)


@torch.no_grad()
def features_of(front: Front | None, clips: ClipSet) -> ClipSet:
    """The same clips with their features in place of their rows; views are left out."""
    if front is None:
        return clips
    device = next(front.parameters()).device
    end = int(clips.offsets[-1])
    pieces = [clips.rows[at : min(at + _ROWS, end)] for at in range(0, end, _ROWS)]
    rows = torch.cat([front(piece[None].to(device))[0].cpu() for piece in pieces])
    return replace(clips, rows=rows, views=None)


def exported(ahead: Ahead | None, folder: Path, front: Front | None) -> dict[str, Any]:
    """Write the front of a run's final model into its folder; what the report then tells, nothing without one."""
    return {} if ahead is None or front is None else {"backbone": ahead.export(folder, front)}
