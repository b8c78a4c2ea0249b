"""Sampling rules against their definitions, in exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harfeat.errors import InputError
from harfeat.sampling import SAMPLERS, sample

_COUNTS = st.integers(1, 500_000)
_WANTED = st.integers(1, 400)


@given(_COUNTS, _WANTED)
def test_uniform_takes_the_middle_of_each_segment(source_frames: int, frames: int) -> None:
    segment = Fraction(source_frames, frames)
    middles = [math.floor((k + Fraction(1, 2)) * segment) for k in range(frames)]
    assert sample("uniform", source_frames, frames).tolist() == middles


@given(_COUNTS, _WANTED)
def test_every_rule_gives_sorted_indices_inside_the_clip(source_frames: int, frames: int) -> None:
    for rule in SAMPLERS.keys() - {"fps"}:
        indices = sample(rule, source_frames, frames)
        assert indices.shape == (min(source_frames, frames) if rule in ("dense", "all") else frames,)
        assert indices.dtype == np.int64
        assert 0 <= indices[0] <= indices[-1] < source_frames
        assert (np.diff(indices) >= 0).all()


@given(_COUNTS, _WANTED)
def test_uniform_spacing_differs_by_at_most_one_frame(source_frames: int, frames: int) -> None:
    steps = np.diff(sample("uniform", source_frames, frames))
    assert steps.size == 0 or steps.max() - steps.min() <= 1


@given(st.integers(1, 400))
def test_a_clip_as_long_as_asked_for_is_taken_whole(frames: int) -> None:
    assert sample("uniform", frames, frames).tolist() == list(range(frames))


def test_a_short_clip_repeats_frames() -> None:
    assert sample("uniform", 2, 5).tolist() == [0, 0, 1, 1, 1]
    assert sample("uniform", 1, 3).tolist() == [0, 0, 0]


def test_a_long_clip_by_hand() -> None:
    assert sample("uniform", 100, 4).tolist() == [12, 37, 62, 87]


@pytest.mark.parametrize(
    ("rule", "source_frames", "frames", "words"),
    [
        ("unifrom", 10, 5, "uniform"),
        ("uniform", 10, 0, "1 or more"),
    ],
)
def test_wrong_use_is_told_in_one_line(rule: str, source_frames: int, frames: int, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        sample(rule, source_frames, frames)
    assert "\n" not in str(caught.value)
