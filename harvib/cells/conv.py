"""A causal temporal convolution: plain, with a VIB mask on its units, and compact.

    h_t = z * relu(sum_{k<K} W_k v_{t-k} + b)        v_s = v_0 for s < 0

Each unit sees the last K steps (`--kernel K`; nn.Conv1d of width K whose taps are in reverse order). Before its
first step a clip stands still: with zeros there, as convolutions usually have them, what standardisation subtracts
would count differently at the first steps, and no bias could take it in. Each further layer sees K - 1 more steps;
a backward cell sees the next steps in place of the last.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from harvib.cells.feedforward import Feedforward
from harvib.kernels import Carried


class Conv(Feedforward):
    """Of width 1; `of_width` gives the others."""

    @classmethod
    def of_width(cls, kernel: int) -> type[Conv]:
        """The cell that sees `kernel` steps."""
        return _of_width(kernel)

    @classmethod
    def over_time(cls, products: Tensor) -> Tensor:
        """The sum of the taps, each as many steps later as its number, counted from 0."""
        first, *later = products.chunk(cls.TAPS, dim=2)
        total, steps = first, products.shape[1]
        for tap, values in enumerate(later, 1):
            late = min(tap, steps)
            before = values[:, :1].expand(-1, late, -1)
            total = total + torch.cat([before, values[:, : steps - late]], dim=1)
        return total

    @classmethod
    def next_over_time(cls, products: Tensor, carried: Carried) -> tuple[Tensor, Carried]:
        """Left are the products of the last steps."""
        window = torch.cat([*carried, products[:, None]], dim=1)[:, -cls.TAPS :]
        return cls.over_time(window)[:, -1], (window,)


@functools.cache
def _of_width(kernel: int) -> type[Conv]:
    return type(f"Conv{kernel}", (Conv,), {"TAPS": kernel, "__doc__": f"Of width {kernel}."})
