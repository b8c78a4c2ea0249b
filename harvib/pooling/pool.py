"""What every way of pooling offers: the frames of a clip to one vector, with a VIB mask on the clusters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harvib.masks import VIBMask
from harvib.pooling.block import Block
from harvib.pooling.frames import Frames
from harvib.pooling.shape import PoolShape


@dataclass(frozen=True)
class Bags:
    """`count` bags of `frames` drawn with replacement each; without any, all frames are one bag."""

    count: int = 0
    frames: int = 0

    def __post_init__(self) -> None:
        if type(self.count) is not int or type(self.frames) is not int or min(self.count, self.frames) < 0:
            raise ValueError(f"no such bags: {self}")
        if (self.count > 0) != (self.frames > 0):
            raise ValueError(f"no such bags: {self}")


@dataclass(frozen=True, eq=False)
class Pooled:
    """A compact pool, and what its reader does: it keeps the values `reads` (K,), each times its `scale` (V,)."""

    pool: Pool
    reads: Tensor
    scale: Tensor


class Pool(nn.Module, ABC):
    """Frames (B, T, D) to (B, V). `assign` is the block that reads the frames; `mask` has a factor a cluster."""

    def __init__(self, shape: PoolShape, bags: Bags, masked: bool) -> None:
        super().__init__()
        self.shape, self.bags = shape, bags
        self.assign = Block(shape.assign)
        self.mask = VIBMask(shape.clusters) if masked else None

    @abstractmethod
    def forward(self, x: Tensor, frames: Frames, drawn: Tensor | None) -> Tensor:
        """`drawn` (B, count * frames): in training with bags, the rows of the drawn frames among the packed."""

    @abstractmethod
    def parameter_count(self) -> int:
        """Exact number of parameters, masks apart."""

    @abstractmethod
    def macs(self, steps: int) -> int:
        """Multiply-accumulates of a clip of so many frames; see harvib/macs.py."""

    @abstractmethod
    def compacted(self, inputs: Tensor, scale: Tensor, shift: Tensor) -> Pooled:
        """Of a masked one that keeps some cluster: the same of the inputs (K,), as Classifier.compacted has it."""

    @abstractmethod
    def use_hard_scales(self) -> None:
        """Put one for every factor that masks have left."""

    def kept(self) -> Tensor:
        """The clusters that describe a clip, ascending."""
        if self.mask is None:
            return torch.arange(self.shape.clusters, device=self.assign.norm.mean.device)
        return (self.mask.hard() != 0).nonzero().squeeze(1)
