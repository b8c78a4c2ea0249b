"""A matrix without bias, and batch normalisation of what it gives: clusters and FC layers are made of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harvib.factorised.base import Factor
from harvib.pooling.matrices import matrix_of, outline, reduced
from harvib.pooling.norm import Norm


@dataclass(frozen=True)
class BlockShape:
    """`units` are fewer than the rows of the matrix where a compact one picks some of them.

    `scaled`: a scale of what it reads, which does not fold into the matrix, stands before it.
    """

    factor: Factor
    units: int
    scaled: bool = False

    def __post_init__(self) -> None:
        if (
            type(self.units) is not int
            or not 0 < self.units <= self.factor.size[0]
            or type(self.scaled) is not bool
        ):
            raise ValueError(f"no such layer: {self}")

    @classmethod
    def fresh(cls, factor: Factor) -> BlockShape:
        """With all rows of the matrix."""
        return cls(factor, factor.size[0])

    @property
    def inputs(self) -> int:
        """How many values it reads."""
        return self.factor.size[1]

    def size(self) -> int:
        """Parameters: the matrix's, four a unit, and a scale that is left."""
        return outline(self.factor).parameter_count() + 4 * self.units + (self.inputs if self.scaled else 0)

    def bounds(self, name: str) -> dict[str, int]:
        """Of the index tensors of such a block, by their names."""
        return {f"{name}.rows": self.factor.size[0]} | matrix_bounds(f"{name}.matrix", self.factor)

    @classmethod
    def of(cls, fields: dict[str, Any]) -> BlockShape:
        """From the fields as JSON gives them back."""
        return cls(**{**fields, "factor": Factor.of(fields["factor"])})


def matrix_bounds(name: str, factor: Factor) -> dict[str, int]:
    """Of the index tensors of a layer's matrix: where the columns stand in a circulant block."""
    return {f"{name}.layer.positions": max(factor.ranks, default=0)}


class Block(nn.Module):
    """(N, D) to (N, U): normalised, before any non-linearity. Plain and compact are the same."""

    rows: Tensor | None
    scale: nn.Parameter | None

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.shape = shape
        self.matrix = matrix_of(shape.factor)
        self.norm = Norm(shape.units)
        self.register_buffer("rows", torch.arange(shape.units) if shape.units < shape.factor.size[0] else None)
        self.register_parameter("scale", nn.Parameter(torch.ones(shape.inputs)) if shape.scaled else None)

    def forward(self, x: Tensor) -> Tensor:
        values = self.matrix(x if self.scale is None else x * self.scale)
        normed: Tensor = self.norm(values if self.rows is None else values.index_select(1, self.rows))
        return normed

    def parameter_count(self) -> int:
        """The matrix's, four a unit, and a scale that is left."""
        left = 0 if self.scale is None else self.scale.numel()
        return self.matrix.parameter_count() + self.norm.parameter_count() + left

    @torch.no_grad()
    def compacted(self, units: Tensor, inputs: Tensor, scale: Tensor, shift: Tensor | None = None) -> Block:
        """The same `units` (U,) of the inputs (K,) alone; input v arrives as v * scale + shift, (D,), float64."""
        left = reduced(self.matrix, units, inputs, scale)
        small = Block(BlockShape(left.matrix.factor, len(units), left.scale is not None)).to(self.norm.mean)
        small.matrix = left.matrix
        small.norm = self.norm.compacted(units, None if shift is None else self.matrix.shifted(shift))
        if small.rows is not None:
            small.rows.copy_(left.rows)
        if small.scale is not None and left.scale is not None:
            small.scale.copy_(left.scale)
        return small

    def use_hard_scales(self) -> None:
        """Put one for the scale that is left; it is gone then."""
        self.scale = None
        self.shape = dataclasses.replace(self.shape, scaled=False)
