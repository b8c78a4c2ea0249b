"""Writing a cache file so that it is either whole or not there.

HDF5 files do not survive the death of their writer, so the file is written under a temporary name, closed,
synced and only then renamed.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
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
    CacheError,
    ClipFeatures,
    ClipRow,
    Failure,
    offsets_of,
)
from harfeat.cache.sink import Sink
from harfeat.splits import Split

_VARIABLE = h5py.string_dtype("utf-8")
_FIXED_LIMIT = 20_000


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
    scratch: Path | None = None,
) -> None:
    """Write a whole cache file atomically.

    `features` yields the clips in the order of `head.clips`, clip v with `lengths[v]` rows of `dim` values;
    it is consumed one clip at a time, so memory stays flat. The temporary file stands in `scratch` (on the same
    file system), or beside `path`. Raises CacheError where the disk does not take it.
    """
    offsets = offsets_of(lengths)
    with atomic_path(path, scratch) as temporary, _hdf5(temporary) as (sink, file):
        _write_head(file, head)
        group = file.create_group(f"streams/{stream}")
        group["offsets"] = offsets
        rows = group.create_dataset("features", (int(offsets[-1]), dim), dtype=dtype)
        index = group.create_dataset("frame_index", (int(offsets[-1]),), dtype=np.int32)
        written = 0
        for clip, start, stop in zip(features, offsets[:-1], offsets[1:], strict=True):
            if clip.features.shape != (stop - start, dim) or clip.frame_index.shape != (stop - start,):
                raise ValueError(
                    f"clip {written}: {clip.features.shape} features for {stop - start} rows of {dim}"
                )
            rows[start:stop] = clip.features
            index[start:stop] = clip.frame_index
            sink.check()
            written += 1
        if written != len(head.clips):
            raise ValueError(f"{written} clips of features for {len(head.clips)} rows")


@contextmanager
def _hdf5(path: Path) -> Iterator[tuple[Sink, h5py.File]]:
    with closing(Sink(path)) as sink:
        with h5py.File(sink, "w") as file:
            yield sink, file
        sink.check()


def _write_head(file: h5py.File, head: CacheHead) -> None:
    _write_attribute(file, "format", FORMAT)
    file.attrs["version"] = VERSION
    _write_attribute(file, "fingerprint", fingerprint(head.recipe))
    _write_attribute(file, "provenance", json.dumps({"recipe": head.recipe, **head.provenance}, sort_keys=True))
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
        _write_attribute(column, "rule", split.rule)
        column.attrs["leaking_groups"] = split.leaking_groups
        if split.seed is not None:
            column.attrs["seed"] = split.seed
    _write_text(file, "failures/name", [failure.name for failure in head.failures])
    _write_text(file, "failures/reason", [failure.reason for failure in head.failures])


def _write_text(file: h5py.File, key: str, values: Sequence[str]) -> None:
    encoded = [value.encode() for value in values]
    file.create_dataset(key, data=np.array(encoded, _fixed(encoded)), shape=(len(values),))


def _fixed(encoded: Sequence[bytes]) -> np.dtype[Any]:
    """Text as wide as the longest: HDF5's heap of variable texts can hang a reader once it is damaged."""
    width = max((len(value) for value in encoded), default=0)
    return np.dtype(h5py.string_dtype("utf-8", max(width, 1)))


def _write_attribute(item: h5py.HLObject, key: str, text: str) -> None:
    encoded = text.encode()
    # An attribute of fixed width must fit the header of its object, 64 KiB.
    item.attrs.create(key, encoded, dtype=_fixed([encoded]) if len(encoded) <= _FIXED_LIMIT else _VARIABLE)


@contextmanager
def atomic_path(path: Path, scratch: Path | None = None) -> Iterator[Path]:
    """A temporary path, in `scratch` or beside `path`, that becomes `path` when the block ends well.

    Otherwise it vanishes. Raises CacheError where the system refuses: no such place, no permission, disk full.
    """
    try:
        if path.is_dir():
            raise CacheError(f"{path}: is a folder; name a file to write")
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=scratch or path.parent, prefix=f".{path.name}.", suffix=".part")
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
    except OSError as error:
        raise CacheError(f"{path}: cannot be written ({_reason(error)})") from error


def _reason(error: OSError) -> str:
    """What the system says; HDF5 buries it in a long text of its own."""
    found = re.search(r"error message = '([^']+)'", str(error))
    return found[1] if found else error.strerror or str(error).splitlines()[0]


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
