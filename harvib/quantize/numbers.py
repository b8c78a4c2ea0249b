"""Floats to small whole numbers: symmetric, a step a row or a group of a row's columns, a power of two a column.

    code = round(weight * 2^h / step)        step = max |weight * 2^h| / 127 (8 bits) or / 7 (4 bits)

with the maximum over what shares the step, and one h >= 0 a column.

A matrix here is what a layer multiplies its input by: row n makes output n. Small matrices are the point, so a
step is never shared by two rows: those of one gate may be many times as large as those of another. Symmetric, so
that zero stays zero and no zero point needs to be stored. No weight moves by more than half a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

GROUP = 32
"""Columns that share a step at most, in 4 bits: a step of 4 bytes then costs a bit a weight."""
MOST_HALVINGS = 63

_SMALLEST = np.float32(1e-30)
_ALIKE = 1
"""Columns whose h differ by no more than this have none: that costs a bit at most, and saves a byte a column."""


@dataclass(frozen=True, eq=False)
class Quantized:
    """A matrix in whole numbers: `codes` (N, K) int8, `steps` (N, G) float32, each of `group` columns of a row.

    `halvings` (K,) uint8 are h: a product with x is one of the codes with x * 2^-h, times the steps.
    """

    codes: np.ndarray
    steps: np.ndarray
    group: int
    halvings: np.ndarray

    def values(self) -> np.ndarray:
        """What the codes stand for, (N, K) float32."""
        steps = np.repeat(self.steps, self.group, axis=1)[:, : self.codes.shape[1]]
        return self.codes * steps * self.scales()

    def scales(self) -> np.ndarray:
        """2^-h, (K,) float32."""
        return np.exp2(-self.halvings.astype(np.float32))

    @property
    def halves(self) -> bool:
        """Whether any column has an h but zero."""
        return bool(self.halvings.any())


def by_rows(weight: np.ndarray, alike: bool = False) -> Quantized:
    """8 bits, a step a row: codes from -127 to 127; `alike`: columns mean nothing, so that their h is 0."""
    return _quantized(weight, 127, weight.shape[1], alike)


def by_groups(weight: np.ndarray, alike: bool = False) -> Quantized:
    """4 bits, a step for each 32 columns of a row, the last of them maybe fewer: codes from -7 to 7."""
    return _quantized(weight, 7, min(GROUP, weight.shape[1]), alike)


def in_rows(values: np.ndarray) -> np.ndarray:
    """Weights of any shape without rows of their own as rows of 32 that share a step, filled up with zeros."""
    flat = values.ravel()
    width = min(GROUP, len(flat))
    return np.concatenate([flat, np.zeros(-len(flat) % width, flat.dtype)]).reshape(-1, width)


def packed(codes: np.ndarray) -> bytes:
    """Codes of 4 bits, two a byte in the order of the matrix, the first in the low half; as ONNX stores int4."""
    flat = codes.astype(np.int8).ravel().view(np.uint8) & 0xF
    pairs = np.append(flat, np.zeros(len(flat) % 2, np.uint8)).reshape(-1, 2)
    return (pairs[:, 0] | pairs[:, 1] << 4).astype(np.uint8).tobytes()


def _quantized(weight: np.ndarray, largest: int, group: int, alike: bool) -> Quantized:
    rows, columns = weight.shape
    halvings = np.zeros(columns, np.uint8) if alike else _halvings(weight)
    groups = -(-columns // group)
    padded = np.zeros((rows, groups * group), np.float32)
    padded[:, :columns] = weight * np.exp2(halvings.astype(np.float64))
    blocks = padded.reshape(rows, groups, group)
    steps = np.abs(blocks).max(axis=2) / np.float32(largest)
    # Where all are zero any step will do.
    steps = np.where(steps < _SMALLEST, np.float32(1), steps)
    codes = np.clip(np.rint(blocks / steps[:, :, None]), -largest, largest).astype(np.int8)
    return Quantized(codes.reshape(rows, -1)[:, :columns], steps, group, halvings)


def _halvings(weight: np.ndarray) -> np.ndarray:
    """By how many halvings each column is smaller than the largest, beside the rows' own sizes.

    Sizes are root mean squares, found in turns: of a column over rows that are made alike, of a row over columns
    that are. A standardisation that was folded in leaves columns a thousand times as large as others, and with one
    step a row the inputs of the small ones, which are as large as their weights are small, would be lost.
    """
    live = weight.any(0)
    if not live.any():
        return np.zeros(weight.shape[1], np.uint8)
    square = np.square(weight[:, live].astype(np.float64))
    of_columns = np.ones(square.shape[1])
    for _ in range(3):
        of_rows = (square / of_columns).mean(1)
        of_rows[of_rows == 0] = 1
        of_columns = (square / of_rows[:, None]).mean(0)
    sizes = np.log2(of_columns) / 2
    found = np.zeros(weight.shape[1])
    found[live] = np.rint(sizes.max() - sizes)
    if found.max() <= _ALIKE:
        found[:] = 0
    return np.clip(found, 0, MOST_HALVINGS).astype(np.uint8)
