"""Weights that are no matrix of a product themselves, in C: as floats, or in 8 bits of which 32 share a step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from harvib.export.c.program import Program
from harvib.quantize.numbers import GROUP, by_rows, in_rows

Reader = Callable[[str], str]
"""From the place of a weight, in C, to its value."""


class Loose:
    """Weights of any shape, one after another."""

    def __init__(self, values: np.ndarray, int8: bool) -> None:
        self._values, self._int8 = values.ravel(), int8
        # C has no arrays of nothing.
        if not len(self._values):
            self._values = np.zeros(1, np.float32)
        count = len(self._values)
        self.bytes = count + 4 * -(-count // GROUP) if int8 else 4 * count

    def put(self, program: Program) -> Reader:
        """Put them in; how one of them is read."""
        if not self._int8:
            name = program.constant("w", self._values)
            return lambda place: f"{name}[{place}]"
        rows = in_rows(self._values)
        found = by_rows(rows, alike=True)
        codes = program.constant("w", found.codes.ravel()[: len(self._values)])
        steps = program.constant("s", found.steps[:, 0])
        return lambda place: f"((float){codes}[{place}] * {steps}[({place}) / {rows.shape[1]}])"


class Signs(Loose):
    """Of 1 and -1, a byte each."""

    def __init__(self, values: np.ndarray) -> None:
        super().__init__(values, False)
        self._values = self._values.astype(np.int8)
        self.bytes = len(self._values)
