"""Several caches of different clips become one: slices of one extraction, or data sets extracted alike.

Files are read clip by clip, each clip checked against its hash, so memory does not grow with the caches.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harfeat.cache.fingerprint import differing_fields
from harfeat.cache.labels import label_fields
from harfeat.cache.manifest import MANIFEST, read_manifest
from harfeat.cache.reader import open_cache
from harfeat.cache.schema import CacheHead, ClipRow, Failure
from harfeat.cache.sharded import path_of
from harfeat.cache.shards import Shards
from harfeat.cache.writer import write_cache
from harfeat.errors import InputError
from harfeat.splits import UNUSED, Split, leaking_groups

SLICE_FOLDERS = "slice-*-of-*"

Slice = tuple[int, int]
"""(i, n): the i-th of n independent parts of an extraction, counted from 0."""


@dataclass(frozen=True)
class MergeResult:
    """What a merge wrote: its content hash, how many clips, what they lack, the splits, and notes for a person."""

    content: str
    clips: int
    failures: tuple[Failure, ...]
    splits: tuple[Split, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Source:
    path: Path
    head: CacheHead
    content: str
    own: Slice | None  # where it is itself a slice
    slices: tuple[Slice, ...]  # all that are in it
    files: tuple[Path, ...]  # those that hold its features


def merge(
    sources: Sequence[Path], out: Path, allow_missing: bool = False, drop_splits: Collection[str] = ()
) -> MergeResult:
    """Join caches of disjoint clips and one fingerprint in the new file `out`, clips sorted by name.

    A source is a cache (a file or a complete folder), or a folder that holds such folders, e.g. those of
    `harfeat extract --shard I/N`; all N slices must be there unless `allow_missing`, which records each absent one
    among the failures. Classes that differ are joined in the order of their first appearance. A split is joined
    where rule and seed are the same, and left out where named in `drop_splits`; a source that lacks it has its
    clips unused in it. Merging all slices of an extraction gives the content of the extraction in one run.

    Raises InputError: a source that is unfinished or damaged, a field in which fingerprints differ, a clip that
    stands in two sources, streams or splits that differ, a slice that is absent or was cut from other videos than
    the rest, or `out` exists.
    """
    if out.exists():
        raise InputError(f"{out} exists: delete it or choose another --out")
    found = [_read(path) for path in expanded(sources)]
    _refuse_other_recipes(found)
    owners = _owners(found)
    _refuse_other_cuts(found)
    absent = _absent_slices(found)
    if absent and not allow_missing:
        raise InputError(
            f"slices missing: {', '.join(f'{i + 1}/{n}' for i, n in absent)}; extract them, or say --allow-missing"
        )
    if not owners:
        raise InputError("none of the sources holds a clip")
    head, notes = _joined(found, owners, absent, drop_splits)
    shards = Shards()
    try:
        for source in found:
            for path in source.files:
                shards.add(path)
        names = [clip.name for clip in head.clips]
        layouts = shards.layouts(names)
        features = ({stream: shards.read(name, stream) for stream in layouts} for name in names)
        write_cache(out, head, layouts, features)
    finally:
        shards.close()
    with open_cache(out) as cache:
        content = cache.content
    return MergeResult(content, len(head.clips), tuple(head.failures), tuple(head.splits), tuple(notes))


def expanded(sources: Iterable[Path]) -> list[Path]:
    """The caches that are meant: a folder without a manifest stands for the folders of caches in it."""
    found: list[Path] = []
    for source in sources:
        if not source.is_dir() or (source / MANIFEST).exists():
            found.append(source)
            continue
        below = {path for path in source.glob(SLICE_FOLDERS) if path.is_dir()}
        below |= {path.parent for path in source.glob(f"*/{MANIFEST}")}
        if not below:
            raise InputError(f"{source}: holds neither a {MANIFEST} nor folders of slices ({SLICE_FOLDERS})")
        found += sorted(below)
    if len({path.resolve() for path in found}) != len(found):
        raise InputError("a source is named twice; name every cache once")
    return found


def slice_name(part: Slice) -> str:
    """How a slice is called: `slice-1-of-4` is (0, 4)."""
    return f"slice-{part[0] + 1}-of-{part[1]}"


def _read(path: Path) -> _Source:
    with open_cache(path) as cache:
        head, content = cache.head, cache.content
    slices = [part for entry in _merged_from(head.provenance) for part in _slices(entry)]
    files, own = [path], None
    if path.is_dir():
        manifest = read_manifest(path)
        own = manifest.slice
        slices += [own] if own is not None else []
        files = [path_of(path, entry) for entry in manifest.files if entry.kind != "head"]
    return _Source(path, head, content, own, tuple(slices), tuple(files))


def _merged_from(provenance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a merged cache says that it was merged from; nothing where it does not say so in this way."""
    entries = provenance.get("merged_from")
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _slices(entry: Mapping[str, Any]) -> list[Slice]:
    told = entry.get("slices")
    pairs = [pair for pair in told if isinstance(pair, list) and len(pair) == 2] if isinstance(told, list) else []
    return [(i, n) for i, n in pairs if isinstance(i, int) and isinstance(n, int) and 0 <= i < n < 1 << 20]


