"""How far the features of two extractions of one clip are apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Deviation:
    """How far two arrays of rows are apart.

    The largest and the mean absolute difference of two values, the least and the mean cosine of two rows.
    """

    largest: float
    cosine: float
    mean: float = 0.0
    mean_cosine: float = 1.0


def deviation(ours: np.ndarray, theirs: np.ndarray) -> Deviation:
    """Of two arrays (T, D) of one shape; two rows of zeros have the cosine 1, one of them has 0."""
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    if a.size == 0:
        return Deviation(0.0, 1.0)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    equal = (a == b).all(axis=1)
    with np.errstate(invalid="ignore"):
        cosines = np.divide((a * b).sum(axis=1), norms, out=np.zeros(len(a)), where=norms > 0)
    cosines = np.where(equal, 1.0, cosines)
    apart = np.abs(a - b)
    return Deviation(float(apart.max()), float(cosines.min()), float(apart.mean()), float(cosines.mean()))
