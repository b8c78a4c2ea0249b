"""One stream of a pooling model: its pool, and the FC layer that reads it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harvib.masks import VIBMask
from harvib.pooling.block import Block
from harvib.pooling.dbof import DBoF
from harvib.pooling.frames import Frames
from harvib.pooling.netfv import NetFV
from harvib.pooling.netvlad import NetVLAD
from harvib.pooling.pool import Bags, Pool
from harvib.pooling.shape import StreamShape

POOLS: dict[str, type[Pool]] = {"dbof": DBoF, "netvlad": NetVLAD, "netfv": NetFV}


class Stream(nn.Module):
    """(B, T, D) to the FC layer's units (B, H), with a mask of H factors where it is masked."""

    def __init__(self, kind: str, shape: StreamShape, bags: Bags, masked: bool) -> None:
        super().__init__()
        self.kind, self.bags = kind, bags
        self.pool = POOLS[kind](shape.pool, bags, masked)
        self.fc = Block(shape.fc)
        self.mask = VIBMask(shape.fc.units) if masked else None

    @property
    def shape(self) -> StreamShape:
        """As it is now."""
        return StreamShape(self.pool.shape, self.fc.shape)

    def forward(self, x: Tensor, frames: Frames, drawn: Tensor | None) -> Tensor:
        units = nn.functional.relu6(self.fc(self.pool(x, frames, drawn)))
        return units if self.mask is None else units * self.mask(len(units))

    def masks(self) -> dict[str, VIBMask]:
        """By what they are on."""
        found = {"clusters": self.pool.mask, "fc": self.mask}
        return {name: mask for name, mask in found.items() if mask is not None}

    def kept(self) -> Tensor:
        """The units of the FC layer that are alive, ascending."""
        if self.mask is None:
            return torch.arange(self.fc.shape.units, device=self.fc.norm.mean.device)
        return (self.mask.hard() != 0).nonzero().squeeze(1)

    def parameter_count(self) -> int:
        """Exact number of parameters, masks apart."""
        return self.pool.parameter_count() + self.fc.parameter_count()

    def macs(self, steps: int) -> int:
        """Multiply-accumulates of a clip of so many frames."""
        return self.pool.macs(steps) + self.fc.matrix.macs(1)

    @torch.no_grad()
    def compacted(self, inputs: Tensor, scale: Tensor, shift: Tensor) -> Stream:
        """The same of the inputs (K,) alone; the means of its own mask are the reader's to fold."""
        pooled = self.pool.compacted(inputs, scale, shift)
        fc = self.fc.compacted(self.kept(), pooled.reads, pooled.scale)
        small = Stream(self.kind, StreamShape(pooled.pool.shape, fc.shape), self.bags, False)
        small.pool, small.fc = pooled.pool, fc
        return small

    def use_hard_scales(self) -> None:
        """Put one for every factor that masks have left."""
        self.pool.use_hard_scales()
        self.fc.use_hard_scales()
