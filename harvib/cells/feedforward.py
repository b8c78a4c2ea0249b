"""What the cells without a recurrence have in common: products with the inputs, a rule in time, relu, a VIB mask.

    h_t = z * relu(S(W v)_t + b)        z of H factors, shared by all steps of a sequence

W has a block of H rows for each tap, as a gated cell has one for each gate, and S makes one value a unit of all
products up to step t. A cell's own file states its taps and S, which is linear and takes taps that are the same at
every step to their sum.

What may be removed: unit j stays iff z keeps it; with z = 0 it is zero at every step. What may be folded: z into
every reader, whatever its sign, for it stands after the relu; scale and shift of the inputs into W and b, since S
takes what is the same at every step to the sum of the taps. So compact and plain cell are the same kind of cell.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from harvib.cells.base import PlainCell
from harvib.cells.onemask import DenseMasked
from harvib.kernels import Carried, Step


class MaskedFeedforward(DenseMasked):
    """The cell with a mask of H factors on its states."""

    kind: type[Feedforward]
    DECIDING: ClassVar[tuple[str, ...]] = ("h",)
    OUTPUT: ClassVar[str] = "h"

    def states(self, x: Tensor) -> Tensor:
        return self.kind.states(x, self.weight_ih, self.bias_ih)

    def stepper(self) -> Step:
        bare, factors = self.kind.steps(self.weight_ih, self.bias_ih), self.hard(self.OUTPUT)

        def step(x: Tensor, carried: Carried) -> tuple[Tensor, Carried]:
            states, left = bare(x, carried)
            return states * factors, left

        return step


class Feedforward(PlainCell):
    """Weights (taps * H, D), tap by tap, and one bias (H,); drawn as torch draws those of its convolutions."""

    MASKED: ClassVar[type[MaskedFeedforward]] = MaskedFeedforward
    TAPS: ClassVar[int] = 1

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.weight_ih = nn.Parameter(torch.empty(self.TAPS * hidden_size, input_size))
        self.bias_ih = nn.Parameter(torch.empty(hidden_size))
        bound = (self.TAPS * input_size) ** -0.5
        for weight in (self.weight_ih, self.bias_ih):
            nn.init.uniform_(weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return self.states(x, self.weight_ih, self.bias_ih)

    @classmethod
    def states(cls, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(B, T, D) to (B, T, H), without a mask."""
        # Half precision is for the product: a long sum over time would lose its digits.
        products = nn.functional.linear(x, weight).to(weight.dtype)
        return torch.relu(cls.over_time(products) + bias)

    def stepper(self) -> Step:
        return self.steps(self.weight_ih, self.bias_ih)

    @classmethod
    def steps(cls, weight: Tensor, bias: Tensor) -> Step:
        """`states`, one step at a time."""

        def step(x: Tensor, carried: Carried) -> tuple[Tensor, Carried]:
            value, left = cls.next_over_time(nn.functional.linear(x, weight), carried)
            return torch.relu(value + bias), left

        return step

    @classmethod
    @abstractmethod
    def next_over_time(cls, products: Tensor, carried: Carried) -> tuple[Tensor, Carried]:
        """S of one further step, (B, taps * H) to (B, H), given what is left of those before."""

    @classmethod
    @abstractmethod
    def over_time(cls, products: Tensor) -> Tensor:
        """S: products (B, T, taps * H), the taps one after another, to (B, T, H)."""

    def parameter_count(self) -> int:
        """H(taps * D + 1)."""
        return self.size(self.input_size, self.hidden_size)

    def input_weights(self) -> int:
        """H taps D."""
        return self.weight_ih.numel()

    def masked(self) -> MaskedFeedforward:
        return self.MASKED(self)

    @classmethod
    def size(cls, inputs: int, hidden: int, factors: bool = False) -> int:
        return hidden * (cls.TAPS * inputs + 1)

    @classmethod
    def compact(cls, input_size: int, hidden_size: int) -> Feedforward:
        return cls(input_size, hidden_size)
