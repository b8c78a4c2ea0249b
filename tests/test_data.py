"""harvib.data and harvib.selection: parts, batches and statistics, against plain numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from caches import TEST_SPLIT, made_up_cache, permuted_test_labels, without_groups
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harfeat.cache import CacheError, ClipRow, open_cache
from harvib.data import ClipSet, Parts, load_clips, load_parts
from harvib.division import hold_out
from harvib.errors import InputError
from harvib.selection import select_inputs

CPU = torch.device("cpu")


def parts_of(path: Path, validation: float = 0.3, seed: int = 0) -> Parts:
    with open_cache(path) as cache:
        return load_parts(cache, TEST_SPLIT, validation, seed)


def clips_of(path: Path) -> ClipSet:
    with open_cache(path) as cache:
        return load_clips(cache)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8)), min_size=2, max_size=60),
    st.floats(0.01, 0.5),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=150, deadline=None)
def test_hold_out_never_divides_a_group(clips: list[tuple[int, int]], fraction: float, seed: int) -> None:
    labels = np.array([label for label, _ in clips])
    groups = [f"g{group}" for _, group in clips]
    assume(len(set(groups)) > 1 and np.bincount(labels).max() > 1)
    held = hold_out(labels, groups, fraction, seed)
    assert 0 < held.sum() < len(clips)
    ours = {group for group, inside in zip(groups, held, strict=True) if inside}
    theirs = {group for group, inside in zip(groups, held, strict=True) if not inside}
    assert not ours & theirs
    assert np.array_equal(held, hold_out(labels, groups, fraction, seed))


def test_hold_out_takes_about_the_share_and_all_classes() -> None:
    labels = np.repeat(np.arange(4), 50)
    groups = [f"{label}-{index // 2}" for index, label in enumerate(labels)]
    for fraction in (0.1, 0.2, 0.5):
        held = hold_out(labels, groups, fraction, 0)
        assert held.mean() == pytest.approx(fraction, abs=0.03)
        assert (np.bincount(labels[held]) > 0).all()
    assert not np.array_equal(hold_out(labels, groups, 0.2, 0), hold_out(labels, groups, 0.2, 1))


def test_hold_out_without_groups_keeps_the_classes_in_proportion() -> None:
    labels = np.repeat([0, 1], [60, 30])
    held = hold_out(labels, [""] * 90, 0.2, 3)
    assert np.bincount(labels[held]).tolist() == [12, 6]


def test_hold_out_refuses_what_cannot_be_divided() -> None:
    with pytest.raises(InputError, match="single group"):
        hold_out(np.array([0, 0, 1, 1]), ["a"] * 4, 0.2, 0)
    with pytest.raises(InputError, match="no class has two clips"):
        hold_out(np.array([0, 1, 2]), ["a", "b", "c"], 0.2, 0)


def test_parts_are_the_split_with_validation_out_of_train_alone(tmp_path: Path) -> None:
    path = made_up_cache(tmp_path / "c.h5", clips_a_group=3)
    parts = parts_of(path)
    with open_cache(path) as cache:
        roles, groups = cache.split(TEST_SPLIT).roles, [clip.group for clip in cache.clips]
    assert sorted([*parts.train.clips, *parts.validation.clips]) == np.flatnonzero(roles == 1).tolist()
    assert parts.test.clips.tolist() == np.flatnonzero(roles == 2).tolist()
    assert not {groups[clip] for clip in parts.train.clips} & {groups[clip] for clip in parts.validation.clips}
    again, other = parts_of(path), parts_of(path, seed=1)
    assert again.parts_hash == parts.parts_hash
    assert again.split_hash == other.split_hash == parts.split_hash
    assert other.parts_hash != parts.parts_hash


def test_other_labels_of_the_same_clips_are_other_parts(tmp_path: Path) -> None:
    ours = parts_of(made_up_cache(tmp_path / "a.h5"))
    theirs = parts_of(made_up_cache(tmp_path / "b.h5", change=permuted_test_labels))
    assert ours.split_hash == theirs.split_hash
    assert ours.parts_hash != theirs.parts_hash


def test_test_labels_do_not_change_who_is_held_out(tmp_path: Path) -> None:
    ours = parts_of(made_up_cache(tmp_path / "a.h5"))
    theirs = parts_of(made_up_cache(tmp_path / "b.h5", change=permuted_test_labels))
    assert np.asarray(ours.test.own_labels()).tolist() != np.asarray(theirs.test.own_labels()).tolist()
    assert ours.validation.clips.tolist() == theirs.validation.clips.tolist()


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 99), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_shuffled_covers_each_clip_once_in_an_order_of_seed_and_epoch(
    count: int, size: int, seed: int, epoch: int
) -> None:
    rows = torch.arange(count, dtype=torch.float32)[:, None]
    clips = ClipSet(rows, np.arange(count + 1), torch.arange(count), np.arange(count))

    def order() -> list[list[int]]:
        return [batch.positions.tolist() for batch in clips.shuffled(size, CPU, seed, epoch)]

    batches = order()
    assert sorted(position for batch in batches for position in batch) == list(range(count))
    assert batches == order()
    assert all(len(batch) == size for batch in batches[:-2])
    assert len(batches[-1]) > 1 or len(batches) == 1, "batch normalisation needs two clips"
    for batch in clips.shuffled(size, CPU, seed, epoch):
        assert batch.labels.tolist() == batch.positions.tolist() == batch.features[:, 0, 0].tolist()


def test_order_changes_with_seed_and_with_epoch() -> None:
    clips = ClipSet(torch.zeros(50, 1), np.arange(51), torch.zeros(50, dtype=torch.long), np.arange(50))
    orders = {
        tuple(next(clips.shuffled(50, CPU, seed, epoch)).positions.tolist()) for seed in (0, 1) for epoch in (0, 1)
    }
    assert len(orders) == 4


def test_clips_of_any_length_are_padded_on_the_right_with_zeros(tmp_path: Path) -> None:
    path = made_up_cache(tmp_path / "c.h5", lengths=(1, 6, 3))
    clips = clips_of(path)
    with open_cache(path) as cache:
        stored = [cache.read(clip).features for clip in range(len(cache.clips))]
    seen = 0
    for batch in clips.batches(7, CPU):
        for row, clip in enumerate(batch.positions.tolist()):
            length = int(batch.lengths[row])
            assert np.array_equal(batch.features[row, :length].numpy(), stored[clip])
            assert not batch.features[row, length:].any()
            seen += 1
        assert batch.features.shape[1] == int(batch.lengths.max())
    assert seen == len(stored)


def test_statistics_equal_numpys_over_the_parts_own_rows(tmp_path: Path) -> None:
    path = made_up_cache(tmp_path / "c.h5", dtype=np.float16)
    train = parts_of(path).train
    with open_cache(path) as cache:
        rows = np.concatenate([cache.read(int(clip)).features for clip in train.clips]).astype(np.float64)
    mean, std = train.statistics()
    np.testing.assert_allclose(mean.numpy(), rows.mean(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(std.numpy(), rows.std(0), rtol=1e-5)


def test_statistics_of_large_constants_are_exact() -> None:
    rows = torch.full((300, 2), 1000.1)
    rows[:, 1] += torch.arange(300) % 2 * 0.01
    clips = ClipSet(rows, np.arange(0, 301, 3), torch.zeros(100, dtype=torch.long), np.arange(100))
    mean, std = clips.statistics()
    assert float(mean[0]) == float(rows[0, 0])
    assert float(std[0]) < 1e-9
    assert float(std[1]) == pytest.approx(float(rows[:, 1].double().std(correction=0)), rel=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8"])
def test_features_of_every_stored_type_become_the_same_batches(tmp_path: Path, dtype: str) -> None:
    def whole(rows: list[ClipRow], features: list[np.ndarray]) -> tuple[list[ClipRow], list[np.ndarray]]:
        return rows, [np.abs(np.rint(values)) for values in features]

    def as_read(rows: list[ClipRow], features: list[np.ndarray]) -> tuple[list[ClipRow], list[np.ndarray]]:
        scale = 255 if dtype == "uint8" else 1  # bytes are pixels, from 0 to 1
        return rows, [values / scale for values in whole(rows, features)[1]]

    clips = clips_of(made_up_cache(tmp_path / "c.h5", dtype=np.dtype(dtype), change=whole))
    expected = clips_of(made_up_cache(tmp_path / "d.h5", change=as_read))
    ours, theirs = next(clips.batches(9, CPU)), next(expected.batches(9, CPU))
    assert ours.features.dtype == torch.float32
    assert torch.equal(ours.features, theirs.features)
    for mine, other in zip(clips.statistics(), expected.statistics(), strict=True):
        assert torch.allclose(mine, other)


def spoiled(clip: int, row: int, value: float) -> Callable:
    def change(rows: list[ClipRow], features: list[np.ndarray]) -> tuple[list[ClipRow], list[np.ndarray]]:
        features[clip][row, 1] = value
        return rows, features

    return change


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "f4"), (np.inf, "f2"), (-np.inf, "f8"), (1e300, "f8")])
def test_features_that_no_float32_holds_are_refused(tmp_path: Path, value: float, dtype: str) -> None:
    path = made_up_cache(tmp_path / "c.h5", dtype=np.dtype(dtype), change=spoiled(4, 1, value))
    with pytest.raises(InputError, match="NaN or infinity"):
        clips_of(path)


def test_clips_without_rows_or_label_are_refused(tmp_path: Path) -> None:
    def empty(rows: list[ClipRow], features: list[np.ndarray]) -> tuple[list[ClipRow], list[np.ndarray]]:
        features[3] = features[3][:0]
        return rows, features

    def unlabelled(rows: list[ClipRow], features: list[np.ndarray]) -> tuple[list[ClipRow], list[np.ndarray]]:
        return [replace(rows[0], label=-1), *rows[1:]], features

    with pytest.raises(InputError, match="clip v_0_1_1 has no feature rows"):
        clips_of(made_up_cache(tmp_path / "a.h5", change=empty))
    with pytest.raises(InputError, match=r"1 clips have no label \(first: v_0_0_0\)"):
        parts_of(made_up_cache(tmp_path / "b.h5", change=unlabelled))


def test_a_split_without_test_clips_and_an_unknown_split_are_refused(tmp_path: Path) -> None:
    def train_only(rows: list[ClipRow], features: list[np.ndarray]) -> tuple[list[ClipRow], list[np.ndarray]]:
        return rows[:6], features[:6]

    with pytest.raises(InputError, match="6 train and 0 test clips"):
        parts_of(made_up_cache(tmp_path / "a.h5", change=train_only))
    with (
        open_cache(made_up_cache(tmp_path / "b.h5")) as cache,
        pytest.raises(CacheError, match="no split 'x'; this cache has: held"),
    ):
        load_parts(cache, "x", 0.2, 0)


def test_a_cache_without_groups_still_holds_out_clips(tmp_path: Path) -> None:
    parts = parts_of(made_up_cache(tmp_path / "c.h5", clips_a_group=3, change=without_groups))
    assert len(parts.validation) == 9
    assert len(parts.train) == 18


def test_selected_inputs_are_those_with_the_largest_f_of_the_train_part(tmp_path: Path) -> None:
    train = parts_of(made_up_cache(tmp_path / "c.h5", dim=9, clips_a_group=4)).train
    assert select_inputs(train, 0).tolist() == list(range(9))
    assert select_inputs(train, 3).tolist() == [0, 1, 2], "the made-up cache tells classes by its first features"
    means = np.array(
        [train.rows[train.offsets[c] : train.offsets[c + 1]].double().mean(0).numpy() for c in train.clips]
    )
    labels = train.own_labels()
    assert isinstance(labels, np.ndarray)
    classes = [means[labels == label] for label in range(3)]
    between = sum(len(rows) * (rows.mean(0) - means.mean(0)) ** 2 for rows in classes) / 2
    within = sum(((rows - rows.mean(0)) ** 2).sum(0) for rows in classes) / (len(means) - 3)
    best = np.argsort(-between / within)
    for count in range(1, 10):
        assert select_inputs(train, count).tolist() == sorted(best[:count])
    with pytest.raises(InputError, match="--select-inputs 10: there are only 9"):
        select_inputs(train, 10)


def test_constant_features_are_selected_last() -> None:
    rows = torch.randn(20, 4)
    rows[:, [0, 2]] = 3.0
    clips = ClipSet(rows, np.arange(21), torch.arange(20) % 2, np.arange(20))
    assert select_inputs(clips, 2).tolist() == [1, 3]
