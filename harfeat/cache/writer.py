"""Writing a cache file so that it is either whole or not there.

HDF5 files do not survive the death of their writer, so the file is written under a temporary name, closed,
synced and only then renamed.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from harfeat.cache.fingerprint import fingerprint
from harfeat.cache.schema import (
    DEFAULT_STREAM,
    FORMAT,
    VERSION,
    ClipFeatures,
    ClipRow,
    Failure,
    offsets_of,
)
from harfeat.splits import Split

_TEXT = h5py.string_dtype("utf-8")


@dataclass(frozen=True)
class CacheHead:
    """Everything in a cache but its features.

    `recipe` is what the fingerprint covers; `provenance` is told beside it (settings, versions, data set).
    """

    recipe: Mapping[str, Any]
    classes: Sequence[str]
    clips: Sequence[ClipRow]
    splits: Sequence[Split] = ()
    failures: Sequence[Failure] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)


def write_cache(
    path: Path,
    head: CacheHead,
    lengths: Sequence[int],
    features: Iterator[ClipFeatures],
    dim: int,
    dtype: np.dtype[Any] | type,
    stream: str = DEFAULT_STREAM,
) -> None:
    """Write a whole cache file atomically.

    `features` yields the clips in the order of `head.clips`, clip v with `lengths[v]` rows of `dim` values;
    it is consumed one clip at a time, so memory stays flat.
    """
    offsets = offsets_of(lengths)
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        _write_head(file, head)
        group = file.create_group(f"streams/{stream}")
        group["offsets"] = offsets
        rows = group.create_dataset("features", (int(offsets[-1]), dim), dtype=dtype)
        index = group.create_dataset("frame_index", (int(offsets[-1]),), dtype=np.int32)
        written = 0
        for clip, start, stop in zip(features, offsets[:-1], offsets[1:], strict=True):
            rows[start:stop] = clip.features
            index[start:stop] = clip.frame_index
            written += 1
        if written != len(head.clips):
            raise ValueError(f"{written} clips of features for {len(head.clips)} rows")


def _write_head(file: h5py.File, head: CacheHead) -> None:
    file.attrs["format"] = FORMAT
    file.attrs["version"] = VERSION
    file.attrs["fingerprint"] = fingerprint(head.recipe)
    file.attrs["provenance"] = json.dumps({"recipe": head.recipe, **head.provenance}, sort_keys=True)
    _write_text(file, "classes", head.classes)
    _write_text(file, "clips/name", [clip.name for clip in head.clips])
    _write_text(file, "clips/group", [clip.group for clip in head.clips])
    _write_text(file, "clips/sha256", [clip.sha256 for clip in head.clips])
    file["clips/label"] = np.array([clip.label for clip in head.clips], np.int32)
    file["clips/source_frames"] = np.array([clip.source_frames for clip in head.clips], np.int32)
    file["clips/fps"] = np.array([clip.fps for clip in head.clips], np.float64)
    file.create_group("splits")
    for split in head.splits:
        column = file.create_dataset(f"splits/{split.name}", data=np.asarray(split.roles, np.int8))
        column.attrs["rule"] = split.rule
        column.attrs["leaking_groups"] = split.leaking_groups
        if split.seed is not None:
            column.attrs["seed"] = split.seed
    _write_text(file, "failures/name", [failure.name for failure in head.failures])
    _write_text(file, "failures/reason", [failure.reason for failure in head.failures])


def _write_text(file: h5py.File, key: str, values: Sequence[str]) -> None:
    file.create_dataset(key, data=np.array(list(values), dtype=object), shape=(len(values),), dtype=_TEXT)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends well, and vanishes otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
