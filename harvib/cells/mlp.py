"""Mean over time and an MLP with one hidden layer, as a causal cell: plain, with a VIB mask on its units, compact.

    h_t = z * relu(1/t sum_{s<=t} W v_s + b)        t counted from 1

The state after a clip's last step is the hidden layer of the mean over its steps, so the head reads the last state
and no other: the mean of all would be that of networks on ever longer beginnings. For the same reason there is one
layer, in one direction, and no projection before it, which the head would read at the last step alone.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from harvib.cells.feedforward import Feedforward, MaskedFeedforward
from harvib.kernels import Carried


class MaskedMLP(MaskedFeedforward):
    """The same with a mask on its units."""

    AVERAGES: ClassVar[bool] = True


class MLP(Feedforward):
    """relu(W mean(v) + b) at the last step."""

    AVERAGES: ClassVar[bool] = True
    READOUT: ClassVar[str | None] = "last"
    STACKS: ClassVar[bool] = False
    MASKED: ClassVar[type[MaskedFeedforward]] = MaskedMLP

    @classmethod
    def over_time(cls, products: Tensor) -> Tensor:
        """The mean of the steps so far."""
        steps = torch.arange(1, products.shape[1] + 1, device=products.device)
        return products.cumsum(1) / steps[:, None]

    @classmethod
    def next_over_time(cls, products: Tensor, carried: Carried) -> tuple[Tensor, Carried]:
        """Left are the sum, in float64 since a stream may have no end, and the number of steps."""
        total, steps = carried or (products.new_zeros((), dtype=torch.float64), products.new_zeros(()))
        total, steps = total + products, steps.double() + 1
        return (total / steps).to(products.dtype), (total, steps)
