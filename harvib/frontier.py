"""Figures of many runs: mean and confidence interval over seeds, and the Pareto front. Pure arithmetic.

A row is one run: `kind`, `swept` (the settings that tell it from others), `seed`, `error` where it failed, and its
figures. A line is one setting: the same figures over its seeds, and whether it is on the front.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from scipy.stats import t as student_t

from harvib.measure import score_of

CONFIDENCE = 0.95
FIGURES = ("parameters", "validation", "test", "inputs", "units", "ms")

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


def figures_of(figures: Mapping[str, Any], ms: float | None) -> dict[str, Any]:
    """The figures of a row, from those of a state in report.json and its median latency."""
    return {
        "parameters": figures["parameters"]["total"],
        "inputs": figures["inputs"],
        "units": figures["units"],
        **score_of(figures),
        "ms": ms,
    }


def settings_of(runs: Sequence[Mapping[str, Any]], figures: Sequence[str] = FIGURES) -> list[dict[str, Any]]:
    """Figures over the seeds of each setting, and which settings are on the front, from the rows of the runs."""
    lines = []
    for group in grouped(((row["kind"], *row["swept"].items()), row) for row in runs).values():
        done = [row for row in group if row["error"] is None]
        line: dict[str, Any] = {"kind": group[0]["kind"], "swept": group[0]["swept"]}
        line |= {"seeds": len(group), "finished": len(done), "front": False, "front_ms": False}
        for figure in figures:
            values = [row[figure] for row in done if row[figure] is not None]
            whole = bool(values) and len(values) == len(done)
            line[figure] = _told(spread(values)) if whole else None
        lines.append(line)
    for cost, mark in (("parameters", "front"), ("ms", "front_ms")):
        entered = [line for line in lines if line["finished"] == line["seeds"] and line[cost] is not None]
        ends = pareto([(line[cost]["mean"], line["validation"]["mean"]) for line in entered])
        for line, is_on in zip(entered, ends, strict=True):
            line[mark] = is_on
    return lines


def _told(found: Spread) -> dict[str, Any]:
    """JSON has no NaN."""
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in dataclasses.asdict(found).items()
    }