def _refuse_other_recipes(sources: Sequence[_Source]) -> None:
    first = sources[0]
    for other in sources[1:]:
        if difference := differing_fields(first.head.recipe, other.head.recipe):
            raise InputError(
                f"{first.path} and {other.path} were made otherwise ({'; '.join(difference)}): "
                "features of different fingerprints are never mixed"
            )


def _owners(sources: Sequence[_Source]) -> dict[str, int]:
    """The source of every clip, by name."""
    owners: dict[str, int] = {}
    for number, source in enumerate(sources):
        for clip in source.head.clips:
            other = owners.setdefault(clip.name, number)
            if other != number:
                raise InputError(
                    f"clip {clip.name} stands in {sources[other].path} and in {source.path}: "
                    "only caches of different clips can be merged"
                )
    return owners


def _refuse_other_cuts(sources: Sequence[_Source]) -> None:
    """Slice i of n is every n-th clip from the i-th of the data set, in the order of names.

    Where it is not so, videos came or went between the slices' extractions, and clips may be in none of them.
    """
    sliced = [(*source.own, source) for source in sources if source.own is not None]
    for count in sorted({n for _, n, _ in sliced}):
        slices = {i: source for i, n, source in sliced if n == count}
        # Some are absent; or two data sets have as many slices each, and nobody could say which is which.
        if len(slices) != count or count != sum(n == count for _, n, _ in sliced):
            continue
        names = sorted((name, i) for i, source in slices.items() for name in _names(source.head))
        for place, (name, i) in enumerate(names):
            if i != place % count:
                raise InputError(
                    f"{slices[i].path}: clip {name} belongs to slice {place % count + 1}/{count}: videos came or "
                    "went between the slices' extractions, repeat them"
                )


def _names(head: CacheHead) -> list[str]:
    """All clips that were to be extracted."""
    return [clip.name for clip in head.clips] + [failure.name for failure in head.failures]


def _absent_slices(sources: Sequence[_Source]) -> list[Slice]:
    there = {part for source in sources for part in source.slices}
    return [(i, n) for n in sorted({n for _, n in there}) for i in range(n) if (i, n) not in there]


