"""Where a logarithmic axis has its labels."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harvib.report.plots import log_ticks


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.12, 6.5, [0.2, 0.5, 1, 2, 5]),
        (0.6, 3, [1, 2]),
        (0.31, 0.44, [0.32, 0.36, 0.4, 0.44]),
        (900, 30_000, [1000, 2000, 5000, 10_000, 20_000]),
        (1, 1e8, [1, 100, 10_000, 1_000_000, 1e8]),
    ],
)
def test_labels_stand_where_a_reader_looks_for_them(low: float, high: float, ticks: list[float]) -> None:
    assert log_ticks(low, high) == pytest.approx(ticks)


@given(st.floats(1e-4, 1e9), st.floats(1.05, 1e12))
def test_there_are_two_labels_at_least_apart_from_each_other_and_between_the_ends(low: float, span: float) -> None:
    high = low * span
    assume(high < 1e13)
    ticks = log_ticks(low, high)
    assert len(ticks) >= 2
    assert ticks == sorted(set(ticks))
    assert low <= ticks[0]
    assert ticks[-1] <= high
    if 5 <= span <= 90 and high < 100:
        assert {float(f"{tick:e}"[0]) for tick in ticks} <= {1, 2, 5}
        assert max(right / left for left, right in pairwise(ticks)) <= 2.5 * (1 + 1e-9)
    assert math.isfinite(sum(ticks))
