"""Some clips of a data set, with the splits of the whole of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from harfeat.datasets.records import Dataset
from harfeat.sampling import uniform
from harfeat.splits import leaking_groups


def without(dataset: Dataset, names: Collection[str]) -> Dataset:
    """The data set without the clips of these names."""
    return take(dataset, [index for index, clip in enumerate(dataset.clips) if clip.name not in names])


def limited(dataset: Dataset, limit: int) -> Dataset:
    """At most `limit` clips, of every class evenly; 0 takes all."""
    if limit == 0 or limit >= len(dataset.clips):
        return dataset
    classes: dict[int, list[int]] = {}
    for index, clip in enumerate(dataset.clips):
        classes.setdefault(clip.label, []).append(index)
    shares = dict.fromkeys(classes, 0)
    while sum(shares.values()) < limit:
        for label in sorted(classes, key=lambda label: shares[label] / len(classes[label])):
            if sum(shares.values()) < limit and shares[label] < len(classes[label]):
                shares[label] += 1
    chosen = sorted(
        members[place]
        for label, members in classes.items()
        if shares[label]
        for place in uniform(len(members), shares[label])
    )
    note = f"limited to {limit} of {len(dataset.clips)} clips"
    return replace(take(dataset, chosen), notes=(*dataset.notes, note))


def take(dataset: Dataset, chosen: Sequence[int]) -> Dataset:
    """The clips at these places; leaking groups are counted anew."""
    if len(chosen) == len(dataset.clips):
        return dataset
    clips = tuple(dataset.clips[index] for index in chosen)
    groups = [clip.group for clip in clips]
    splits = []
    for split in dataset.splits:
        roles = split.roles[list(chosen)]
        splits.append(replace(split, roles=roles, leaking_groups=leaking_groups(roles, groups)))
    return replace(dataset, clips=clips, splits=tuple(splits))