def _joined(
    sources: Sequence[_Source], owners: Mapping[str, int], absent: Sequence[Slice], drop: Collection[str]
) -> tuple[CacheHead, list[str]]:
    """The head of the merged cache, and notes."""
    notes: list[str] = []
    classes = tuple(dict.fromkeys(name for source in sources for name in source.head.classes))
    if any(tuple(source.head.classes) != classes for source in sources):
        notes.append(f"classes differ: {len(classes)} in the order of their first appearance, labels renumbered")
    places = {name: place for place, name in enumerate(classes)}
    rows: dict[str, ClipRow] = {}
    for source in sources:
        number = [places[name] for name in source.head.classes]
        for clip in source.head.clips:
            label, labels = label_fields(number[label] for label in clip.all_labels)
            rows[clip.name] = replace(clip, label=label, labels=labels)
    clips = [rows[name] for name in sorted(rows)]
    splits = _joined_splits(sources, clips, drop, notes)
    first = sources[0].head
    provenance = {**first.provenance, "merged_from": [_told(source, first.provenance) for source in sources]}
    failures = _joined_failures(sources, owners, absent)
    return CacheHead(first.recipe, classes, clips, splits, failures, provenance), notes


def _told(source: _Source, first: Mapping[str, Any]) -> dict[str, Any]:
    """What the merged cache keeps of a source: enough to find it again, and how its provenance differs."""
    earlier = "merged_from"
    ours = {key: value for key, value in source.head.provenance.items() if key != earlier}
    theirs = {key: value for key, value in first.items() if key != earlier}
    told: dict[str, Any] = {
        "name": source.path.name,
        "content": source.content,
        "clips": len(source.head.clips),
        "slices": [list(part) for part in source.slices],
        "differs": differing_fields(ours, theirs),
    }
    return told | ({earlier: source.head.provenance[earlier]} if earlier in source.head.provenance else {})


def _joined_failures(
    sources: Sequence[_Source], owners: Mapping[str, int], absent: Sequence[Slice]
) -> tuple[Failure, ...]:
    """What is still lacking; a slice that is absent must not be a silent gap."""
    there = {slice_name(part) for source in sources for part in source.slices} | set(owners)
    failures = {failure.name: failure for source in sources for failure in source.head.failures}
    failures |= {name: Failure(name, "this slice was absent when merged") for name in map(slice_name, absent)}
    return tuple(failures[name] for name in sorted(failures.keys() - there))


def _joined_splits(
    sources: Sequence[_Source], clips: Sequence[ClipRow], drop: Collection[str], notes: list[str]
) -> tuple[Split, ...]:
    by_source = [{split.name: split for split in source.head.splits} for source in sources]
    names = dict.fromkeys(name for splits in by_source for name in splits)
    if unknown := [name for name in drop if name not in names]:
        raise InputError(f"--drop-split {unknown[0]}: no source has it; there are: {', '.join(names) or 'none'}")
    groups = [clip.group for clip in clips]
    joined = []
    for name in (name for name in names if name not in drop):
        roles: dict[str, int] = {}
        one: tuple[Path, Split] | None = None
        for source, splits in zip(sources, by_source, strict=True):
            if name not in splits:
                if source.head.clips:
                    count = len(source.head.clips)
                    notes.append(f"split {name}: the {count} clips of {source.path} lack it and are unused in it")
                continue
            split = splits[name]
            one = one or (source.path, split)
            _refuse_other_rule(one, (source.path, split))
            roles |= zip((clip.name for clip in source.head.clips), split.roles.tolist(), strict=True)
        assert one is not None
        column = np.array([roles.get(clip.name, UNUSED) for clip in clips], np.int8)
        joined.append(replace(one[1], roles=column, leaking_groups=leaking_groups(column, groups)))
    return tuple(joined)


def _refuse_other_rule(one: tuple[Path, Split], other: tuple[Path, Split]) -> None:
    for what in ("rule", "seed"):
        ours, theirs = getattr(one[1], what), getattr(other[1], what)
        if ours != theirs:
            raise InputError(
                f"split {one[1].name} has the {what} {ours!r} in {one[0]} and {theirs!r} in {other[0]}: "
                f"leave it out with --drop-split {one[1].name} (`harfeat split` can cut it anew)"
            )
