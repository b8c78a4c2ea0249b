"""Clips of several caches matched by name: what all of them have, and that they say the same of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harfeat.cache import ROLES, Cache
from harvib.errors import InputError

_ROLE_NAMES = {role: name for name, role in ROLES.items()}


@dataclass(frozen=True)
class Matched:
    """The clips that every cache has, in the order of the first, and of each cache those left out for it.

    `left_out` holds, for each cache in turn, the clips that it lacks and another has, in the order of the one that
    has them; of a split only those that it uses.
    """

    names: tuple[str, ...]
    left_out: tuple[tuple[str, ...], ...]

    def notes(self, caches: Sequence[str]) -> list[str]:
        """One sentence for each of the named caches that lacks clips."""
        return [
            f"{len(lacking):,} clips are left out, for they are not in {name} (first: {lacking[0]})"
            for name, lacking in zip(caches, self.left_out, strict=True)
            if lacking
        ]


def matched(caches: Sequence[Cache], split: str | None, part: str = "") -> Matched:
    """Match the clips of caches by name; with `part` (train, test) only clips of that part count as left out.

    Raises InputError where classes differ, or the caches do not agree on a clip's class, group or part of
    `split`, naming the first such clip; where they have no clip in common. Groups count, for whole groups are held
    out to select models on: what one stream selects on another must not train on.
    """
    first = caches[0]
    for other in caches[1:]:
        if other.classes != first.classes:
            raise InputError(
                f"{other.path}: classes differ from those of {first.path}: {len(other.classes)} against "
                f"{len(first.classes)}{first_difference(other.classes, first.classes)}"
            )
    tables = [_told(cache, split) for cache in caches]
    names = [name for name in tables[0] if all(name in table for table in tables)]
    for cache, table in zip(caches[1:], tables[1:], strict=True):
        for name in names:
            for ours, theirs, what in zip(tables[0][name], table[name], ("class", "group", "part"), strict=True):
                if ours != theirs:
                    where = f" of split {split}" if what == "part" else ""
                    raise InputError(
                        f"clip {name}: its {what}{where} is {_said(first, ours)} in {first.path} and "
                        f"{_said(cache, theirs)} in {cache.path}; streams to be fused must agree"
                    )
    if not names:
        raise InputError(f"{first.path} and {caches[-1].path}: no clip of one name is in all caches")
    wanted = (part,) if part else ("", "train", "test")
    used = dict.fromkeys(name for table in tables for name, told in table.items() if told[2] in wanted)
    return Matched(tuple(names), tuple(tuple(name for name in used if name not in table) for table in tables))


def first_difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """The first place where two lists differ, as the end of a sentence; empty where one only goes on."""
    for a, b in zip(ours, theirs, strict=False):
        if a != b:
            return f", first {a!r} against {b!r}"
    return ""


def _told(cache: Cache, split: str | None) -> dict[str, tuple[tuple[int, ...] | str, ...]]:
    """Classes, group and part of each clip, in file order; the part is empty without a split."""
    roles = [""] * len(cache.clips)
    if split is not None:
        roles = [_ROLE_NAMES[role] for role in cache.split(split).roles.tolist()]
    return {clip.name: (clip.all_labels, clip.group, role) for clip, role in zip(cache.clips, roles, strict=True)}


def _said(cache: Cache, value: tuple[int, ...] | str) -> str:
    """A group, a part, or classes by their names."""
    if isinstance(value, str):
        return repr(value)
    return " and ".join(repr(cache.classes[label]) for label in value) or "none"
