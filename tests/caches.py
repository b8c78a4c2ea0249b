"""Small made-up caches for tests of harvib: the first features tell the class, the others are noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from harfeat.cache import CacheHead, ClipFeatures, ClipRow, Failure, StreamLayout, open_cache, write_cache
from harfeat.splits import fixed_split

CLASSES = ("hop", "run", "sit")
TEST_SPLIT = "held"

Change = Callable[[list[ClipRow], list[np.ndarray]], tuple[list[ClipRow], list[np.ndarray]]]


def made_up_cache(
    path: Path,
    *,
    classes: Sequence[str] = CLASSES,
    groups: int = 5,
    clips_a_group: int = 2,
    dim: int = 6,
    lengths: Sequence[int] = (3, 4, 5),
    seed: int = 0,
    dtype: Any = np.float32,
    recipe: str | Mapping[str, Any] = "made up",
    failures: Sequence[Failure] = (),
    change: Change | None = None,
    stream: str = "rgb",
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write a cache with `groups` groups a class; split `held` tests the last two groups of each class.

    Clip lengths go round in `lengths`. `recipe` is its kind, or all of it. `change` gets rows and features
    and returns those to be stored, in any order.
    """
    rng = np.random.default_rng(seed)
    rows: list[ClipRow] = []
    features: list[np.ndarray] = []
    for label in range(len(classes)):
        for group in range(groups):
            for clip in range(clips_a_group):
                values = rng.normal(size=(lengths[len(rows) % len(lengths)], dim))
                values[:, label % dim] += 2.0
                rows.append(ClipRow(f"v_{label}_{group}_{clip}", label, f"c{label}/g{group}"))
                features.append(values)
    role_of = {row.name: 2 if int(row.group.rpartition("g")[2]) >= groups - 2 else 1 for row in rows}
    if change is not None:
        rows, features = change(rows, features)
    roles = [role_of[row.name] for row in rows]
    split = fixed_split(TEST_SPLIT, roles, [row.group for row in rows], "last two groups test")
    head = CacheHead(
        {"kind": recipe} if isinstance(recipe, str) else recipe, classes, rows, [split], failures, provenance or {}
    )
    width = features[0].shape[1] if features else dim
    layout = StreamLayout([len(values) for values in features], width, np.dtype(dtype))
    clips = ({stream: ClipFeatures(values.astype(dtype), np.arange(len(values)))} for values in features)
    write_cache(path, head, {stream: layout}, clips)
    return path


def permuted_test_labels(
    rows: list[ClipRow], features: list[np.ndarray]
) -> tuple[list[ClipRow], list[np.ndarray]]:
    """Give the test clips (groups g3, g4) the label of another class."""
    changed = [
        replace(row, label=(row.label + 1) % len(CLASSES)) if row.group[-2:] in ("g3", "g4") else row
        for row in rows
    ]
    return changed, features


def without_groups(rows: list[ClipRow], features: list[np.ndarray]) -> tuple[list[ClipRow], list[np.ndarray]]:
    """Forget the groups."""
    return [replace(row, group="") for row in rows], features


def second_labels(rows: list[ClipRow], features: list[np.ndarray]) -> tuple[list[ClipRow], list[np.ndarray]]:
    """Give every other clip the next class too, and the feature that tells it."""
    classes = max(row.label for row in rows) + 1
    changed = list(rows)
    for number in range(1, len(rows), 2):
        label = rows[number].label
        other = (label + 1) % classes
        features[number][:, other % features[number].shape[1]] += 2.0
        changed[number] = replace(rows[number], label=-1, labels=tuple(sorted((label, other))))
    return changed, features


def with_streams(
    source: Path, out: Path, streams: Mapping[str, Sequence[np.ndarray]], recipe: Mapping[str, Any] | None = None
) -> Path:
    """The clips of `source` with these streams in place of theirs, each a list of rows a clip."""
    with open_cache(source) as cache:
        head = replace(cache.head, recipe=recipe or cache.recipe)
        layouts = {
            name: StreamLayout([len(values) for values in clips], clips[0].shape[1], clips[0].dtype)
            for name, clips in streams.items()
        }
        each = (
            {name: ClipFeatures(clips[clip], np.arange(len(clips[clip]))) for name, clips in streams.items()}
            for clip in range(len(cache.clips))
        )
        write_cache(out, head, layouts, each)
    return out
