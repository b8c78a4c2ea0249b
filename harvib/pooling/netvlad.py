"""NetVLAD: per cluster the sum of what frames differ from its centre, each by how far it belongs to the cluster.

    a_k(x) = softmax over k of BN(W x)        v_k = sum over frames of a_k(x_t) (x_t - c_k)

Each v_k is divided by its length, and then all of them together by theirs. Arandjelovic et al., "NetVLAD: CNN
architecture for weakly supervised place recognition", CVPR 2016; for clips Miech et al. 2017 (arXiv 1706.06905).

A VIB mask multiplies each cluster's v_k / |v_k|. A cluster that it drops stays in the softmax, a "ghost" as in
Zhong et al., "GhostVLAD for set-based face recognition", 2018: frames may belong to it, and nobody is told. So
compaction is exact; it takes the centre and the D columns, in the reader, of each ghost. No input can go, since
each is in the descriptions of all clusters.
"""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch import Tensor, nn

from harvib.pooling.frames import Frames
from harvib.pooling.pool import Bags, Pool, Pooled
from harvib.pooling.shape import PoolShape

TINY = 1e-12


class NetVLAD(Pool):
    """Described clusters (K,) in D values each, one cluster after another.

    `described` (K,) are the places of the described ones among all, where there are ghosts; `scale` (K,) are
    factors that masks have left.
    """

    described: Tensor | None
    scale: nn.Parameter | None

    def __init__(self, shape: PoolShape, bags: Bags, masked: bool) -> None:
        super().__init__(shape, bags, masked)
        self.centres = nn.Parameter(torch.randn(shape.clusters, shape.width) * shape.width**-0.5)
        self.register_buffer("described", torch.arange(shape.clusters) if shape.ghosts else None)
        self.register_parameter("scale", nn.Parameter(torch.ones(shape.clusters)) if shape.scaled else None)

    def forward(self, x: Tensor, frames: Frames, drawn: Tensor | None) -> Tensor:
        belongs = self.assign(frames.packed(x)).softmax(1)
        if self.described is not None:
            belongs = belongs.index_select(1, self.described)
        # Sums whose differences count: in half precision little of them would be left.
        with torch.autocast(x.device.type, enabled=False):
            found = nn.functional.normalize(self.vectors(x, frames.padded(belongs).transpose(1, 2)), dim=3)
            factors = self.scale[None] if self.scale is not None else None
            if self.mask is not None:
                factors = self.mask(len(x))
            if factors is not None:
                found = found * factors[..., None, None]
            length = torch.linalg.vector_norm(found, dim=(1, 3), keepdim=True)
            return (found / length.clamp_min(TINY)).flatten(1)

    def vectors(self, x: Tensor, belongs: Tensor) -> Tensor:
        """Frames (B, T, D) and how far they belong to each cluster (B, K, T), to its vectors (B, K, V, D)."""
        return (belongs @ x - belongs.sum(2, keepdim=True) * self.centres)[:, :, None]

    def learned(self) -> dict[str, nn.Parameter]:
        """The vectors that a cluster has, (K, D) each, by name."""
        return {"centres": self.centres}

    def parameter_count(self) -> int:
        left = 0 if self.scale is None else self.scale.numel()
        return self.assign.parameter_count() + sum(each.numel() for each in self.learned().values()) + left

    def macs(self, steps: int) -> int:
        """With those of the sums over frames, which are products with a matrix too."""
        sums = len(self.learned()) * self.shape.clusters * self.shape.width
        return self.assign.matrix.macs(steps) + steps * sums

    @torch.no_grad()
    def compacted(self, inputs: Tensor, scale: Tensor, shift: Tensor) -> Pooled:
        if len(inputs) != self.shape.width or bool((scale != 1).any()) or bool(shift.any()):
            raise ValueError("each cluster is described in all inputs, as they are")
        assert self.mask is not None
        kept = self.kept()
        ghosts = self.shape.clusters - len(kept)
        small = type(self)(dataclasses.replace(self.shape, ghosts=ghosts, scaled=True), self.bags, False)
        small.to(self.centres)
        small.assign = copy.deepcopy(self.assign)
        for name, vectors in small.learned().items():
            vectors.copy_(self.learned()[name][kept])
        if small.described is not None:
            small.described.copy_(kept)
        assert small.scale is not None
        small.scale.copy_(self.mask.hard()[kept])
        one = len(self.learned()) * self.shape.width
        reads = (kept[:, None] * one + torch.arange(one, device=kept.device)).flatten()
        return Pooled(small, reads, torch.ones(self.shape.clusters * one, dtype=torch.float64, device=kept.device))

    def use_hard_scales(self) -> None:
        self.scale = None
        self.shape = dataclasses.replace(self.shape, scaled=False)
