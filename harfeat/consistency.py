"""Whether the labels, groups, splits and failures of a cache make sense together: no features, no files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from harfeat.cache import Cache, ClipRow, Failure
from harfeat.findings import NOTE, OK, PROBLEM, WARNING, Finding, some
from harfeat.splits import TEST, TRAIN, Split


def check_labels(classes: Sequence[str], clips: Sequence[ClipRow]) -> Iterator[Finding]:
    """Labels within the classes, classes with clips. Opening a cache refuses labels out of range."""
    counts = Counter(label for clip in clips for label in clip.all_labels)
    without = [name for index, name in enumerate(classes) if not counts[index]]
    present = len(classes) - len(without)
    range_ = f", {min(counts.values())} to {max(counts.values())} a class" if counts else ""
    yield Finding(OK, "labels", f"{len(clips)} clips in {present} of {len(classes)} classes{range_}")
    if without:
        yield Finding(NOTE, "labels", f"{len(without)} classes have no clip: {some(without)}")
    several = sum(len(clip.labels) > 1 for clip in clips)
    none = [clip.name for clip in clips if not clip.all_labels]
    if several:
        mean = sum(counts.values()) / len(clips)
        yield Finding(NOTE, "labels", f"{several} clips have several labels, {mean:.2f} a clip in the mean of all")
    if none:
        yield Finding(NOTE, "labels", f"{len(none)} clips have no label: {some(none)}")


def check_groups(clips: Sequence[ClipRow]) -> Iterator[Finding]:
    """Groups for all clips or for none, each in plain words."""
    groups = {clip.group for clip in clips} - {""}
    without = [clip.name for clip in clips if not clip.group]
    if not groups:
        yield Finding(NOTE, "groups", "no clip has a group, so leaks of source videos cannot be counted")
        return
    if without:
        yield Finding(WARNING, "groups", f"{len(without)} clips have none, though others have: {some(without)}")
    odd = sorted(group for group in groups if group != group.strip() or not group.isprintable())
    if odd:
        yield Finding(WARNING, "groups", f"{len(odd)} names have odd characters: {some(list(map(repr, odd)))}")
    if not without and not odd:
        yield Finding(OK, "groups", f"{len(groups)}, one for every clip")


def check_split(split: Split, classes: Sequence[str], clips: Sequence[ClipRow]) -> Iterator[Finding]:
    """Both sides there, every tested class trained. Opening a cache counts the leaking groups again."""
    check = f"split {split.name}"
    train, test = (int(np.sum(split.roles == role)) for role in (TRAIN, TEST))
    empty = [side for side, count in (("train", train), ("test", test)) if not count]
    if empty:
        yield Finding(WARNING, check, f"no clip in {' and none in '.join(empty)}")
    sides = {
        role: {
            label
            for clip, is_role in zip(clips, split.roles == role, strict=True)
            if is_role
            for label in clip.all_labels
        }
        for role in (TRAIN, TEST)
    }
    untrained = [classes[label] for label in sorted(sides[TEST] - sides[TRAIN])]
    if untrained and train:
        yield Finding(WARNING, check, f"{len(untrained)} classes are tested but not trained: {some(untrained)}")
    if split.leaking_groups:
        shared = _groups(split, clips, TRAIN) & _groups(split, clips, TEST)
        yield Finding(
            WARNING,
            check,
            f"{split.leaking_groups} groups have clips in both train and test, which overstates accuracy: "
            f"{some(sorted(shared))}",
        )
    elif not empty:
        yield Finding(OK, check, f"{train} train, {test} test, no leaking group")


def check_copies(cache: Cache) -> Iterator[Finding]:
    """Clips that are byte for byte one video, or one row of features, with clips on both sides of a split."""
    keys = [clip.sha256 for clip in cache.clips]
    what = "video"
    if not all(keys):
        if not cache.streams:
            return
        keys, what = [table.tobytes().hex() for table in cache.clip_hashes(cache.streams[0])], "features"
    copies = {key for key, count in Counter(keys).items() if count > 1}
    if not copies:
        yield Finding(OK, "copies", f"no two clips have the same {what}")
        return
    twins = [clip.name for clip, key in zip(cache.clips, keys, strict=True) if key in copies]
    yield Finding(NOTE, "copies", f"{len(twins)} clips share their {what} with another: {some(twins)}")
    for split in cache.splits.values():
        sides = [
            {key for key, value in zip(keys, split.roles, strict=True) if value == role} & copies
            for role in (TRAIN, TEST)
        ]
        if shared := sides[0] & sides[1]:
            named: dict[str, list[str]] = {}
            for clip, key in zip(cache.clips, keys, strict=True):
                if key in shared:
                    named.setdefault(key, []).append(clip.name)
            equal = some([" = ".join(names) for names in named.values()])
            text = f"{len(shared)} times the same {what} on both sides, train and test: {equal}"
            yield Finding(WARNING, f"split {split.name}", text)


def check_failures(clips: Sequence[ClipRow], failures: Sequence[Failure]) -> Iterator[Finding]:
    """Clips that the data set has and the cache lacks."""
    both = sorted({clip.name for clip in clips} & {failure.name for failure in failures})
    if both:
        yield Finding(PROBLEM, "failures", f"{len(both)} clips are both there and told as failed: {some(both)}")
    if failures:
        told = [f"{failure.name} ({failure.reason})" for failure in failures]
        yield Finding(WARNING, "failures", f"{len(failures)} clips of the data set are missing: {some(told)}")
    else:
        yield Finding(OK, "failures", "none")


def _groups(split: Split, clips: Sequence[ClipRow], role: int) -> set[str]:
    pairs = zip(clips, split.roles, strict=True)
    return {clip.group for clip, value in pairs if value == role} - {""}
