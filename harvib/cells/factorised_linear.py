"""A projection whose matrix is structured: plain, with a VIB mask on its rows and the matrix's own, and compact.

    p_t = z * (W v_t + b)        W structured (harvib/factorised), else as harvib/cells/linear.py

Rows that the mask drops are computed with the others and not picked.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from harvib.cells.base import Cell, Compacted, Maskable
from harvib.cells.onemask import OneMasked
from harvib.factorised import KINDS, Factor, Matrix, outline
from harvib.masks import VIBMask


@dataclass(frozen=True)
class FactorisedRows:
    """Makes such projections."""

    factor: Factor

    def fresh(self, inputs: int, hidden: int) -> FactorisedProjection:
        """A plain one with weights drawn anew."""
        if self.factor.size != (hidden, inputs):
            raise ValueError(f"{self.factor} is no projection of {inputs} inputs to {hidden}")
        return FactorisedProjection(self.factor, hidden)

    def compact(self, inputs: int, hidden: int) -> FactorisedProjection:
        """An empty compact one that picks so many rows, to load weights into."""
        return FactorisedProjection(self.factor, hidden, picks=True)

    def size(self, inputs: int, hidden: int, factors: bool = False) -> int:
        """Parameters of such a projection that keeps so many rows."""
        return outline(self.factor).size(inputs) + hidden


class _Projection(Cell):
    AFFINE: ClassVar[bool] = True
    matrix: Matrix
    bias: nn.Parameter

    def matrices(self) -> dict[str, Matrix]:
        return {"ih": self.matrix}

    def input_weights(self) -> int:
        """Those of the matrix."""
        return self.matrix.parameter_count()

    def macs(self, steps: int) -> int:
        """By the matrix's own count."""
        return self.matrix.macs(steps)

    def parameter_count(self) -> int:
        """The matrix's, and the bias."""
        return self.matrix.parameter_count() + self.bias.numel()


class FactorisedProjection(_Projection, Maskable):
    """A product with the matrix at every step; compact it picks the rows `rows` (R,) of the product."""

    rows: Tensor | None

    def __init__(self, factor: Factor, hidden_size: int, picks: bool = False) -> None:
        super().__init__()
        self.matrix = KINDS[factor.kind](factor)
        self.input_size, self.hidden_size = self.matrix.columns, hidden_size
        # As nn.Linear draws it.
        bound = self.input_size**-0.5
        self.bias = nn.Parameter(torch.empty(hidden_size).uniform_(-bound, bound))
        self.register_buffer("rows", torch.arange(hidden_size) if picks else None)

    def forward(self, x: Tensor) -> Tensor:
        values = self.matrix(x)
        return (values if self.rows is None else values[..., self.rows]) + self.bias

    def masked(self) -> MaskedFactorisedProjection:
        return MaskedFactorisedProjection(self)


class MaskedFactorisedProjection(_Projection, OneMasked):
    """With a mask of R factors on its values, and those of the matrix."""

    DECIDING: ClassVar[tuple[str, ...]] = ("p",)
    OUTPUT: ClassVar[str] = "p"

    def __init__(self, plain: FactorisedProjection) -> None:
        super().__init__()
        self.input_size, self.hidden_size = plain.input_size, plain.hidden_size
        self.matrix, self.bias = plain.matrix.masked(), copy.deepcopy(plain.bias)
        self.masks = nn.ModuleDict({"p": VIBMask(self.hidden_size)})

    def states(self, x: Tensor) -> Tensor:
        return self.matrix(x) + self.bias

    @torch.no_grad()
    def compacted(self, inputs: Tensor, scale: Tensor, shift: Tensor) -> Compacted:
        """The mask folds into every reader; scale and shift where the matrix can take them."""
        units = self.kept_units(inputs)
        slim = self.matrix.compacted(units, inputs, scale)
        cell = FactorisedProjection(slim.matrix.factor, len(units), picks=True).to(self.bias)
        cell.matrix = slim.matrix
        assert cell.rows is not None
        cell.rows.copy_(slim.rows)
        cell.bias.copy_((self.bias + self.matrix.shifted(shift))[units])
        return self.replaced_by(cell, units)
