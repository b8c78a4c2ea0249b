"""Matrices in C: how one is stored and multiplied by.

A dense one is stored column by column, each filled up to a multiple of four: then every entry of a product has
its own sum, and `gcc -O2` computes four at a time without leave to change the order of a sum.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from harvib.export.c.program import Program
from harvib.export.numbers import array_of_indices

LANES = 4


class Form(ABC):
    """A matrix (rows, columns) in one way. `bytes` is what its constants take."""

    rows: int
    bytes: int

    @abstractmethod
    def times(self, program: Program, x: str) -> str:
        """Put it in and multiply by it in a step: where the product (rows,) is. `x` tells where its factor is."""


class Dense(Form):
    """Entry by entry, (rows, columns) float32."""

    def __init__(self, weight: np.ndarray) -> None:
        self.rows, self.columns = weight.shape
        self._width = -(-self.rows // LANES) * LANES
        self._weight = weight
        self.bytes = 4 * self._width * self.columns

    def times(self, program: Program, x: str) -> str:
        width = self._width
        stored = np.zeros((self.columns, width), np.float32)
        stored[:, : self.rows] = self._weight.T
        name, out = program.constant("w", stored), program.scratch(width)
        call = program.function(
            "times",
            "float *restrict out, const float *restrict x",
            f"""    size_t j, k;
    for (j = 0; j < {width}; j++)
        out[j] = {name}[0][j] * x[0];
    for (k = 1; k < {self.columns}; k++) {{
        const float by = x[k];
        for (j = 0; j < {width}; j++)
            out[j] += {name}[k][j] * by;
    }}
""",
        )
        program.step.append(f"    {call}({out}, {x});\n")
        return out


class Sparse(Form):
    """The entries that are not zero, row by row, each with its column."""

    def __init__(self, weight: np.ndarray) -> None:
        self.rows = len(weight)
        rows, self._columns = weight.nonzero()
        self._entries = weight[rows, self._columns]
        self._ends = np.searchsorted(rows, np.arange(1, self.rows + 1))
        stored = (self._entries, fewest(self._columns), fewest(self._ends))
        self.bytes = sum(values.nbytes for values in stored)

    def times(self, program: Program, x: str) -> str:
        out = program.scratch(self.rows)
        if not len(self._entries):
            # C has no arrays of nothing.
            self._entries, self._columns = np.zeros(1, np.float32), np.zeros(1, np.int64)
        entries = program.constant("e", self._entries)
        columns, ends = program.constant("c", fewest(self._columns)), program.constant("n", fewest(self._ends))
        call = program.function(
            "times",
            "float *restrict out, const float *restrict x",
            f"""    size_t j, i = 0;
    for (j = 0; j < {self.rows}; j++) {{
        float sum = 0.0f;
        for (; i < {ends}[j]; i++)
            sum += {entries}[i] * x[{columns}[i]];
        out[j] = sum;
    }}
""",
        )
        program.step.append(f"    {call}({out}, {x});\n")
        return out


def fewest(indices: np.ndarray) -> np.ndarray:
    """Indices in one byte each where that is enough, in two or four where not."""
    return indices.astype(np.uint8) if indices.max(initial=0) < 1 << 8 else array_of_indices(indices)
