"""Batch normalisation of rows: four numbers a value, which all count as parameters, as the published tables do."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPSILON = 1e-5
_MOMENTUM = 0.1


class Norm(nn.Module):
    """(N, K) to (N, K): by the batch's own statistics in training, by the moving ones else.

    `mean` and `variance` are buffers; nothing else is kept, so that a file holds these four and no count of steps.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """In the dtype of its weights: sums over a batch lose their digits in half precision."""
        arguments = (self.mean, self.variance, self.weight, self.bias, self.training, _MOMENTUM, EPSILON)
        return nn.functional.batch_norm(x.to(self.weight.dtype), *arguments)

    def parameter_count(self) -> int:
        """4K."""
        return 4 * self.weight.numel()

    @torch.no_grad()
    def compacted(self, units: Tensor, shift: Tensor | None = None) -> Norm:
        """Of these values (U,) alone, which each arrive without their `shift` (K,)."""
        small = Norm(len(units)).to(self.weight)
        for theirs, ours in zip(small.state_dict().values(), self.state_dict().values(), strict=True):
            theirs.copy_(ours[units])
        if shift is not None:
            small.mean.copy_(self.mean[units].double() - shift[units])
        return small
