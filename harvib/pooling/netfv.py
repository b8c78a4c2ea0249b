"""NetFV: Fisher vectors with learned clusters, of first and second order.

    u_k = sum over frames of a_k(x_t) (x_t - c_k) / s_k        w_k = the same of ((x_t - c_k)^2 / s_k^2 - 1)

with a_k as in harvib/pooling/netvlad.py, s_k the deviation in each dimension. The u_k are normalised as there, and
so are the w_k, by themselves. Miech et al. 2017 (arXiv 1706.06905). A deviation is the square of what is learned,
which starts near one; masks and compaction are those of NetVLAD.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harvib.pooling.netvlad import NetVLAD
from harvib.pooling.pool import Bags
from harvib.pooling.shape import PoolShape

_LEAST = 1e-6
_SPREAD = 0.01


class NetFV(NetVLAD):
    """A cluster's D values of first order, then its D of second, one cluster after another."""

    def __init__(self, shape: PoolShape, bags: Bags, masked: bool) -> None:
        super().__init__(shape, bags, masked)
        self.roots = nn.Parameter(1 + _SPREAD * torch.randn(shape.clusters, shape.width))

    def vectors(self, x: Tensor, belongs: Tensor) -> Tensor:
        mass, first, second = belongs.sum(2, keepdim=True), belongs @ x, belongs @ x.square()
        spread = deviation(self.roots)
        ours = (first - mass * self.centres) / spread
        squares = second - 2 * self.centres * first + mass * self.centres.square()
        return torch.stack([ours, squares / spread.square() - mass], dim=2)

    def learned(self) -> dict[str, nn.Parameter]:
        return {"centres": self.centres, "roots": self.roots}


def deviation(roots: Tensor) -> Tensor:
    """What is learned as roots."""
    return roots.square() + _LEAST
