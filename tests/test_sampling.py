"""Sampling rules against their definitions: exact fractions, naive loops, counts over many draws."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harfeat.errors import InputError
from harfeat.sampling import SAMPLERS, SamplingError, SamplingSettings, View, plan, sample

_COUNTS = st.integers(1, 500_000)
_WANTED = st.integers(1, 400)
_KEYS = st.binary(min_size=1, max_size=8).map(lambda data: hashlib.sha256(data).hexdigest())
_FIXED, _LIMITED = ("uniform", "first", "random"), ("fps", "dense", "all")
NAN = math.nan


def main(rule: str, source_frames: int, key: str = "k", **options: Any) -> View:
    return plan(SamplingSettings(rule, **options), source_frames, NAN, key)[0]


def at_rate(source_frames: int, fps: float, rate: float) -> np.ndarray:
    return plan(SamplingSettings("fps", fps=rate), source_frames, fps, "k")[0].indices


@st.composite
def settings(draw: st.DrawFn) -> SamplingSettings:
    rule = draw(st.sampled_from(sorted(SAMPLERS)))
    views = draw(st.integers(0, 3))
    return SamplingSettings(
        rule,
        frames=draw(st.integers(0, 60)),
        interval=draw(st.integers(1, 20)) if rule in ("first", "dense") else 1,
        max_interval=draw(st.integers(0, 20)) if rule == "random" or views else 0,
        fps=draw(st.floats(0.1, 120)) if rule == "fps" else 0.0,
        short=draw(st.sampled_from(["repeat", "wrap"])),
        views=views,
        flip=draw(st.booleans()),
        seed=draw(st.integers(0, 2**40)),
    )


@given(settings(), st.integers(1, 2000), st.sampled_from([1.0, 12.5, 30_000 / 1001, 240.0]), _KEYS)
def test_every_view_of_every_rule_lies_inside_the_clip(
    chosen: SamplingSettings, source_frames: int, fps: float, key: str
) -> None:
    views = plan(chosen, source_frames, fps, key)
    assert len(views) == len(chosen.stream_names()) == 1 + chosen.views
    for number, view in enumerate(views):
        assert view.indices.dtype == np.int64
        assert ((view.indices >= 0) & (view.indices < source_frames)).all()
        if number or chosen.rule in _FIXED:
            assert len(view.indices) == (chosen.frames or 25)
        else:
            assert len(view.indices) >= 1
            assert not chosen.frames or len(view.indices) <= chosen.frames
        if chosen.short == "repeat":
            assert (np.diff(view.indices) >= 0).all()
        assert chosen.flip or not view.flip
    again = plan(dataclasses.replace(chosen), source_frames, fps, key)
    for view, same in zip(views, again, strict=True):
        assert view.indices.tolist() == same.indices.tolist()
        assert view.flip == same.flip


@given(settings())
def test_settings_come_back_from_their_recipe(chosen: SamplingSettings) -> None:
    told = json.loads(json.dumps(chosen.recipe()))
    found = SamplingSettings.of_recipe(told)
    assert found.recipe() == chosen.recipe()
    for count in (1, 7, 300):
        theirs, ours = (plan(one, count, 25.0, "k") for one in (chosen, found))
        assert [view.indices.tolist() for view in ours] == [view.indices.tolist() for view in theirs]
        assert [view.flip for view in ours] == [view.flip for view in theirs]
        main_view, *more = plan(found.main, count, 25.0, "k")
        assert not more
        assert main_view.indices.tolist() == theirs[0].indices.tolist()
    for altered in (told | {"more": 1}, {key: told[key] for key in list(told)[1:]}, [told], None):
        with pytest.raises(InputError, match="sampling"):
            SamplingSettings.of_recipe(altered)


@given(_COUNTS, _WANTED)
def test_uniform_takes_the_middle_of_each_segment(source_frames: int, frames: int) -> None:
    segment = Fraction(source_frames, frames)
    middles = [math.floor((k + Fraction(1, 2)) * segment) for k in range(frames)]
    assert sample("uniform", source_frames, frames).tolist() == middles


@given(_COUNTS, _WANTED)
def test_uniform_spacing_differs_by_at_most_one_frame(source_frames: int, frames: int) -> None:
    steps = np.diff(sample("uniform", source_frames, frames))
    assert steps.size == 0 or steps.max() - steps.min() <= 1


@given(st.integers(1, 400))
def test_a_clip_as_long_as_asked_for_is_taken_whole(frames: int) -> None:
    for rule in _FIXED:
        assert main(rule, frames, frames=frames, short="error").indices.tolist() == list(range(frames))


def test_a_short_clip_repeats_frames() -> None:
    assert sample("uniform", 2, 5).tolist() == [0, 0, 1, 1, 1]
    assert sample("uniform", 1, 3).tolist() == [0, 0, 0]


def test_long_clips_by_hand() -> None:
    assert sample("uniform", 100, 4).tolist() == [12, 37, 62, 87]
    assert main("first", 100, frames=4, interval=6).indices.tolist() == [0, 6, 12, 18]
    assert main("dense", 10, interval=4).indices.tolist() == [0, 4, 8]
    assert at_rate(10, 25, 10).tolist() == [0, 2, 5, 7]
    assert at_rate(3, 25, 50).tolist() == [0, 0, 1, 1, 2, 2]
    assert main("all", 5).indices.tolist() == [0, 1, 2, 3, 4]


@given(st.integers(1, 300), st.integers(1, 60), st.integers(1, 30), st.sampled_from(["repeat", "wrap", "error"]))
def test_first_by_a_naive_loop(source_frames: int, frames: int, interval: int, short: str) -> None:
    expected, position, fits = [], 0, True
    for _ in range(frames):
        if position < source_frames:
            expected.append(position)
        else:
            fits = False
            folded = position
            while folded >= source_frames:
                folded -= source_frames
            expected.append(source_frames - 1 if short == "repeat" else folded)
        position += interval
    if short == "error" and not fits:
        with pytest.raises(SamplingError, match=f"too short: {source_frames} frames"):
            main("first", source_frames, frames=frames, interval=interval, short=short)
    else:
        view = main("first", source_frames, frames=frames, interval=interval, short=short)
        assert view.indices.tolist() == expected
        assert not view.flip


@given(st.integers(1, 40), st.integers(1, 40))
def test_a_clip_too_short_for_uniform_or_random(shortage: int, source_frames: int) -> None:
    frames = source_frames + shortage
    for rule in ("uniform", "random"):
        wrapped = main(rule, source_frames, frames=frames, short="wrap").indices
        assert wrapped.tolist() == [i % source_frames for i in range(frames)]
        with pytest.raises(SamplingError, match="too short"):
            main(rule, source_frames, frames=frames, short="error")
    repeated = main("random", source_frames, frames=frames, short="repeat").indices
    assert repeated.tolist() == [min(i, source_frames - 1) for i in range(frames)]


@given(st.integers(2, 500), st.integers(2, 40), st.integers(0, 30), st.integers(0, 99), _KEYS)
def test_random_takes_an_even_step_that_fits(
    source_frames: int, frames: int, max_interval: int, seed: int, key: str
) -> None:
    assume(source_frames >= frames)
    view = main(
        "random", source_frames, key=key, frames=frames, max_interval=max_interval, seed=seed, short="error"
    )
    (step,) = set(np.diff(view.indices).tolist())
    assert 1 <= step <= (max_interval or source_frames)


def test_random_draws_every_interval_start_and_flip_evenly() -> None:
    """11 frames, 3 wanted: intervals 1 to 5, and for interval d the starts 0 to 10 - 2 d."""
    draws = Counter[tuple[int, int, bool]]()
    for clip in range(20_000):
        view = main("random", 11, key=hashlib.sha256(b"%d" % clip).hexdigest(), frames=3)
        draws[int(view.indices[1] - view.indices[0]), int(view.indices[0]), view.flip] += 1
    chances = {
        (d, s, f): 1 / (5 * (11 - 2 * d) * 2)
        for d in range(1, 6)
        for s in range(11 - 2 * d)
        for f in (False, True)
    }
    assert draws.keys() == chances.keys()
    for what, chance in chances.items():
        expected = 20_000 * chance
        assert abs(draws[what] - expected) < 5 * math.sqrt(expected), what


def test_a_single_random_frame_is_any_frame() -> None:
    keys = [hashlib.sha256(b"%d" % clip).hexdigest() for clip in range(300)]
    assert {int(main("random", 7, key=key, frames=1).indices[0]) for key in keys} == set(range(7))


@given(st.integers(200, 500), _KEYS, _KEYS, st.integers(0, 2**30))
def test_views_differ_among_each_other_and_with_clip_and_seed(
    source_frames: int, key: str, other: str, seed: int
) -> None:
    assume(key != other)

    def drawn(key: str, seed: int, views: int = 6) -> list[Any]:
        chosen = SamplingSettings("first", 4, views=views, seed=seed)
        return [(view.indices.tolist(), view.flip) for view in plan(chosen, source_frames, NAN, key)[1:]]

    assert len(set(map(str, drawn(key, seed)))) > 1
    assert drawn(key, seed) != drawn(other, seed)
    assert drawn(key, seed) != drawn(key, seed + 1)
    # More views only add: those drawn before stay what they were.
    assert drawn(key, seed, 9)[:6] == drawn(key, seed)


def test_a_draw_is_pinned_for_ever() -> None:
    """Caches made at different times, with any version of any library, must mix: these numbers may not change."""
    key = hashlib.sha256(b"clip").hexdigest()
    views = plan(SamplingSettings("random", 4, views=2, seed=3), 120, NAN, key)
    assert [(view.indices.tolist(), view.flip) for view in views] == [
        ([0, 37, 74, 111], False),
        ([70, 83, 96, 109], True),
        ([13, 34, 55, 76], False),
    ]


@given(st.integers(1, 400), st.sampled_from(["10", "12.5", "24", "25", "29.97", "7.3", "60", "0.5"]))
def test_fps_shows_what_a_player_shows(source_frames: int, rate: str) -> None:
    for fps in (Fraction(25), Fraction(30_000, 1001), Fraction(15)):
        expected, k = [], 0
        while (position := math.floor(k * fps / Fraction(rate))) < source_frames:
            expected.append(position)
            k += 1
        assert at_rate(source_frames, float(fps), float(rate)).tolist() == expected


@given(st.integers(1, 400), st.integers(1, 50), st.integers(0, 30))
def test_dense_and_all_by_slices(source_frames: int, interval: int, frames: int) -> None:
    limit = frames or None
    whole = list(range(source_frames))
    assert (
        main("dense", source_frames, interval=interval, frames=frames).indices.tolist()
        == whole[::interval][:limit]
    )
    assert main("all", source_frames, frames=frames).indices.tolist() == whole[:limit]


@pytest.mark.parametrize("fps", [NAN, math.inf, -math.inf, 0.0, -25.0, 1e-12])
def test_a_clip_without_a_rate_cannot_be_sampled_by_rate(fps: float) -> None:
    with pytest.raises(SamplingError, match=r"the container states .*choose another rule"):
        plan(SamplingSettings("fps", fps=5), 100, fps, "k")


def test_a_hostile_rate_makes_no_endless_list() -> None:
    with pytest.raises(SamplingError, match=r"makes .* frames"):
        plan(SamplingSettings("fps", fps=1000), 10_000, 1e-5, "k")
    assert len(plan(SamplingSettings("fps", fps=1000, frames=9), 10_000, 1e-5, "k")[0].indices) == 9


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rule": "unifrom"}, "--sampling unifrom: choose one of uniform, first"),
        ({"short": "loop"}, "--short loop: choose one of repeat, wrap, error"),
        ({"frames": -1}, "--frames -1"),
        ({"frames": 10**9}, "--frames 1000000000"),
        ({"rule": "first", "interval": 0}, "--interval 0"),
        ({"views": -1}, "--views -1"),
        ({"seed": -1}, "--seed -1"),
        ({"max_interval": -1}, "--max-interval -1"),
        ({"max_interval": 3}, "--max-interval 3 needs --sampling random or --views"),
        ({"interval": 2}, "--interval 2 does not go with --sampling uniform"),
        ({"rule": "random", "interval": 2}, "--interval 2 does not go with --sampling random"),
        ({"rule": "fps"}, "--fps 0: --sampling fps needs a rate"),
        ({"rule": "fps", "fps": -1.0}, "--fps -1"),
        ({"rule": "fps", "fps": 1e-9}, "--fps 1e-09"),
        ({"rule": "fps", "fps": NAN}, "--fps nan"),
        ({"rule": "fps", "fps": math.inf}, "--fps inf"),
        ({"rule": ["all"]}, "rule must be of type str, not list"),
        ({"frames": "5"}, "frames must be of type int, not str"),
        ({"frames": True}, "frames must be of type int, not bool"),
        ({"frames": 5.0}, "frames must be of type int, not float"),
        ({"flip": 1}, "flip must be of type bool, not int"),
        ({"rule": "fps", "fps": None}, "fps must be of type float, not NoneType"),
        ({"fps": 5.0}, "--fps 5 does not go with --sampling uniform"),
    ],
)
def test_wrong_use_is_told_in_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        SamplingSettings(**options)
    assert "\n" not in str(caught.value)


def test_frames_of_sample_must_be_positive() -> None:
    with pytest.raises(InputError, match="1 or more"):
        sample("uniform", 10, 0)


def test_a_clip_without_frames_is_told() -> None:
    with pytest.raises(SamplingError, match="no frames"):
        main("uniform", 0)


@given(settings(), settings(), st.integers(1, 300), _KEYS)
def test_equal_recipes_mean_equal_frames(
    one: SamplingSettings, other: SamplingSettings, source_frames: int, key: str
) -> None:
    """The fingerprint's promise, over settings that share every other field."""
    for field in dataclasses.fields(SamplingSettings):
        try:
            changed = dataclasses.replace(one, **{field.name: getattr(other, field.name)})
        except InputError:
            continue
        first, second = (plan(chosen, source_frames, 25.0, key) for chosen in (one, changed))
        if one.recipe() == changed.recipe():
            assert len(first) == len(second)
            for view, same in zip(first, second, strict=True):
                assert (view.indices.tolist(), view.flip) == (same.indices.tolist(), same.flip)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({}, {"frames": 25}, True),
        ({}, {"seed": 5, "flip": False}, True),
        ({}, {"short": "wrap"}, False),
        ({"views": 2}, {"views": 3}, False),
        ({"views": 2}, {"views": 2, "seed": 1}, False),
        ({"views": 2}, {"views": 2, "flip": False}, False),
        ({"rule": "all"}, {"rule": "all", "short": "wrap", "seed": 1}, True),
        ({"rule": "all"}, {"rule": "all", "frames": 25}, False),
        ({"rule": "all", "views": 1}, {"rule": "all", "views": 1, "short": "wrap"}, False),
        ({"rule": "dense"}, {"rule": "dense", "interval": 2}, False),
        ({"rule": "first"}, {"rule": "first", "interval": 2}, False),
        ({"rule": "fps", "fps": 5.0}, {"rule": "fps", "fps": 6.0}, False),
        ({"rule": "random"}, {"rule": "random", "seed": 1}, False),
        ({"rule": "random"}, {"rule": "random", "max_interval": 4}, False),
    ],
)
def test_only_what_matters_is_in_the_recipe(one: dict[str, Any], other: dict[str, Any], same: bool) -> None:
    assert (SamplingSettings(**one).recipe() == SamplingSettings(**other).recipe()) == same


def test_the_stated_choices_and_names_are_the_real_ones() -> None:
    fields = {field.name: field for field in dataclasses.fields(SamplingSettings)}
    assert fields["rule"].metadata["choices"] == tuple(SAMPLERS)
    assert all(field.metadata["help"] for field in fields.values())
    assert SamplingSettings(views=2).stream_names() == ("rgb", "rgb-view-1", "rgb-view-2")
