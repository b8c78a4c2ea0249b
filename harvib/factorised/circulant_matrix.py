"""The circulant layer as a matrix of the cells: columns that nobody needs leave, and so do whole blocks.

In a `Factor` one rank stands for each factor, and is its N. Nothing of it has a mask of its own. An input's mask
and scale fold into the first factor's diagonal, exactly, and an input that is dropped needs no entry there: K of N
columns leave N weights and K entries of the diagonal in each block of one factor. With fixed signs there is
nothing to fold into, and all inputs stay.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from harvib.factorised.base import Factor, Matrix, Slim, entry_deviation
from harvib.factorised.circulant import Circulant, Diagonal, block_size, parameters

_FFT = 300
"""What a value costs in a transform, in multiplications of a dense product; on one core with AVX-512."""


class CirculantMatrix(Matrix):
    """Weights are normal with such a variance that the matrix's entries have variance 1 / columns."""

    drops_inputs = True
    DIAGONAL: ClassVar[Diagonal] = "learned"

    def __init__(self, factor: Factor) -> None:
        super().__init__(factor)
        factors = len(factor.ranks)
        if len(factor.rows) > 1 or len(factor.columns) > 1 or len(set(factor.ranks)) != 1:
            raise ValueError(f"no such circulant matrix: {factor}")
        size = factor.ranks[0]
        drawn = 2 * factors if self.DIAGONAL == "learned" else factors
        # All products of N places on the way through the factors but the last are summed.
        deviation = entry_deviation(self.columns, size ** (factors - 1), drawn)
        self.layer = Circulant(self.rows, self.columns, factors, self.DIAGONAL, size, deviation)

    def dense(self) -> Tensor:
        return self.layer.dense()

    def drawn(self) -> Tensor:
        return self.dense()

    def forward(self, x: Tensor) -> Tensor:
        """By transforms, or by the matrix where it has so few rows that this costs less."""
        if self._rebuilds(x.numel() // self.columns):
            return nn.functional.linear(x, self.layer.dense())
        result: Tensor = self.layer(x)
        return result

    def _rebuilds(self, steps: int) -> bool:
        layer = self.layer
        return self.rows * (steps / _FFT + layer.factors) < steps * layer.factors * layer.blocks

    def macs(self, steps: int) -> int:
        if self._rebuilds(steps):
            return self.rebuilding_macs() + steps * self.rows * self.columns
        layer = self.layer
        # Of a block of a factor: its diagonal, two transforms, and N / 2 complex products of four real ones.
        block = layer.size + 2 * self._transform() + 2 * layer.size
        return layer.factors * layer.blocks * (steps * block + self._transform())

    def rebuilding_macs(self) -> int:
        layer = self.layer
        row = layer.size + 2 * self._transform() + 2 * layer.size
        spectra = layer.blocks * layer.factors * self._transform()
        # The last factor's rows are its weights, turned.
        return (layer.factors - 1) * self.rows * row + spectra

    def _transform(self) -> int:
        """Of a real FFT of N values: half of the 5/2 N log2 N operations that a radix-2 one takes."""
        return round(1.25 * self.layer.size * math.log2(self.layer.size))

    def parameter_count(self) -> int:
        return self.layer.parameter_count()

    def size(self, inputs: int) -> int:
        """With all of its blocks: that one can go is not a matter of how many rows are kept, but of which."""
        columns = inputs if self.drops_inputs else self.columns
        return parameters(self.rows, columns, self.layer.factors, self.DIAGONAL, self.layer.size)

    @torch.no_grad()
    def compacted(self, rows: Tensor, inputs: Tensor, scale: Tensor) -> Slim:
        """Blocks none of whose rows are needed go; of the others all rows are computed, up to the last needed."""
        ours = self.layer
        if not self.drops_inputs and (len(inputs) != self.columns or not bool((scale == 1).all())):
            raise ValueError("a circulant matrix with fixed signs reads all of its inputs as they are")
        blocks, within = rows // ours.size, rows % ours.size
        kept, places = blocks.unique(return_inverse=True)
        places = places * ours.size + within
        needed = dataclasses.replace(self.factor, rows=(int(places.max()) + 1,), columns=(len(inputs),))
        small = type(self)(needed).to(ours.w)
        theirs = small.layer
        theirs.w.copy_(ours.w[:, kept])
        if ours.d is not None and theirs.d is not None:
            theirs.d.copy_(ours.d[kept][:, inputs].double() * scale[inputs])
        if ours.inner is not None and theirs.inner is not None:
            theirs.inner.copy_(ours.inner[:, kept])
        if theirs.positions is not None:
            theirs.positions.copy_(inputs if ours.positions is None else ours.positions[inputs])
        return Slim(small, places)


class SignedCirculantMatrix(CirculantMatrix):
    """With diagonals of fixed random signs, which are no parameters."""

    drops_inputs = False
    DIAGONAL = "fixed"


CIRCULANTS: dict[str, type[CirculantMatrix]] = {
    "circulant": CirculantMatrix, "circulant-signs": SignedCirculantMatrix,
}  # fmt: skip


def circulant(kind: str, rows: int, columns: int, factors: int) -> Factor:
    """The description of a fresh one."""
    return Factor(kind, (rows,), (columns,), (block_size(columns),) * factors)
