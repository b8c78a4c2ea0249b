"""The split rules: against the official UCF101 lists, brute force, and properties that users rely on."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harfeat.errors import InputError
from harfeat.splits import (
    TEST,
    TRAIN,
    UNUSED,
    Split,
    default_splits,
    fixed_split,
    group_split,
    leaking_groups,
    listed_split,
    parse_group_list,
    random_split,
    several_split,
    ucf101_splits,
)

Clips = list[tuple[int, str]]
SEEDS = st.integers(0, 2**32)


def clip_lists(groups: int = 6, classes: int = 4, max_size: int = 40) -> st.SearchStrategy[Clips]:
    """Clips as (label, group), where groups may span classes."""
    group = st.integers(1, groups).map(lambda number: f"g{number}")
    return st.lists(st.tuples(st.integers(0, classes - 1), group), min_size=1, max_size=max_size)


def one_class_groups(clips: Clips) -> Clips:
    """The same clips with groups that each belong to one class, as source videos do."""
    return [(label, f"{label}/{group}") for label, group in clips]


def labels_groups(clips: Clips) -> tuple[list[int], list[str]]:
    return [label for label, _ in clips], [group for _, group in clips]


def dividable(clips: Clips) -> bool:
    """Tell whether some class has clips of two groups."""
    return len({group for _, group in clips}) > 1 and max(Counter(c for c, _ in set(clips)).values()) > 1


def cost(clips: Clips, training: Sequence[str]) -> tuple[int, float]:
    """Classes that lack a side, then the summed distance from 60 %: what a group split minimises."""
    one_sided, distance = 0, 0.0
    for label in {label for label, _ in clips}:
        sides = [group in training for other, group in clips if other == label]
        one_sided += all(sides) or not any(sides)
        distance += abs(sum(sides) / len(sides) - 0.6)
    return one_sided, distance


def least_cost(clips: Clips) -> tuple[int, float]:
    groups = sorted({group for _, group in clips})
    subsets = itertools.chain.from_iterable(
        itertools.combinations(groups, size) for size in range(len(groups) + 1)
    )
    return min(cost(clips, subset) for subset in subsets)


def training_of(split: Split, groups: Sequence[str]) -> set[str]:
    return {group for group, role in zip(groups, split.roles, strict=True) if role == TRAIN}


def test_ucf101_rule_equals_the_official_lists_on_every_clip(shared_data: Path) -> None:
    lists = shared_data / "splits" / "ucfTrainTestlist"
    official: dict[int, dict[str, int]] = {1: {}, 2: {}, 3: {}}
    for k, roles in official.items():
        for role, kind in ((TRAIN, "train"), (TEST, "test")):
            for line in (lists / f"{kind}list0{k}.txt").read_text().split("\n"):
                if line.strip():
                    roles[line.split()[0]] = role
    names = sorted(official[1])
    assert len(names) == 13320
    groups = [re.sub(r".*/(.*)_c\d+\.avi", r"\1", name) for name in names]
    splits = ucf101_splits([int(group[-2:]) for group in groups], groups)
    assert [split.name for split in splits] == ["1", "2", "3"]
    for k, split in zip((1, 2, 3), splits, strict=True):
        assert dict(zip(names, split.roles.tolist(), strict=True)) == official[k]
        assert split.leaking_groups == 0
        assert split.seed is None


@given(clip_lists(), SEEDS)
def test_random_split_trains_three_fifths_of_each_class_to_the_nearest_clip(clips: Clips, seed: int) -> None:
    labels, groups = labels_groups(clips)
    split = random_split(labels, groups, seed)
    assert split.name == "random"
    assert split.seed == seed
    assert split.roles.dtype == np.int8
    assert set(split.roles.tolist()) <= {TRAIN, TEST}
    for label, total in Counter(labels).items():
        trained = int((split.roles[np.array(labels) == label] == TRAIN).sum())
        if total == 1:
            assert trained == 1
        else:
            assert 1 <= trained <= total - 1
            assert abs(trained - 0.6 * total) <= 0.5


@given(clip_lists(), SEEDS)
def test_random_split_draws_a_class_without_regard_to_the_others(clips: Clips, seed: int) -> None:
    labels, groups = labels_groups(clips)
    whole = random_split(labels, groups, seed).roles
    kept = [index for index, label in enumerate(labels) if label == labels[0]]
    alone = random_split([labels[0]] * len(kept), [groups[index] for index in kept], seed).roles
    assert whole[kept].tolist() == alone.tolist()


def test_random_split_varies_with_the_seed_and_repeats_for_the_same_seed() -> None:
    labels, groups = [0] * 50 + [1] * 50, [""] * 100
    draws = [tuple(random_split(labels, groups, seed).roles.tolist()) for seed in (0, 1, 2, 0)]
    assert draws[0] == draws[3]
    assert len(set(draws)) == 3
    assert draws[0][:50] != draws[0][50:]


def test_splits_are_the_ones_recorded_for_seed_0() -> None:
    labels = [0] * 10 + [1] * 6
    groups = [f"v{index // 2}" for index in range(16)]
    assert "".join(map(str, random_split(labels, groups, 0).roles)) == "2121221111111221"
    assert "".join(map(str, group_split(labels, groups, 0).roles)) == "2211221111221111"


@given(clip_lists().filter(dividable), SEEDS)
def test_group_split_never_leaks_and_gives_every_clip_a_side(clips: Clips, seed: int) -> None:
    labels, groups = labels_groups(clips)
    split = group_split(labels, groups, seed)
    assert split.name == "group"
    assert split.leaking_groups == 0
    assert not training_of(split, groups) & {g for g, r in zip(groups, split.roles, strict=True) if r == TEST}
    assert set(split.roles.tolist()) == {TRAIN, TEST}


@given(clip_lists(groups=6, classes=3).filter(dividable), SEEDS)
def test_group_split_is_as_near_60_percent_as_any_choice_of_groups(clips: Clips, seed: int) -> None:
    for variant in (clips, one_class_groups(clips)):
        if dividable(variant) and len(set(variant)) <= 12:
            labels, groups = labels_groups(variant)
            got = cost(variant, sorted(training_of(group_split(labels, groups, seed), groups)))
            best = least_cost(variant)
            assert got[0] == best[0]
            assert got[1] == pytest.approx(best[1], abs=1e-6)


@given(clip_lists().filter(dividable).flatmap(lambda clips: st.tuples(st.just(clips), st.permutations(clips))))
def test_group_split_does_not_depend_on_the_order_of_clips(orders: tuple[Clips, Clips]) -> None:
    first, second = (
        training_of(group_split(*labels_groups(clips), 0), labels_groups(clips)[1]) for clips in orders
    )
    assert first == second


@given(clip_lists(groups=4, classes=2).filter(lambda clips: dividable(one_class_groups(clips))), SEEDS)
def test_group_split_of_a_class_is_the_same_in_a_partial_copy(clips: Clips, seed: int) -> None:
    whole = one_class_groups(clips)
    for label in (0, 1):
        part = [clip for clip in whole if clip[0] == label]
        if part and dividable(part):
            groups = labels_groups(part)[1]
            of_part = training_of(group_split(*labels_groups(part), seed), groups)
            of_whole = training_of(group_split(*labels_groups(whole), seed), labels_groups(whole)[1])
            assert of_part == of_whole & set(groups)


def test_group_split_of_many_groups_across_classes_is_close_on_every_class() -> None:
    generator = np.random.default_rng(7)
    clips = [
        (label, f"s{group:02}")
        for group in range(40)
        for label in range(12)
        for _ in range(generator.integers(0, 5))
    ]
    labels, groups = labels_groups(clips)
    split = group_split(labels, groups, 0)
    assert split.leaking_groups == 0
    for label in range(12):
        assert (split.roles[np.array(labels) == label] == TRAIN).mean() == pytest.approx(0.6, abs=0.03)
    assert training_of(group_split(labels, groups, 0), groups) == training_of(split, groups)
    assert training_of(group_split(labels, groups, 1), groups) != training_of(split, groups)


@pytest.mark.parametrize("fraction", [0.05, 0.95])
def test_group_split_keeps_both_sides_filled_however_uneven_the_fraction(fraction: float) -> None:
    labels, groups = [0] * 10 + [1] * 10, ["a"] * 5 + ["b"] * 5 + ["c"] * 2 + ["d"] * 8
    split = group_split(labels, groups, 0, fraction)
    trained = (split.roles == TRAIN).reshape(2, 10).sum(axis=1).tolist()
    assert trained == [5, 2 if fraction < 0.5 else 8]


def test_group_split_of_equal_groups_varies_with_the_seed() -> None:
    labels = [0] * 50
    groups = [f"v{index // 2:02}" for index in range(50)]
    chosen = {frozenset(training_of(group_split(labels, groups, seed), groups)) for seed in range(10)}
    assert len(chosen) == 10
    assert {len(groups) for groups in chosen} == {15}


def test_group_split_scales_to_three_thousand_groups_across_classes() -> None:
    generator = np.random.default_rng(0)
    groups = [f"p{index // 3}" for index in range(9_000)]
    labels = generator.integers(0, 20, 9_000).tolist()
    split = group_split(labels, groups, 0)
    assert split.leaking_groups == 0
    for label in range(20):
        assert (split.roles[np.array(labels) == label] == TRAIN).mean() == pytest.approx(0.6, abs=0.01)


def test_group_split_names_the_classes_that_one_group_keeps_on_one_side() -> None:
    split = group_split([0, 0, 1, 1, 2], ["a", "b", "c", "c", "d"], 0)
    assert split.roles[2:].tolist() == [TRAIN] * 3
    assert split.rule.endswith("class index 1, 2")


@pytest.mark.parametrize(
    ("labels", "groups", "message"),
    [
        ([0, 1, 0], ["a", "a", "a"], "all clips are of one group, 'a'"),
        ([0, 1, 1], ["a", "b", "b"], "every class lies in one group only"),
        ([0, 0, 1], ["a", "", "b"], "1 of 3 clips have no group"),
    ],
)
def test_group_split_refuses_groups_that_cannot_be_divided(
    labels: list[int], groups: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        group_split(labels, groups, 0)


@pytest.mark.parametrize("make", [random_split, group_split])
def test_seed_and_fraction_out_of_range_are_refused(make: Callable[..., Split]) -> None:
    labels, groups = [0, 0], ["a", "b"]
    with pytest.raises(InputError, match="seed must be 0 or more, not -1"):
        make(labels, groups, -1)
    with pytest.raises(InputError, match="must lie between 0 and 1"):
        make(labels, groups, 0, 1.0)


def test_leaking_groups_counts_groups_in_train_and_test_only() -> None:
    roles = np.array([TRAIN, TEST, TRAIN, UNUSED, TEST, TRAIN, TEST], np.int8)
    assert leaking_groups(roles, ["a", "a", "b", "b", "c", "", ""]) == 1
    assert fixed_split("1", roles.tolist(), ["a", "a", "b", "b", "b", "d", "d"], "given").leaking_groups == 3


def test_listed_split_tests_exactly_the_listed_groups() -> None:
    groups = ["08", "9", "14", "15", "25", "08"]
    split = listed_split([0, 1, 0, 1, 0, 1], groups, ("8", "9", "14"))
    assert split.name == "listed"
    assert split.roles.tolist() == [TEST, TEST, TEST, TRAIN, TRAIN, TEST]
    assert split.seed is None
    assert split.leaking_groups == 0


def test_listed_group_text_that_is_no_number_must_match_exactly() -> None:
    assert listed_split([0, 0], ["s1", "s2"], ("s2",)).roles.tolist() == [TRAIN, TEST]
    with pytest.raises(InputError, match=r"test group '2' is not among the 2 groups of the clips \(s1, s2\)"):
        listed_split([0, 0], ["s1", "s2"], ("2",))


def test_unknown_listed_group_is_named_beside_some_that_exist() -> None:
    groups = [str(number) for number in range(25, 7, -1)]
    with pytest.raises(
        InputError, match=r"'7' is not among the 18 groups of the clips \(8, 9, 10, 11, 12, \.\.\.\)"
    ):
        listed_split([0] * 18, groups, parse_group_list("7-14"))


def test_listed_split_refuses_to_leave_train_or_test_empty() -> None:
    with pytest.raises(InputError, match="names every group"):
        listed_split([0, 0], ["1", "2"], ("1", "2"))
    with pytest.raises(InputError, match="is empty"):
        listed_split([0, 0], ["1", "2"], ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8-14", ("8", "9", "10", "11", "12", "13", "14")),
        ("08 - 10", ("8", "9", "10")),
        ("2,4,6,8", ("2", "4", "6", "8")),
        ("a, b", ("a", "b")),
        ("v_biking_01,3-3,v_biking_01", ("v_biking_01", "3")),
        ("s1-s3", ("s1-s3",)),
    ],
)
def test_group_lists_are_read_as_items_and_ranges(text: str, expected: tuple[str, ...]) -> None:
    assert parse_group_list(text) == expected


@pytest.mark.parametrize("text", ["", "1,,2", "3,", "14-8", "1-999999999999"])
def test_malformed_group_lists_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError, match="group list") as caught:
        parse_group_list(text)
    assert "\n" not in str(caught.value)


def test_default_splits_are_random_and_group_and_listed_where_asked() -> None:
    labels, groups = [0] * 6, ["1", "1", "2", "2", "3", "3"]
    plain = default_splits(labels, groups, seed=3)
    assert [split.name for split in plain] == ["random", "group"]
    assert [split.seed for split in plain] == [3, 3]
    listed = default_splits(labels, groups, seed=3, test_groups=("2",))
    assert [split.name for split in listed] == ["random", "group", "listed"]
    assert [split.roles.tolist() for split in listed[:2]] == [split.roles.tolist() for split in plain]


@pytest.mark.parametrize(
    ("groups", "cause"),
    [
        (["", "", ""], "no group split: the clips carry no group"),
        (["a"] * 3, "no group split: all clips are"),
    ],
)
def test_default_splits_say_why_there_is_no_group_split(groups: list[str], cause: str) -> None:
    (split,) = default_splits([0, 0, 1], groups)
    assert split.name == "random"
    assert cause in split.rule


def test_default_splits_refuse_groups_for_a_part_of_the_clips() -> None:
    with pytest.raises(InputError, match="1 of 3 clips have no group"):
        default_splits([0, 0, 1], ["a", "", "b"])


def test_default_splits_refuse_a_list_of_groups_where_clips_have_none() -> None:
    with pytest.raises(InputError, match="--group-pattern"):
        default_splits([0, 0], ["", ""], test_groups=("1",))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["", "a", "b", "c", "d"])), max_size=40),
    SEEDS,
    st.floats(0.05, 0.95),
)
def test_several_labels_are_drawn_by_whole_groups_and_without_the_unlabelled(
    clips: Clips, seed: int, fraction: float
) -> None:
    counts, groups = labels_groups(clips)
    split = several_split(counts, groups, seed, fraction)
    assert [role == UNUSED for role in split.roles] == [count == 0 for count in counts]
    assert split.leaking_groups == leaking_groups(split.roles, groups) == 0
    sizes = Counter(group or str(place) for place, (count, group) in enumerate(clips) if count)
    trained, total = int(np.sum(split.roles == TRAIN)), sum(sizes.values())
    if len(sizes) > 1:
        assert 0 < trained < total
        # No group could be moved whole, or no more than the largest lies between.
        assert abs(trained - fraction * total) <= max(sizes.values()) + 1
    else:
        assert trained == total
    if set(sizes.values()) == {1} and total > 1:
        assert trained == min(max(int(fraction * total + 0.5), 1), total - 1)
    assert several_split(counts, groups, seed, fraction).roles.tolist() == split.roles.tolist()


def test_default_splits_of_several_labels() -> None:
    labels, counts = [-1, 0, -1, 1, -1, 0], [2, 1, 0, 1, 3, 1]
    groups = ["1", "1", "2", "2", "3", "3"]
    drawn, listed = default_splits(labels, groups, seed=1, test_groups=("2",), counts=counts)
    assert (drawn.name, drawn.seed, drawn.leaking_groups, drawn.roles[2]) == ("random", 1, 0, UNUSED)
    assert listed.roles.tolist() == [TRAIN, TRAIN, UNUSED, TEST, TRAIN, TRAIN]
    for split in (drawn, listed):
        assert split.rule.endswith("; 1 clips without any label are unused")
    (alone,) = default_splits(labels, [""] * 6, counts=counts)
    assert Counter(alone.roles.tolist()) == {TRAIN: 3, TEST: 2, UNUSED: 1}
    (none,) = default_splits([-1, -1], ["", ""], counts=[0, 0])
    assert none.roles.tolist() == [UNUSED, UNUSED]
    with pytest.raises(ValueError, match="say how many each has"):
        default_splits(labels, groups)


def test_several_labels_in_one_group_cannot_be_divided() -> None:
    with pytest.raises(InputError, match="of one group or none"):
        group_split([-1, -1, -1], ["a", "a", "b"], 0, counts=[2, 3, 0])
    with pytest.raises(InputError, match="no clip with a label to train on"):
        listed_split([-1, -1], ["a", "b"], ["a"], [2, 0])
