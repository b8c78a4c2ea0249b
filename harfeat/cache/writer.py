"""Writing a cache file so that it is either whole or not there.

HDF5 files do not survive the death of their writer, so the file is written under a temporary name, closed,
synced and only then renamed.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from harfeat.cache.digest import digest_of_clip, digests_of_head, digests_of_stream, sorted_failures
from harfeat.cache.fingerprint import canonical_json, fingerprint
from harfeat.cache.labels import is_several, label_sets_of
from harfeat.cache.schema import (
    DEFAULT_STREAM,
    FORMAT,
    VERSION,
    CacheError,
    CacheHead,
    ClipFeatures,
    StreamLayout,
    offsets_of,
)
from harfeat.cache.sink import Sink
from harfeat.interruptions import held_back

_BLOCK = 4 << 20
"""Bytes of features that are written at once."""


def write_cache(
    path: Path,
    head: CacheHead,
    streams: Mapping[str, StreamLayout],
    clips: Iterable[Mapping[str, ClipFeatures]],
    scratch: Path | None = None,
) -> None:
    """Write a whole cache file atomically.

    `clips` yields, in the order of `head.clips`, what each clip has in every stream: clip v of a stream has
    `lengths[v]` rows of `dim` values. It is consumed one clip at a time, so memory stays flat. Without streams the
    file is the head of a folder of shards, and `clips` is empty. The temporary file stands in `scratch` (on the
    same file system), or beside `path`. Raises CacheError where the disk does not take it.
    """
    with (
        held_back() as let_interrupt,
        atomic_path(path, scratch) as temporary,
        _hdf5(temporary) as (sink, file),
    ):
        head = replace(head, failures=sorted_failures(head.failures))
        digests = digests_of_head(head)
        _write_head(file, head)
        file.create_group("streams")
        columns = [_Column(file, name, layout) for name, layout in streams.items()]
        written = 0
        for clip in clips:
            for column in columns:
                column.take(written, clip[column.name])
            if sum(column.waiting for column in columns) >= _BLOCK:
                _write_waiting(columns, sink)
            let_interrupt()
            written += 1
        _write_waiting(columns, sink)
        if columns and written != len(head.clips):
            raise ValueError(f"{written} clips of features for {len(head.clips)} rows")
        for column in columns:
            digests |= column.finish()
        _write_attribute(file, "digests", canonical_json(digests))


def single_stream(
    lengths: Sequence[int], clips: Iterable[ClipFeatures], dim: int, dtype: np.dtype[Any] | type
) -> tuple[dict[str, StreamLayout], Iterator[dict[str, ClipFeatures]]]:
    """The arguments `streams` and `clips` of `write_cache` for a cache that has the default stream alone."""
    layout = StreamLayout(lengths, dim, np.dtype(dtype))
    return {DEFAULT_STREAM: layout}, ({DEFAULT_STREAM: clip} for clip in clips)


def _write_waiting(columns: Sequence[_Column], sink: Sink) -> None:
    for column in columns:
        column.write()
    sink.check()


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


class _Column:
    """One stream while it is being written. Clips wait until there is a block of them: each write costs time."""

    def __init__(self, file: h5py.File, name: str, layout: StreamLayout) -> None:
        self.name, self._layout = name, layout
        self._offsets = offsets_of(layout.lengths)
        group = file.create_group(f"streams/{name}")
        group["offsets"] = self._offsets
        total = int(self._offsets[-1])
        self._rows = group.create_dataset("features", (total, layout.dim), dtype=layout.dtype)
        self._index = group.create_dataset("frame_index", (total,), dtype=np.int32)
        self._group = group
        self._table = np.zeros((len(layout.lengths), 32), np.uint8)
        self._waiting: list[ClipFeatures] = []
        self.waiting = 0  # bytes of them
        self._row = 0  # where those that wait will stand

    def take(self, clip: int, values: ClipFeatures) -> None:
        if clip >= len(self._table):
            raise ValueError(f"more clips of features than the {len(self._table)} rows")
        start, stop = self._offsets[clip : clip + 2]
        if values.features.shape != (stop - start, self._layout.dim) or values.frame_index.shape != (
            stop - start,
        ):
            raise ValueError(
                f"clip {clip}: {values.features.shape} features for {stop - start} rows of {self._layout.dim}"
            )
        stored = ClipFeatures(
            values.features.astype(self._layout.dtype, copy=False), values.frame_index.astype(np.int32, copy=False)
        )
        self._waiting.append(stored)
        self.waiting += stored.features.nbytes
        self._table[clip] = np.frombuffer(digest_of_clip(stored), np.uint8)

    def write(self) -> None:
        if not self._waiting:
            return
        rows = _joined([clip.features for clip in self._waiting])
        self._rows[self._row : self._row + len(rows)] = rows
        self._index[self._row : self._row + len(rows)] = _joined([clip.frame_index for clip in self._waiting])
        self._row += len(rows)
        self._waiting, self.waiting = [], 0

    def finish(self) -> dict[str, str]:
        self._group["sha256"] = self._table
        layout = self._layout
        return digests_of_stream(self.name, layout.dim, layout.dtype, layout.lengths, self._table)


@contextmanager
def _hdf5(path: Path) -> Iterator[tuple[Sink, h5py.File]]:
    with closing(Sink(path)) as sink:
        with h5py.File(sink, "w", libver=("v108", "v108")) as file:
            yield sink, file
        sink.check()


def _write_head(file: h5py.File, head: CacheHead) -> None:
    _write_attribute(file, "format", FORMAT)
    file.attrs["version"] = VERSION
    _write_attribute(file, "fingerprint", fingerprint(head.recipe))
    _write_attribute(file, "provenance", json.dumps({**head.provenance, "recipe": head.recipe}, sort_keys=True))
    _write_text(file, "classes", head.classes)
    _write_text(file, "clips/name", [clip.name for clip in head.clips])
    _write_text(file, "clips/group", [clip.group for clip in head.clips])
    _write_text(file, "clips/sha256", [clip.sha256 for clip in head.clips])
    file["clips/label"] = np.array([clip.label for clip in head.clips], np.int32)
    file["clips/source_frames"] = np.array([clip.source_frames for clip in head.clips], np.int32)
    file["clips/damaged"] = np.array([clip.damaged for clip in head.clips], np.int8)
    file["clips/fps"] = np.array([clip.fps for clip in head.clips], np.float64)
    if is_several(head.clips):
        file["labels/offsets"], file["labels/index"] = label_sets_of(head.clips)
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
    item.attrs.create(key, encoded, dtype=_fixed([encoded]))


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
            sync(temporary)
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise CacheError(f"{path}: cannot be written ({_reason(error)})") from error


def _reason(error: OSError) -> str:
    """What the system says; HDF5 buries it in a long text of its own."""
    found = re.search(r"error message = '([^']+)'", str(error))
    return found[1] if found else error.strerror or str(error).splitlines()[0]


def sync(path: Path) -> None:
    """Have what is written to a file, or the names in a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
