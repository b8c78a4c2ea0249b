"""What every structured matrix offers: a description that fits a file, a product, masks, and exact compaction.

A matrix of a cell, (rows, columns), that is not held entry by entry but computed from fewer weights. Its `Factor`
says all of it but the weights; the registry of kinds is in harvib/factorised/__init__.py.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from harvib.masks import VIBMask


@dataclass(frozen=True)
class Factor:
    """A structured matrix, weights apart.

    `rows` and `columns` are the modes: their products are the matrix's sizes, the first mode varies slowest.
    `ranks` are the sizes of its bonds in the order of its kind; a kind without modes has one of each.
    """

    kind: str
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    ranks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        sizes = (*self.rows, *self.columns, *self.ranks)
        if not self.rows or not self.columns or not all(type(size) is int and size > 0 for size in sizes):
            raise ValueError(f"no such structured matrix: {self}")

    @property
    def size(self) -> tuple[int, int]:
        """(rows, columns) of the matrix."""
        return math.prod(self.rows), math.prod(self.columns)

    @classmethod
    def of(cls, fields: Any) -> Factor:
        """From the fields as JSON gives them back; ValueError or TypeError where they are something else."""
        if not isinstance(fields, dict):
            raise ValueError("a structured matrix needs a kind and modes")
        made: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
        }
        return cls(**made)


class Matrix(nn.Module, ABC):
    """A structured matrix (rows, columns), plain, with masks, or compact.

    `masks` holds its VIBMasks by name; it is empty in the plain and the compact form, and where nothing of the
    kind can be masked. `drops_inputs`: whether the compact form saves anything by a column that nobody needs, and
    can fold a factor of a column away. `masks_inputs`: whether a mask on the inputs can decide which those are.
    """

    drops_inputs: bool = False
    masks_inputs: bool = True

    def __init__(self, factor: Factor) -> None:
        super().__init__()
        self.factor = factor
        self.rows, self.columns = factor.size
        self.masks = nn.ModuleDict()

    @abstractmethod
    def dense(self) -> Tensor:
        """The matrix itself, (rows, columns), differentiable; with the hard masks."""

    @abstractmethod
    def drawn(self) -> Tensor:
        """`dense` with one fresh draw of the masks for all clips."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(..., columns) to (..., rows). In training with masks x is (B, T, columns): a draw a clip."""

    @abstractmethod
    def parameter_count(self) -> int:
        """Exact number of weights, without masks."""

    def size(self, inputs: int) -> int:
        """`parameter_count` of the compact form with so many inputs; the same for all where it drops none."""
        return self.parameter_count()

    def shifted(self, shift: Tensor) -> Tensor:
        """The product with a shift (columns,) in float64 that all inputs have, (rows,)."""
        return self.dense().double() @ shift if bool(shift.any()) else shift.new_zeros(self.rows)

    @abstractmethod
    def macs(self, steps: int) -> int:
        """Multiply-accumulates of the products with so many steps of one clip, masks apart; see harvib/macs.py."""

    @abstractmethod
    def rebuilding_macs(self) -> int:
        """Multiply-accumulates of `dense`."""

    def masked(self) -> Matrix:
        """A copy with a fresh mask on all that can be masked."""
        return copy.deepcopy(self)

    def of_masks(self) -> dict[str, VIBMask]:
        """`masks`, with their type."""
        return {name: mask for name, mask in self.masks.items() if isinstance(mask, VIBMask)}

    def left(self, kept: Mapping[str, int]) -> Factor:
        """What is left of it where masks keep so many of their indices, each at least one."""
        return self.factor

    def smallest(self) -> Factor:
        """What is left of it at least."""
        return self.factor

    def needed(self, rows: Tensor) -> Tensor | None:
        """The columns that some entry of these rows (R,) reads, ascending; None where all are taken to be read."""
        return None

    def reached(self, rows: Tensor, columns: Tensor) -> dict[str, Tensor]:
        """Of masks on single weights which are read, by name: those at these rows and columns, bools all."""
        return {}

    def squares(self) -> dict[str, Tensor]:
        """Squared norms of what each mask of `masks` drops, (N,); none where that has no norm of its own."""
        return {}

    @abstractmethod
    def compacted(self, rows: Tensor, inputs: Tensor, scale: Tensor) -> Slim:
        """Without what the masks drop, exactly.

        Only the `rows` (R,) are needed. The result reads the columns `inputs` (K,) alone, each times its entry of
        `scale` (columns,) in float64. A kind that does not drop inputs is given all of them and a scale of one.
        Raises InputError where a mask keeps nothing.
        """


@dataclass(frozen=True, eq=False)
class Slim:
    """A compact matrix, and where in its product the rows that were asked for stand, (R,)."""

    matrix: Matrix
    rows: Tensor


def entry_deviation(columns: int, summands: int, factors: int) -> float:
    """Standard deviation of normal weights whose sum of products has variance 1 / columns ("fan-in").

    An entry of the matrix is a sum of `summands` products of `factors` weights each; products that differ in a
    weight are uncorrelated, so its variance is summands * deviation^(2 * factors).
    """
    return float((1.0 / (columns * summands)) ** (0.5 / factors))
