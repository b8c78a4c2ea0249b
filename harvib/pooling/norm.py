"""Batch normalisation of rows: four numbers a value, which all count as parameters, as the published tables do."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harvib.batchsums import batch_sum, sharing_processes
from harvib.noise import Share

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
        """In the dtype of its weights: sums over a batch lose their digits in half precision.

        A batch that several processes share has one mean and variance. A lone row, which has none, is normalised
        by the moving ones.
        """
        x = x.to(self.weight.dtype)
        share = sharing_processes() if self.training else None
        if share is not None:
            return self._shared(x, share)
        training = self.training and len(x) > 1
        arguments = (self.mean, self.variance, self.weight, self.bias, training, _MOMENTUM, EPSILON)
        return nn.functional.batch_norm(x, *arguments)

    def _shared(self, x: Tensor, share: Share) -> Tensor:
        rows = batch_sum(x.new_tensor([float(len(x))]), share)
        if rows.item() < 2:
            arguments = (self.mean, self.variance, self.weight, self.bias, False, _MOMENTUM, EPSILON)
            return nn.functional.batch_norm(x, *arguments)
        mean = batch_sum(x.sum(0), share) / rows
        centred = x - mean
        variance = batch_sum(centred.square().sum(0), share) / rows
        with torch.no_grad():
            self.mean.lerp_(mean, _MOMENTUM)
            self.variance.lerp_(variance * (rows / (rows - 1)), _MOMENTUM)
        return centred * ((variance + EPSILON).rsqrt() * self.weight) + self.bias

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
