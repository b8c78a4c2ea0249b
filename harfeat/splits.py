"""Which clips train and which test: pure rules over labels and groups, no files.

A group is the source video (or the subject) that clips share. A split that has clips of one group on
both sides overstates accuracy, so every split carries the number of such leaking groups.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harfeat.errors import InputError
from harfeat.group_balance import training_groups

UNUSED, TRAIN, TEST = 0, 1, 2
"""Roles of a clip, as the HMDB51 lists number them and the cache file stores them."""

_LONGEST_RANGE = 100_000
_SHOWN_GROUPS = 5


@dataclass(frozen=True, eq=False)
class Split:
    """One way to divide the V clips of a data set."""

    name: str
    roles: NDArray[np.int8]
    """(V,): UNUSED, TRAIN or TEST."""
    rule: str
    """One sentence: how the split came about."""
    seed: int | None
    """None where no chance is involved."""
    leaking_groups: int
    """Groups with clips in both train and test."""


def leaking_groups(roles: NDArray[np.int8], groups: Sequence[str]) -> int:
    """Count the groups with clips in both train and test; clips without a group ("") do not count."""
    train = {group for group, role in zip(groups, roles, strict=True) if role == TRAIN}
    test = {group for group, role in zip(groups, roles, strict=True) if role == TEST}
    return len((train & test) - {""})


def fixed_split(name: str, roles: Sequence[int], groups: Sequence[str], rule: str) -> Split:
    """Return a split that is given rather than drawn, with its leaking groups counted."""
    array = np.asarray(roles, np.int8)
    return Split(name, array, rule, None, leaking_groups(array, groups))


def random_split(labels: Sequence[int], groups: Sequence[str], seed: int, train_fraction: float = 0.6) -> Split:
    """Return the split "random": a seeded draw of `train_fraction` of each class, whatever the groups.

    Of a class's n clips, floor(train_fraction * n + 1/2) train, though at least one stays on each side;
    the only clip of a class trains. A class's draw depends on its own clips, its label and the seed.

    Args:
        labels: (V,), -1 or more.
        groups: (V,), only to count the leaks.
        seed: 0 or more.
        train_fraction: strictly between 0 and 1.

    Raises:
        InputError: seed or fraction out of range.
    """
    _check_settings(seed, train_fraction)
    classes = np.asarray(labels, np.int64)
    roles = np.full(len(classes), TEST, np.int8)
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        shuffled = np.random.default_rng([seed, label + 1]).permutation(members)
        roles[shuffled[: _training_clips(len(members), train_fraction)]] = TRAIN
    rule = (
        f"a random {_ratio(train_fraction)} draw of each class's clips (seed {seed}), rounded to the nearest "
        "clip with at least one on each side; the only clip of a class trains"
    )
    return Split("random", roles, rule, seed, leaking_groups(roles, groups))


def group_split(
    labels: Sequence[int],
    groups: Sequence[str],
    seed: int,
    train_fraction: float = 0.6,
    counts: Sequence[int] | None = None,
) -> Split:
    """Return the split "group": whole groups on one side, each class near `train_fraction`.

    Groups may belong to one class (source videos) or span classes (subjects). Every class is on both
    sides wherever its groups allow; a class that lies in one group only is on one side, and the rule says
    so. How near the fraction is met: `harfeat.group_balance.training_groups`.

    Args:
        labels: (V,), -1 or more.
        groups: (V,), none of them empty.
        seed: 0 or more; chooses among equally good answers.
        train_fraction: strictly between 0 and 1.
        counts: (V,) labels of each clip, where some have not exactly one: then as `several_split` does it.

    Raises:
        InputError: a clip without a group, or no class with clips in two groups.
    """
    _check_settings(seed, train_fraction)
    _check_groups(groups)
    if len(set(groups)) == 1:
        raise InputError(f"all clips are of one group, {groups[0]!r}; at least two are needed to divide them")
    if counts is not None:
        split = several_split(counts, groups, seed, train_fraction, "group")
        if not (split.roles == TEST).any():
            raise InputError("the clips with labels are of one group or none; at least two are needed")
        return split
    training = training_groups(labels, groups, train_fraction, seed)
    roles = np.array([TRAIN if group in training else TEST for group in groups], np.int8)
    if not (roles == TEST).any():
        raise InputError("every class lies in one group only; some class must have two or more")
    rule = (
        f"whole groups on one side, each class as near {_ratio(train_fraction)} as whole groups allow "
        f"(seed {seed})"
    )
    classes = np.asarray(labels, np.int64)
    one_sided = [int(label) for label in np.unique(classes) if len(np.unique(roles[classes == label])) == 1]
    if one_sided:
        rule += f"; on one side only, for want of groups: class index {', '.join(map(str, one_sided))}"
    return Split("group", roles, rule, seed, leaking_groups(roles, groups))


def listed_split(
    labels: Sequence[int], groups: Sequence[str], test_groups: Sequence[str], counts: Sequence[int] | None = None
) -> Split:
    """Return the split "listed": the clips of the listed groups test, all others train.

    Of clips with several labels `counts` (V,) says how many each has; those without any are unused.

    A listed text names the group that equals it; where both are digits only, they are compared as
    numbers, so "8" names the group "08" as well.

    Raises:
        InputError: no group listed, a listed group that no clip has, nothing left to train on, or a
            clip without a group.
    """
    if not test_groups:
        raise InputError("the list of test groups is empty; name at least one group")
    if len(labels) != len(groups):
        raise ValueError(f"{len(labels)} labels for {len(groups)} groups")
    _check_groups(groups)
    existing = {_group_key(group) for group in groups}
    for text in test_groups:
        if _group_key(text) not in existing:
            some = sorted(set(groups), key=_natural_order)
            shown = ", ".join(some[:_SHOWN_GROUPS]) + (", ..." if len(some) > _SHOWN_GROUPS else "")
            raise InputError(f"test group {text!r} is not among the {len(some)} groups of the clips ({shown})")
    wanted = {_group_key(text) for text in test_groups}
    roles = [TEST if _group_key(group) in wanted else TRAIN for group in groups]
    if TRAIN not in roles:
        raise InputError("the list of test groups names every group; leave at least one to train on")
    rule = f"the clips of the listed groups test ({', '.join(test_groups)}), all others train"
    if counts is not None and 0 in counts:
        roles = [role if count else UNUSED for role, count in zip(roles, counts, strict=True)]
        if TRAIN not in roles:
            raise InputError("the list of test groups leaves no clip with a label to train on")
        rule += f"; {list(counts).count(0)} clips without any label are unused"
    return fixed_split("listed", roles, groups, rule)


def several_split(
    counts: Sequence[int], groups: Sequence[str], seed: int, train_fraction: float = 0.6, name: str = "random"
) -> Split:
    """Return a seeded draw of `train_fraction` of the clips that have any number of labels.

    Not of each class, since a clip belongs to several. Groups are never divided; a clip without one ("") is drawn
    by itself. Clips without any label are unused. Groups are taken in a drawn order, each where it brings the
    trained clips nearer to their share; both sides get one wherever there are two.

    Args:
        counts: (V,), labels of each clip.
        groups: (V,).
        seed: 0 or more.
        train_fraction: strictly between 0 and 1.
        name: of the split.

    Raises:
        InputError: seed or fraction out of range.
    """
    _check_settings(seed, train_fraction)
    members: dict[tuple[str, int], list[int]] = {}
    for clip, (count, group) in enumerate(zip(counts, groups, strict=True)):
        if count:
            members.setdefault((group, -1 if group else clip), []).append(clip)
    total = sum(map(len, members.values()))
    wanted = _training_clips(total, train_fraction)
    # By their names, so that the order of the clips in the file does not matter.
    units = [members[key] for key in sorted(members)]
    roles = np.full(len(counts), UNUSED, np.int8)
    training: set[int] = set()
    trained = 0
    for place in np.random.default_rng([seed]).permutation(len(units)).tolist():
        size = len(units[place])
        if abs(trained + size - wanted) <= abs(trained - wanted) and (trained + size < total or len(units) == 1):
            training.add(place)
            trained += size
    if units and not training:
        training = {min(range(len(units)), key=lambda place: len(units[place]))}
    for place, unit in enumerate(units):
        roles[unit] = TRAIN if place in training else TEST
    rule = (
        f"a random {_ratio(train_fraction)} draw of the clips, which may have several labels (seed {seed}); "
        "groups are not divided"
    )
    if unlabelled := len(counts) - total:
        rule += f"; {unlabelled} clips without any label are unused"
    return Split(name, roles, rule, seed, leaking_groups(roles, groups))


def parse_group_list(text: str) -> tuple[str, ...]:
    """Read a list of groups: items between commas, each a group or a range of numbers.

    "8-14" (digits, hyphen, digits) is always the range "8", "9", ..., "14", ends included; any other item
    stands for itself. Spaces around items do not count, and an item named twice is kept once.

    >>> parse_group_list("8-10, s2")
    ('8', '9', '10', 's2')

    Raises:
        InputError: an empty item, or a range that runs backwards or is absurdly long.
    """
    found: list[str] = []
    for item in (part.strip() for part in text.split(",")):
        if not item:
            raise InputError(f"empty item in the group list {text!r}; write it like 8-14 or 2,4,6,8")
        bounds = re.fullmatch(r"([0-9]{1,18})\s*-\s*([0-9]{1,18})", item)
        if bounds is None:
            found.append(item)
            continue
        first, last = int(bounds[1]), int(bounds[2])
        if not 0 <= last - first < _LONGEST_RANGE:
            raise InputError(
                f"bad range {item!r} in the group list: it must run upwards over at most {_LONGEST_RANGE} numbers"
            )
        found.extend(str(number) for number in range(first, last + 1))
    return tuple(dict.fromkeys(found))


def ucf101_splits(group_numbers: Sequence[int], groups: Sequence[str]) -> tuple[Split, Split, Split]:
    """Return the official UCF101 splits "1", "2" and "3".

    The groups 7(k-1)+1 .. 7k test in split k and all others train, which is what the official lists say
    of every one of the 13320 clips.

    Args:
        group_numbers: (V,), the number after "_g" in the clip's name.
        groups: (V,), the full group text, to count leaks.
    """
    first, second, third = (_ucf101_split(k, group_numbers, groups) for k in (1, 2, 3))
    return first, second, third


def default_splits(
    labels: Sequence[int],
    groups: Sequence[str],
    *,
    seed: int = 0,
    test_groups: Sequence[str] = (),
    counts: Sequence[int] | None = None,
) -> tuple[Split, ...]:
    """Return the splits of a data set that has no official ones: "random", "group" and perhaps "listed".

    "group" is left out where it cannot be made (clips without groups, or one group only); the rule of
    "random" then says why. "listed" is made where test groups are given. Where clips have several labels, or none,
    `counts` (V,) says how many each has, and there is no "group": "random" does not divide groups
    (`several_split`). Clips without any label are unused.

    Raises:
        InputError: seed out of range, groups for a part of the clips only, or a bad list of test groups.
    """
    if counts is None and min(labels, default=0) < 0:
        raise ValueError("some clips have no single label: say how many each has")
    split = random_split(labels, groups, seed) if counts is None else several_split(counts, groups, seed)
    if not any(groups):
        if test_groups:
            raise InputError(
                "test groups are listed but the clips have no groups; "
                "give --group-pattern (folder) or --groups (import)"
            )
        if counts is not None:
            return (split,)
        return (replace(split, rule=f"{split.rule}; no group split: the clips carry no group"),)
    _check_groups(groups)
    splits = [split]
    if counts is None:
        try:
            splits.append(group_split(labels, groups, seed))
        except InputError as error:
            splits = [replace(split, rule=f"{split.rule}; no group split: {error}")]
    if test_groups:
        splits.append(listed_split(labels, groups, test_groups, counts))
    return tuple(splits)


def _ucf101_split(k: int, group_numbers: Sequence[int], groups: Sequence[str]) -> Split:
    first, last = 7 * (k - 1) + 1, 7 * k
    roles = [TEST if first <= number <= last else TRAIN for number in group_numbers]
    return fixed_split(str(k), roles, groups, f"official split {k}: groups {first}-{last} test, all others train")


def _training_clips(clips: int, train_fraction: float) -> int:
    if clips == 1:
        return 1
    return min(max(int(train_fraction * clips + 0.5), 1), clips - 1)


def _ratio(train_fraction: float) -> str:
    return f"{100 * train_fraction:g}:{100 * (1 - train_fraction):g}"


def _group_key(text: str) -> str | int:
    return int(text) if text.isascii() and text.isdigit() else text


def _natural_order(text: str) -> tuple[int, str]:
    key = _group_key(text)
    return (key, "") if isinstance(key, int) else (-1, text)


def _check_settings(seed: int, train_fraction: float) -> None:
    if seed < 0:
        raise InputError(f"the split seed must be 0 or more, not {seed}")
    if not 0 < train_fraction < 1:
        raise InputError(f"the training fraction must lie between 0 and 1, not at {train_fraction}")


def _check_groups(groups: Sequence[str]) -> None:
    without = sum(not group for group in groups)
    if without or not len(groups):
        raise InputError(f"{without} of {len(groups)} clips have no group; a split by group needs one for each")
