"""Figures of many runs: mean and confidence interval over seeds, and the Pareto front. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.stats import t as student_t

CONFIDENCE = 0.95

Item = TypeVar("Item")


@dataclass(frozen=True)
class Spread:
    """Mean, smallest and largest of `count` values, their standard deviation, and half a confidence interval.

    `deviation` (with n - 1) and `half` are NaN for a single value: one run says nothing about its spread.
    """

    count: int
    mean: float
    low: float
    high: float
    deviation: float
    half: float


def spread(values: Sequence[float], confidence: float = CONFIDENCE) -> Spread:
    """The spread of one or more values; the mean's interval is mean +- half, by Student's t with n - 1."""
    array = np.asarray(values, dtype=np.float64)
    count = len(array)
    deviation = float(array.std(ddof=1)) if count > 1 else math.nan
    half = math.nan
    if count > 1:
        half = float(student_t.ppf((1 + confidence) / 2, count - 1)) * deviation / math.sqrt(count)
    return Spread(count, float(array.mean()), float(array.min()), float(array.max()), deviation, half)


def grouped(items: Iterable[tuple[Hashable, Item]]) -> dict[Hashable, list[Item]]:
    """Items by their key, both in the order in which they come."""
    groups: dict[Hashable, list[Item]] = {}
    for key, item in items:
        groups.setdefault(key, []).append(item)
    return groups


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For each (cost, value) whether it is on the front: no other costs at most as much and is worth at least as
    much, one of both strictly. Equal points stand or fall together.
    """
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1]))
    front = [False] * len(points)
    best = (math.inf, -math.inf)
    for index in order:
        if points[index][1] > best[1] or points[index] == best:
            front[index] = True
            best = points[index]
    return front
