"""Floats to small whole numbers: symmetric, a step for each row of a matrix, or for each group of a row's columns.

    code = round(weight / step)        step = max |weight| / 127 (8 bits) or / 7 (4 bits), over what shares it

A matrix here is what a layer multiplies its input by: row n makes output n. Small matrices are the point, so a
step is never shared by two rows: those of one gate may be many times as large as those of another. Symmetric, so
that zero stays zero and no zero point needs to be stored. No weight moves by more than half a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

GROUP = 32
"""Columns that share a step at most, in 4 bits: a step of 4 bytes then costs a bit a weight."""

_SMALLEST = np.float32(1e-30)


@dataclass(frozen=True, eq=False)
class Quantized:
    """A matrix in whole numbers: `codes` (N, K) int8, `steps` (N, G) float32, each of `group` columns of a row."""

    codes: np.ndarray
    steps: np.ndarray
    group: int

    def values(self) -> np.ndarray:
        """What the codes stand for, (N, K) float32."""
        return self.codes * np.repeat(self.steps, self.group, axis=1)[:, : self.codes.shape[1]]


def by_rows(weight: np.ndarray) -> Quantized:
    """8 bits, a step a row: codes from -127 to 127."""
    return _quantized(weight, 127, weight.shape[1])


def by_groups(weight: np.ndarray) -> Quantized:
    """4 bits, a step for each 32 columns of a row, the last of them maybe fewer: codes from -7 to 7."""
    return _quantized(weight, 7, min(GROUP, weight.shape[1]))


def packed(codes: np.ndarray) -> bytes:
    """Codes of 4 bits, two a byte in the order of the matrix, the first in the low half; as ONNX stores int4."""
    flat = codes.astype(np.int8).ravel().view(np.uint8) & 0xF
    pairs = np.append(flat, np.zeros(len(flat) % 2, np.uint8)).reshape(-1, 2)
    return (pairs[:, 0] | pairs[:, 1] << 4).astype(np.uint8).tobytes()


def _quantized(weight: np.ndarray, largest: int, group: int) -> Quantized:
    rows, columns = weight.shape
    groups = -(-columns // group)
    padded = np.zeros((rows, groups * group), np.float32)
    padded[:, :columns] = weight
    blocks = padded.reshape(rows, groups, group)
    steps = np.abs(blocks).max(axis=2) / np.float32(largest)
    # Where all are zero any step will do.
    steps = np.where(steps < _SMALLEST, np.float32(1), steps)
    codes = np.clip(np.rint(blocks / steps[:, :, None]), -largest, largest).astype(np.int8)
    return Quantized(codes.reshape(rows, -1)[:, :columns], steps, group)
