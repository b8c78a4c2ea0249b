"""Other splits for a cache that is finished: features, labels and fingerprint stay as they are, bit for bit."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harfeat.cache import ROLES, Cache, open_cache, write_cache
from harfeat.datasets import REGISTRY, Clip
from harfeat.errors import InputError
from harfeat.splits import (
    UNUSED,
    Split,
    fixed_split,
    group_split,
    leaking_groups,
    listed_split,
    random_split,
    several_split,
)

OFFICIAL = tuple(name for name, definition in REGISTRY.items() if definition.official_splits is not None)
"""The data sets that have official splits."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")
_ROLE_OF = {**ROLES, **{str(role): role for role in ROLES.values()}}
_MOST_BYTES = 256 << 20


@dataclass(frozen=True)
class SplitChanges:
    """What is to be cut anew; everything that is named is made.

    `random`, `group`: seeded draws of `train_share` (by default 0.6) of each class, by clips or by whole groups,
    or where clips have several labels of all clips, by whole groups in both cases, without those of no label;
    `test_groups`: these groups test ("listed"); `official`: the splits of this data set (`OFFICIAL`), from the
    folder `lists`; `file`: roles from a file, see `read_roles`. `name` is what a single new split is called
    instead. `drop` names splits that go.
    """

    random: bool = False
    group: bool = False
    train_share: float | None = None
    seed: int | None = None
    test_groups: tuple[str, ...] = ()
    official: str | None = None
    lists: Path | None = None
    file: Path | None = None
    name: str | None = None
    drop: tuple[str, ...] = ()


@dataclass(frozen=True)
class ResplitResult:
    """Content hash of what was written, all its splits, and notes for a person."""

    content: str
    splits: tuple[Split, ...]
    notes: tuple[str, ...]


def resplit(source: Path, out: Path | None, changes: SplitChanges) -> ResplitResult:
    """Write the cache at `source` with other splits to the new file `out`, or in its own place where that is None.

    In both cases a whole file comes in by a rename. Raises InputError: `out` exists, `source` is a folder and is
    to be replaced, a split of the name is there already and not dropped, or roles that do not fit the clips.
    """
    if out is None and source.is_dir():
        raise InputError(f"{source}: is a folder, whose files never change: write a file with --out X.h5")
    if out is not None and out.exists():
        raise InputError(f"{out} exists: delete it, choose another --out, or change the cache --in-place")
    with open_cache(source) as cache:
        splits, notes = _cut(cache, changes)
        provenance = {**cache.head.provenance, "resplit": [*_earlier(cache.provenance), _told(changes)]}
        head = replace(cache.head, splits=splits, provenance=provenance)
        layouts = {stream: cache.layout(stream) for stream in cache.streams}
        write_cache(out or source, head, layouts, map(cache.read_streams, range(len(cache.clips))))
    with open_cache(out or source) as written:
        return ResplitResult(written.content, splits, tuple(notes))


