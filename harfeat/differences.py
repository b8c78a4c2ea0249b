"""What two caches have in common and where they differ, down to the clip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harfeat.cache import Cache, CacheError, ClipFeatures, ClipRow
from harfeat.cache.fingerprint import differing_fields
from harfeat.deviation import Deviation, deviation

_COLUMNS = ("label", "group", "sha256", "source_frames", "fps", "damaged")


@dataclass(frozen=True)
class StreamDifference:
    """Features of the clips that both caches have.

    `differing` clips have another hash. Of those with arrays of one shape (`compared`): the largest and the mean
    absolute deviation over all values, and the least and the mean cosine over the rows. `frames`: clips whose
    frame indices differ. `unreadable`: clips that do not match their own hash, in either cache.
    """

    differing: int
    of: int
    first: tuple[str, ...] = ()
    compared: int = 0
    frames: int = 0
    unreadable: int = 0
    largest: float = 0.0
    mean: float = 0.0
    least_cosine: float = 1.0
    mean_cosine: float = 1.0


@dataclass(frozen=True)
class Difference:
    """Where cache B differs from cache A; empty fields where it does not.

    `recipe`, `provenance`: lines 'field: A against B'. `only_a`, `only_b`: clips of one cache alone. `clips`: by
    column, the clips of both that differ in it. `order`: whether their common clips come in another order.
    `streams`: by name; `layouts`: lines on streams that one of them lacks or that have another shape. `classes`,
    `splits`, `failures`: lines.
    """

    equal_content: bool
    recipe: tuple[str, ...] = ()
    provenance: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()
    order: bool = False
    clips: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    splits: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    layouts: tuple[str, ...] = ()
    streams: Mapping[str, StreamDifference] = field(default_factory=dict)


def differences(a: Cache, b: Cache) -> Difference:
    """Compare two open caches. Features are read only of clips whose hashes differ."""
    provenance = tuple(differing_fields(_told(a), _told(b)))
    if a.content == b.content:
        return Difference(True, provenance=provenance)
    rows = [{clip.name: (index, clip) for index, clip in enumerate(cache.clips)} for cache in (a, b)]
    common = [name for name in rows[0] if name in rows[1]]
    pairs = [(rows[0][name], rows[1][name]) for name in common]
    clips = {column: _differing(a, b, column, pairs) for column in _COLUMNS}
    places = [there for _, (there, _) in pairs]
    return Difference(
        False,
        tuple(differing_fields(a.recipe, b.recipe)),
        provenance,
        tuple(_class_lines(a.classes, b.classes)),
        tuple(name for name in rows[0] if name not in rows[1]),
        tuple(name for name in rows[1] if name not in rows[0]),
        places != sorted(places),
        {column: names for column, names in clips.items() if names},
        tuple(_split_lines(a, b, pairs)),
        tuple(_failure_lines(a, b)),
        tuple(_layout_lines(a, b)),
        {
            name: _stream(a, b, name, [(here, there) for (here, _), (there, _) in pairs])
            for name in a.streams
            if name in b.streams
        },
    )


Pairs = Sequence[tuple[tuple[int, ClipRow], tuple[int, ClipRow]]]


def _told(cache: Cache) -> dict[str, Any]:
    return {key: value for key, value in cache.provenance.items() if key != "recipe"}


def _differing(a: Cache, b: Cache, column: str, pairs: Pairs) -> tuple[str, ...]:
    return tuple(
        ours.name for (_, ours), (_, theirs) in pairs if _value(a, ours, column) != _value(b, theirs, column)
    )


def _value(cache: Cache, clip: ClipRow, column: str) -> object:
    """Labels, one or several, are compared by the classes they name; one NaN is as good as another."""
    if column == "label":
        return {cache.classes[label] for label in clip.all_labels}
    value = getattr(clip, column)
    return None if value != value else value  # noqa: PLR0124


def _class_lines(a: Sequence[str], b: Sequence[str]) -> Iterator[str]:
    for side, ours, theirs in (("A", a, b), ("B", b, a)):
        for name in ours:
            if name not in theirs:
                yield f"{name}: in {side} only"
    if sorted(a) == sorted(b) and tuple(a) != tuple(b):
        yield "the same, in another order"


def _split_lines(a: Cache, b: Cache, pairs: Pairs) -> Iterator[str]:
    for name in (*a.splits, *(name for name in b.splits if name not in a.splits)):
        if name not in a.splits or name not in b.splits:
            yield f"{name}: in {'A' if name in a.splits else 'B'} only"
            continue
        ours, theirs = a.splits[name], b.splits[name]
        moved = sum(int(ours.roles[here] != theirs.roles[there]) for (here, _), (there, _) in pairs)
        if moved:
            yield f"{name}: {moved} of {len(pairs)} clips have another role"
        for key in ("rule", "seed", "leaking_groups"):
            if getattr(ours, key) != getattr(theirs, key):
                yield f"{name}.{key}: {getattr(ours, key)!r} against {getattr(theirs, key)!r}"


def _failure_lines(a: Cache, b: Cache) -> Iterator[str]:
    reasons = [{failure.name: failure.reason for failure in cache.failures} for cache in (a, b)]
    for name in sorted(reasons[0].keys() | reasons[1].keys()):
        if name not in reasons[0] or name not in reasons[1]:
            side = 0 if name in reasons[0] else 1
            yield f"{name}: failed in {'AB'[side]} only ({reasons[side][name]})"
        elif reasons[0][name] != reasons[1][name]:
            yield f"{name}: {reasons[0][name]!r} against {reasons[1][name]!r}"


def _layout_lines(a: Cache, b: Cache) -> Iterator[str]:
    for name in (*a.streams, *(name for name in b.streams if name not in a.streams)):
        if name not in a.streams or name not in b.streams:
            yield f"{name}: in {'A' if name in a.streams else 'B'} only"
        elif (a.dim(name), a.dtype(name)) != (b.dim(name), b.dtype(name)):
            yield f"{name}: {a.dim(name)} {a.dtype(name)} against {b.dim(name)} {b.dtype(name)}"


def _stream(a: Cache, b: Cache, name: str, places: Sequence[tuple[int, int]]) -> StreamDifference:
    ours, theirs = a.clip_hashes(name), b.clip_hashes(name)
    same_type = (a.dim(name), a.dtype(name)) == (b.dim(name), b.dtype(name))
    other = [(here, there) for here, there in places if not same_type or (ours[here] != theirs[there]).any()]
    found: list[Deviation] = []
    total, values, cosines, rows = 0.0, 0, 0.0, 0
    frames = unreadable = 0
    for here, there in other:
        one, two = _read(a, here, name), _read(b, there, name)
        if one is None or two is None:
            unreadable += 1
            continue
        frames += not np.array_equal(one.frame_index, two.frame_index)
        if one.features.shape != two.features.shape:
            continue
        apart = deviation(one.features, two.features)
        found.append(apart)
        total, values = total + apart.mean * one.features.size, values + one.features.size
        cosines, rows = cosines + apart.mean_cosine * len(one.features), rows + len(one.features)
    return StreamDifference(
        len(other),
        len(places),
        tuple(a.clips[here].name for here, _ in other[:5]),
        len(found),
        int(frames),
        unreadable,
        max((one.largest for one in found), default=0.0),
        total / values if values else 0.0,
        min((one.cosine for one in found), default=1.0),
        cosines / rows if rows else 1.0,
    )


def _read(cache: Cache, clip: int, stream: str) -> ClipFeatures | None:
    """None where the features do not match their hash; `harfeat verify` tells more."""
    try:
        return cache.read(clip, stream)
    except CacheError:
        return None
