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
    The first batch's are taken whole: a tenth of them, beside nine of nothing, would take many steps to tell.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))
        self._fresh: bool | None = None

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
        return self._normed(x, self._momentum() if training else None)

    def _normed(self, x: Tensor, momentum: float | None) -> Tensor:
        """By the moving statistics where there is no momentum to move them by, else by the batch's."""
        training, by = momentum is not None, momentum or 0.0
        return nn.functional.batch_norm(x, self.mean, self.variance, self.weight, self.bias, training, by, EPSILON)

    def _momentum(self) -> float:
        """Of the step that moves the statistics; asked for once a step."""
        if self._fresh is None:
            self._fresh = bool(((self.mean == 0) & (self.variance == 1)).all())
        momentum = 1.0 if self._fresh else _MOMENTUM
        self._fresh = False
        return momentum

    def _shared(self, x: Tensor, share: Share) -> Tensor:
        rows = batch_sum(x.new_tensor([float(len(x))]), share)
        if rows.item() < 2:
            return self._normed(x, None)
        mean = batch_sum(x.sum(0), share) / rows
        centred = x - mean
        variance = batch_sum(centred.square().sum(0), share) / rows
        with torch.no_grad():
            momentum = self._momentum()
            self.mean.lerp_(mean, momentum)
            self.variance.lerp_(variance * (rows / (rows - 1)), momentum)
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