def read_roles(path: Path) -> dict[str, int]:
    """The role of each clip in a file: train, test or unused (or 1, 2, 0).

    CSV: lines `clip,role`, with or without a heading `clip,role`. JSON: {"clip": "role", ...}, or
    {"train": [clips], "test": [clips]}. Raises InputError: no such form, an unknown role, a clip named twice.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{path}: is larger than any list of clips")
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no UTF-8 text") from error
    pairs = _pairs_of_json(path, text) if path.suffix.lower() == ".json" else _pairs_of_csv(path, text)
    roles: dict[str, int] = {}
    for name, role in pairs:
        if role not in _ROLE_OF:
            raise InputError(f"{path}: {name!r}: {role!r} is no role; use train, test or unused")
        if name in roles:
            raise InputError(f"{path}: names the clip {name!r} twice")
        roles[name] = _ROLE_OF[role]
    if not roles:
        raise InputError(f"{path}: names no clip")
    return roles


def _cut(cache: Cache, changes: SplitChanges) -> tuple[tuple[Split, ...], list[str]]:
    """All splits of the result, and notes."""
    for name in changes.drop:
        cache.split(name)
    kept = {name: split for name, split in cache.splits.items() if name not in changes.drop}
    notes: list[str] = []
    made = _made(cache, changes, notes)
    if not made and not changes.drop:
        raise InputError("nothing to do: name a split to make or to --drop")
    if changes.name is not None:
        if len(made) != 1:
            raise InputError(f"--name {changes.name}: names one new split, this command makes {len(made)}")
        if not _NAME.fullmatch(changes.name):
            raise InputError(f"--name {changes.name!r}: use letters, digits, _ . + - (not first: . + -)")
        made = [replace(made[0], name=changes.name)]
    for split in made:
        if split.name in kept:
            raise InputError(
                f"{cache.path}: split {split.name} is there already: remove it with --drop {split.name}, or give "
                "the new one another --name"
            )
        kept[split.name] = split
    return tuple(kept.values()), notes


def _made(cache: Cache, changes: SplitChanges, notes: list[str]) -> list[Split]:
    groups = [clip.group for clip in cache.clips]
    labels = cache.labels.tolist()
    drawn = changes.random or changes.group
    if not drawn and (changes.seed is not None or changes.train_share is not None):
        raise InputError("--seed and --train-share are for --random and --group; leave them out")
    if changes.lists is not None and changes.official is None:
        raise InputError("--splits is for --official; leave it out")
    seed = 0 if changes.seed is None else changes.seed
    share = 0.6 if changes.train_share is None else changes.train_share
    made: list[Split] = []
    counts = np.diff(cache.label_sets[0]).tolist() if cache.has_several else None
    if changes.random:
        made.append(
            random_split(labels, groups, seed, share)
            if counts is None
            else several_split(counts, groups, seed, share)
        )
    if changes.group:
        made.append(group_split(labels, groups, seed, share, counts))
    if changes.test_groups:
        made.append(listed_split(labels, groups, changes.test_groups, counts))
    made += _official(cache, changes.official, changes.lists) if changes.official is not None else []
    made += [_from_file(cache, changes.file, changes.name, notes)] if changes.file is not None else []
    # By the groups that the cache knows, which readers compare.
    return [replace(split, leaking_groups=leaking_groups(split.roles, groups)) for split in made]


def _official(cache: Cache, dataset: str, lists: Path | None) -> list[Split]:
    definition = REGISTRY.get(dataset)
    if definition is None or definition.official_splits is None or definition.parse is None:
        raise InputError(f"--official {dataset}: choose one of {', '.join(OFFICIAL)}")
    clips = []
    for row in cache.clips:
        class_name, _, inside = row.name.partition("/")
        parsed = definition.parse(class_name, inside) if class_name in definition.classes else None
        if parsed is None or parsed[0] != row.name:
            raise InputError(f"{cache.path}: clip {row.name} is not named as {dataset} names its clips")
        clips.append(Clip(row.name, Path(row.name), row.label, parsed[1]))
    return list(definition.official_splits(clips, lists))


def _from_file(cache: Cache, file: Path, name: str | None, notes: list[str]) -> Split:
    if name is None:
        raise InputError(f"--from {file}: say with --name what the split is to be called")
    listed = read_roles(file)
    known = {clip.name for clip in cache.clips}
    missing = {failure.name for failure in cache.failures}
    if unknown := sorted(listed.keys() - known - missing):
        raise InputError(
            f"{file}: names {len(unknown)} clips that {cache.path} does not have, first {unknown[0]!r}"
        )
    if failed := listed.keys() - known:
        notes.append(f"split {name}: {len(failed)} clips of {file} are among the failures of the cache")
    if rest := len(known - listed.keys()):
        notes.append(f"split {name}: {rest} clips are not in {file} and are unused in it")
    roles = np.array([listed.get(clip.name, UNUSED) for clip in cache.clips], np.int8)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    rule = f"read from the file {file.name} (sha256 {digest[:16]}), clips it does not name are unused"
    return fixed_split(name, roles.tolist(), [clip.group for clip in cache.clips], rule)


def _pairs_of_csv(path: Path, text: str) -> list[tuple[str, str]]:
    try:
        lines = [line for line in csv.reader(io.StringIO(text), strict=True) if line]
    except csv.Error as error:
        raise InputError(f"{path}: is no CSV ({error})") from error
    for line in lines:
        if len(line) != 2:
            raise InputError(f"{path}: expected lines clip,role, found {','.join(line)!r}")
    if lines and lines[0][1].strip().lower() == "role":
        lines = lines[1:]
    return [(name, role.strip().lower()) for name, role in lines]


def _pairs_of_json(path: Path, text: str) -> list[tuple[str, str]]:
    form = 'expected {"clip": "role", ...} or {"train": [clips], "test": [clips]}'
    try:
        # Pairs, since a dictionary would take a clip that is named twice.
        value = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no JSON: {form}") from error
    if not isinstance(value, _Pairs):
        raise InputError(f"{path}: {form}")
    if all(isinstance(names, list) for _, names in value):
        value = _Pairs((name, role) for role, names in value for name in names)
    if not all(isinstance(name, str) and isinstance(role, (str, int)) for name, role in value):
        raise InputError(f"{path}: {form}")
    return [(name, str(role).lower()) for name, role in value]


class _Pairs(tuple[tuple[str, Any], ...]):
    """The (key, value) pairs of a JSON object in their order."""


def _earlier(provenance: Mapping[str, Any]) -> Sequence[Any]:
    told = provenance.get("resplit")
    return told if isinstance(told, list) else []


def _told(changes: SplitChanges) -> dict[str, Any]:
    """What was asked for, as the provenance keeps it."""
    given = {key: value for key, value in vars(changes).items() if value not in (None, False, ())}
    return {
        key: value.name if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for key, value in given.items()
    }
