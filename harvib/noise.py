"""Noise of a batch, drawn alike on every process that computes a part of the batch.

Where several processes share a batch, each draws the noise of all its clips and keeps that of its own: so what is
trained does not depend on how many they are. Alone, a draw is what torch draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Share:
    """The clips from `first` on, of a batch of `whole` clips, of which they are this `part`, 0 to 1.

    Part 0: a clip of another's share, which is computed and counts for nothing.
    """

    first: int
    whole: int
    part: float = 1.0


_share: ContextVar[Share | None] = ContextVar("share", default=None)


@contextmanager
def sharing(share: Share) -> Iterator[None]:
    """Within the block, forward passes compute this share of a batch."""
    token = _share.set(share)
    try:
        yield
    finally:
        _share.reset(token)


def current_share() -> Share | None:
    """That of the block; None outside of one."""
    return _share.get()


def normal(batch: int, like: Tensor) -> Tensor:
    """Standard normal numbers (batch, size) for a tensor (size,)."""
    share = _share.get()
    rows = batch if share is None else share.whole
    return _own(torch.randn(rows, like.numel(), device=like.device, dtype=like.dtype), batch)


def uniform(batch: int, size: int, device: torch.device) -> Tensor:
    """Numbers drawn evenly from 0 to below 1, (batch, size)."""
    share = _share.get()
    rows = batch if share is None else share.whole
    return _own(torch.rand(rows, size, device=device), batch)


def dropout(factor: Tensor, batch: int, rate: float) -> Tensor:
    """Dropout of factors (1, K) that a whole batch has in common: (batch, K), drawn once a clip."""
    share = _share.get()
    rows = batch if share is None else share.whole
    return _own(nn.functional.dropout(factor.expand(rows, -1), rate), batch)


def _own(drawn: Tensor, batch: int) -> Tensor:
    share = _share.get()
    return drawn if share is None else drawn[share.first : share.first + batch]
