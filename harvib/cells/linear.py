"""A linear projection before the cells: plain, with a VIB mask on its rows, and compact.

    p_t = z * (W v_t + b)        z of R factors, shared by all steps of a sequence

An input of a gated cell costs a weight in every gate of every unit, 4H in an LSTM; behind a projection it costs R.
With thousands of inputs this, not the recurrence, is what a parameter budget is spent on.

What may be removed: row j stays iff z keeps it; with z = 0 it is zero at every step. What may be folded: z
into every reader.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from harvib.cells.base import Cell, PlainCell
from harvib.cells.onemask import DenseMasked


class Projection(PlainCell):
    """nn.Linear at every step; plain and compact are the same."""

    STACKS: ClassVar[bool] = False

    AFFINE: ClassVar[bool] = True

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.linear = nn.Linear(input_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)

    def parameter_count(self) -> int:
        """R(D + 1)."""
        return self.size(self.input_size, self.hidden_size)

    def input_weights(self) -> int:
        """R D."""
        return self.linear.weight.numel()

    def masked(self) -> MaskedProjection:
        return MaskedProjection(self)

    @classmethod
    def size(cls, inputs: int, hidden: int, factors: bool = False) -> int:
        return hidden * (inputs + 1)

    @classmethod
    def compact(cls, input_size: int, hidden_size: int) -> Cell:
        return cls(input_size, hidden_size)


class MaskedProjection(DenseMasked):
    """The projection with a mask of R factors."""

    AFFINE: ClassVar[bool] = True
    DECIDING: ClassVar[tuple[str, ...]] = ("p",)
    OUTPUT: ClassVar[str] = "p"

    def states(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight_ih, self.bias_ih)
