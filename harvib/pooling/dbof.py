"""Deep bag of frames: what each cluster sees in a clip at most, or on average over small bags of its frames.

    p_k = mean over bags of max over the bag's frames t of ReLU6(BN(W x_t))_k

Abu-El-Haija et al. 2016 (arXiv 1609.08675); several bags with shared weights as in Araujo et al. 2018. In training
the frames of a bag are drawn. In evaluation p_k is the mean over all draws, exactly: of T frames whose values are
v_1 <= ... <= v_T, v_j is the largest of k draws with probability (j / T)^k - ((j - 1) / T)^k.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from harvib.pooling.frames import Frames
from harvib.pooling.pool import Pool, Pooled


class DBoF(Pool):
    """A value a cluster, 0 to 6; its mask folds into what reads it."""

    def forward(self, x: Tensor, frames: Frames, drawn: Tensor | None) -> Tensor:
        values = nn.functional.relu6(self.assign(frames.packed(x)))
        if drawn is not None:
            bags = drawn.view(-1, self.bags.frames)
            # The largest row of each bag, without a copy of all rows that are drawn.
            largest = nn.functional.embedding_bag(bags, values, mode="max")
            pooled = largest.view(len(drawn), self.bags.count, -1).mean(1)
        elif self.bags.count:
            pooled = expected_maximum(frames.padded(values), frames.lengths, self.bags.frames)
        else:
            # No value is below the zeros that pad. max, not amax: its gradient goes to one frame, and is fast.
            pooled = frames.padded(values).max(1).values
        return pooled if self.mask is None else pooled * self.mask(len(pooled))

    def parameter_count(self) -> int:
        return self.assign.parameter_count()

    def macs(self, steps: int) -> int:
        return self.assign.matrix.macs(steps)

    @torch.no_grad()
    def compacted(self, inputs: Tensor, scale: Tensor, shift: Tensor) -> Pooled:
        assert self.mask is not None
        kept = self.kept()
        assign = self.assign.compacted(kept, inputs, scale, shift)
        small = DBoF(dataclasses.replace(self.shape, assign=assign.shape), self.bags, False)
        small.assign = assign
        return Pooled(small, kept, self.mask.hard().double())

    def use_hard_scales(self) -> None:
        self.assign.use_hard_scales()
        self.shape = dataclasses.replace(self.shape, assign=self.assign.shape)


def expected_maximum(values: Tensor, lengths: Tensor, draws: int) -> Tensor:
    """The mean of the largest of so many draws, with replacement, of a clip's frames: (B, T, K) to (B, K).

    No value is below zero, and all beyond a clip's length are zero.
    """
    steps = values.shape[1]
    # What pads comes first in order, with the place 0 or less.
    place = torch.arange(1, steps + 1, device=lengths.device) - (steps - lengths[:, None])
    upper, lower = (((place - back).clamp_min(0).double() / lengths[:, None]) ** draws for back in (0, 1))
    return torch.einsum("bkt,bt->bk", _ascending(values.transpose(1, 2)), (upper - lower).to(values.dtype))


def _ascending(values: Tensor) -> Tensor:
    """Sorted along the last dimension."""
    values = values.contiguous()
    if values.device.type == "cpu" and not values.requires_grad:
        # torch sorts places too: seven times as slow, twice the time of the product with the clusters.
        values.numpy().sort(axis=-1)
        return values
    return values.sort(-1).values
