"""What the tables of several scripts share: figures as text, and figures of a length that can be read."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def percent(values: Sequence[float]) -> str:
    """Mean ± standard deviation of shares, in percent."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.1f} ± {100 * spread:.1f}"


def whole(values: Sequence[int]) -> str:
    """A whole number, or the smallest and the largest of several."""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def rounded(value: Any) -> Any:
    """The same with floats of six digits, which are more than is known."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value
