"""The matrices that a layer of a pooling model can have: dense, or circulant in one of three ways.

    dense             one weight an entry
    circulant         with learned diagonals, 2N a block and factor (Araujo et al. 2018)
    circulant-signs   with diagonals of fixed random signs, its weaker baseline
    circulant-bare    without a diagonal, as in that paper's mixture of experts: N a block

A column's scale folds into a dense matrix and into a learned diagonal. Of the other two a scale is left over, to
be multiplied on what the matrix reads. A circulant matrix of which so few rows and columns are left that their
entries are fewer than its weights, N in each block, becomes a dense one.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor, nn

from harvib.factorised.base import Factor, Matrix, Slim
from harvib.factorised.circulant import Diagonal
from harvib.factorised.circulant_matrix import CirculantMatrix, circulant


class Dense(Matrix):
    """Drawn with variance 1 / columns; a `Factor` without ranks."""

    drops_inputs = True

    def __init__(self, factor: Factor) -> None:
        super().__init__(factor)
        if len(factor.rows) > 1 or len(factor.columns) > 1 or factor.ranks:
            raise ValueError(f"no such dense matrix: {factor}")
        self.weight = nn.Parameter(torch.randn(self.rows, self.columns) * self.columns**-0.5)

    def dense(self) -> Tensor:
        return self.weight

    @classmethod
    def of(cls, matrix: Matrix) -> Dense:
        """With the entries of another."""
        with torch.device("meta"):
            made = cls(Factor("dense", (matrix.rows,), (matrix.columns,)))
        made.weight = nn.Parameter(matrix.dense().detach().clone())
        return made

    def drawn(self) -> Tensor:
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight)

    def parameter_count(self) -> int:
        return self.rows * self.columns

    def size(self, inputs: int) -> int:
        return self.rows * inputs

    def macs(self, steps: int) -> int:
        return steps * self.rows * self.columns

    def rebuilding_macs(self) -> int:
        return 0

    @torch.no_grad()
    def compacted(self, rows: Tensor, inputs: Tensor, scale: Tensor) -> Slim:
        small = Dense(dataclasses.replace(self.factor, rows=(len(rows),), columns=(len(inputs),))).to(self.weight)
        small.weight.copy_(self.weight[rows][:, inputs].double() * scale[inputs])
        return Slim(small, torch.arange(len(rows), device=rows.device))


class _LeavesScale(CirculantMatrix):
    """Its columns can go, but no scale folds into it."""

    drops_inputs = True


class _Signs(_LeavesScale):
    DIAGONAL: ClassVar[Diagonal] = "fixed"


class _Bare(_LeavesScale):
    DIAGONAL: ClassVar[Diagonal] = "none"


LAYERS: dict[str, type[Matrix]] = {
    "dense": Dense, "circulant": CirculantMatrix, "circulant-signs": _Signs, "circulant-bare": _Bare,
}  # fmt: skip

LEAVE_SCALE = tuple(kind for kind, matrix in LAYERS.items() if issubclass(matrix, _LeavesScale))
"""Those that a scale of their columns does not fold into."""


def matrix_of(factor: Factor) -> Matrix:
    """A fresh matrix of this description; ValueError where there is none."""
    if factor.kind not in LAYERS:
        raise ValueError(f"no layer has a matrix of the kind {factor.kind}")
    return LAYERS[factor.kind](factor)


@lru_cache(maxsize=4096)
def outline(factor: Factor) -> Matrix:
    """The matrix without memory for its weights: for its sizes and rules."""
    with torch.device("meta"):
        return matrix_of(factor)


def layer_factor(kind: str, rows: int, columns: int, factors: int = 1) -> Factor:
    """The description of a fresh matrix; `factors` of a circulant one are multiplied."""
    return Factor(kind, (rows,), (columns,)) if kind == "dense" else circulant(kind, rows, columns, factors)


@dataclass(frozen=True, eq=False)
class Reduced:
    """A compact matrix, where in its product the rows that were asked for stand (R,), and what does not fold.

    `scale` (K,) is to be multiplied on the inputs first; None where it is one everywhere.
    """

    matrix: Matrix
    rows: Tensor
    scale: Tensor | None


def cut(factor: Factor, rows: Tensor, columns: int) -> Factor:
    """What is left of a matrix of which these rows (R,), ascending, and so many columns are needed."""
    dense = Factor("dense", (len(rows),), (columns,))
    if factor.kind == "dense":
        return dense
    size = factor.ranks[0]
    blocks = len((rows // size).unique())
    left = dataclasses.replace(factor, rows=((blocks - 1) * size + int(rows[-1]) % size + 1,), columns=(columns,))
    return dense if len(rows) * columns < outline(left).size(columns) else left


@torch.no_grad()
def reduced(
    matrix: Matrix, rows: Tensor, inputs: Tensor, scale: Tensor, becomes_dense: bool | None = None
) -> Reduced:
    """The matrix for rows (R,) and inputs (K,) of its, these times their entry of `scale` (columns,), float64.

    `becomes_dense`: whether a circulant one does; where that is not given, `cut` decides.
    """
    if becomes_dense is None:
        becomes_dense = cut(matrix.factor, rows, len(inputs)).kind == "dense"
    if becomes_dense and not isinstance(matrix, Dense):
        matrix = Dense.of(matrix)
    if not isinstance(matrix, _LeavesScale):
        slim = matrix.compacted(rows, inputs, scale)
        return Reduced(slim.matrix, slim.rows, None)
    slim = matrix.compacted(rows, inputs, torch.ones_like(scale))
    left = scale[inputs]
    return Reduced(slim.matrix, slim.rows, None if bool((left == 1).all()) else left)
