"""Matrices in C: how one is stored and multiplied by.

A dense one is stored column by column, each filled up to a multiple of four: then every entry of a product has
its own sum, and `gcc -O2` computes four at a time without leave to change the order of a sum.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from harvib.export.c.loose import Loose, Reader
from harvib.export.c.program import Program
from harvib.export.numbers import array_of_indices
from harvib.quantize.numbers import by_rows

LANES = 4
TOGETHER = 4
"""Columns that are added in one pass over the sums."""


class Form(ABC):
    """A matrix (rows, columns) in one way. `bytes` is what its constants take."""

    rows: int
    bytes: int

    @abstractmethod
    def times(self, program: Program, x: str) -> str:
        """Put it in and multiply by it in a step: where the product (rows,) is. `x` tells where its factor is."""


class Dense(Form):
    """Entry by entry: float32, or codes of 8 bits, a step a row and a power of two a column."""

    def __init__(self, weight: np.ndarray, int8: bool) -> None:
        self.rows, self.columns = weight.shape
        self._width = -(-self.rows // LANES) * LANES
        self._weight, self._steps, self._halvings = weight, None, None
        self.bytes = 4 * self._width * self.columns
        if int8:
            found = by_rows(weight)
            self._weight, self._steps = found.codes, found.steps[:, 0]
            self._halvings = found.halvings if found.halves else None
            halvings = 0 if self._halvings is None else self.columns
            self.bytes = self._width * self.columns + 4 * self.rows + halvings

    def times(self, program: Program, x: str) -> str:
        stored = np.zeros((self.columns, self._width), self._weight.dtype)
        stored[:, : self.rows] = self._weight.T
        name, out = program.constant("w", stored), program.scratch(self._width)
        reads = halved(program, self._halvings)
        body = self._body(name, lambda place: f"x[{place}]{reads(place)}")
        if self._steps is not None:
            steps = program.constant("s", self._steps)
            body += f"    for (j = 0; j < {self.rows}; j++)\n        out[j] *= {steps}[j];\n"
        call = program.function("times", "float *restrict out, const float *restrict x", body)
        program.step.append(f"    {call}({out}, {x});\n")
        return out

    def _body(self, name: str, read: Reader) -> str:
        """Columns in groups: the first what is left of them, so that it can begin the sums, then all others."""

        def group(count: int, at: str) -> tuple[str, str]:
            places = [f"{at} + {k}" if at and k else at or str(k) for k in range(count)]
            named = "".join(f"        const float x{k} = {read(place)};\n" for k, place in enumerate(places))
            return named, " + ".join(f"{weight(place)} * x{k}" for k, place in enumerate(places))

        def weight(place: str) -> str:
            return f"{name}[{place}][j]" if self._steps is None else f"(float){name}[{place}][j]"

        first = (self.columns - 1) % TOGETHER + 1
        named, total = group(first, "")
        over = f"        for (j = 0; j < {self._width}; j++)\n            out[j]"
        lines = f"    {{\n{named}{over} = {total};\n    }}\n"
        if first == self.columns:
            return f"    size_t j;\n{lines}"
        named, total = group(TOGETHER, "k")
        lines += (
            f"    for (k = {first}; k < {self.columns}; k += {TOGETHER}) {{\n{named}{over} += {total};\n    }}\n"
        )
        return f"    size_t j, k;\n{lines}"


class Sparse(Form):
    """The entries that are not zero, row by row, each with its column."""

    def __init__(self, weight: np.ndarray, int8: bool) -> None:
        self.rows = len(weight)
        rows, self._columns = weight.nonzero()
        self._entries = Loose(weight[rows, self._columns], int8)
        self._ends = np.searchsorted(rows, np.arange(1, self.rows + 1))
        self.bytes = self._entries.bytes + fewest(self._columns).nbytes + fewest(self._ends).nbytes

    def times(self, program: Program, x: str) -> str:
        out = program.scratch(self.rows)
        if not len(self._columns):
            # C has no arrays of nothing.
            self._columns = np.zeros(1, np.int64)
        entry = self._entries.put(program)
        columns, ends = program.constant("c", fewest(self._columns)), program.constant("n", fewest(self._ends))
        call = program.function(
            "times",
            "float *restrict out, const float *restrict x",
            f"""    size_t j, i = 0;
    for (j = 0; j < {self.rows}; j++) {{
        float sum = 0.0f;
        for (; i < {ends}[j]; i++)
            sum += {entry("i")} * x[{columns}[i]];
        out[j] = sum;
    }}
""",
        )
        program.step.append(f"    {call}({out}, {x});\n")
        return out


def halved(program: Program, halvings: np.ndarray | None) -> Reader:
    """From a column's place, in C, to what its input is multiplied by, beginning with " * "; nothing for None."""
    if halvings is None:
        return lambda place: ""
    counts = program.constant("h", halvings)
    scales = program.constant("p", np.exp2(-np.arange(halvings.max() + 1, dtype=np.float32)))
    return lambda place: f" * {scales}[{counts}[{place}]]"


def fewest(indices: np.ndarray) -> np.ndarray:
    """Indices in one byte each where that is enough, in two or four where not."""
    return indices.astype(np.uint8) if indices.max(initial=0) < 1 << 8 else array_of_indices(indices)
