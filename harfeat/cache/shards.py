"""Clips by name over several cache files, of which only a few are open at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harfeat.cache.schema import CacheError, ClipFeatures, ClipRow, Failure, StreamLayout
from harfeat.cache.single import FileCache

_OPEN_AT_ONCE = 16
"""A long run has more shards than a process may have open files."""


@dataclass(frozen=True, slots=True)
class _Place:
    path: Path
    index: int
    row: ClipRow
    lengths: tuple[int, ...]  # in the order of the streams
    hashes: tuple[bytes, ...]


@dataclass(frozen=True)
class Note:
    """What a shard tells beside its clips: its provenance but the recipe, what failed, the names of its clips."""

    told: Mapping[str, Any]
    failures: tuple[Failure, ...]
    names: tuple[str, ...]


class Shards:
    """The clips of cache files that have the same streams; what is added later stands for what was before."""

    def __init__(self) -> None:
        self._where: dict[str, _Place] = {}
        self.notes: dict[Path, Note] = {}
        self._opened: OrderedDict[Path, FileCache] = OrderedDict()
        self._streams: dict[str, tuple[int, np.dtype[Any]]] = {}

    @property
    def rows(self) -> dict[str, ClipRow]:
        """The clips by name."""
        return {name: place.row for name, place in self._where.items()}

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the streams."""
        return tuple(self._streams)

    def add(self, path: Path) -> FileCache:
        """Take in a file; raises CacheError where it is damaged or has other streams."""
        cache = self._cache(path)
        streams = {name: (cache.dim(name), cache.dtype(name)) for name in cache.streams}
        if self._streams and streams != self._streams:
            raise CacheError(f"{path}: its streams {_told(streams)} differ from {_told(self._streams)}")
        self._streams = streams
        lengths = zip(*(cache.lengths(name).tolist() for name in streams), strict=True)
        hashes = zip(*(cache.clip_hashes(name) for name in streams), strict=True)
        for index, (row, counts, tables) in enumerate(zip(cache.clips, lengths, hashes, strict=True)):
            told = tuple(table.tobytes() for table in tables)
            self._where[row.name] = _Place(path, index, row, counts, told)
        if beside := {key: value for key, value in cache.provenance.items() if key != "recipe"}:
            self.notes[path] = Note(beside, cache.failures, tuple(clip.name for clip in cache.clips))
        return cache

    def forget(self, names: Iterable[str]) -> None:
        """Do not offer these clips."""
        for name in names:
            del self._where[name]

    def paths(self, names: Iterable[str]) -> set[Path]:
        """The files that hold these clips."""
        return {self._where[name].path for name in names}

    def layouts(self, names: Sequence[str]) -> dict[str, StreamLayout]:
        """The streams of these clips, in this order."""
        return {
            stream: StreamLayout([self._where[name].lengths[number] for name in names], dim, dtype)
            for number, (stream, (dim, dtype)) in enumerate(self._streams.items())
        }

    def hashes(self, names: Sequence[str], stream: str) -> np.ndarray:
        """(V, 32) uint8 hashes of these clips' rows in a stream."""
        number = self.streams.index(stream)
        joined = b"".join(self._where[name].hashes[number] for name in names)
        return np.frombuffer(joined, np.uint8).reshape(len(names), 32)

    def read(self, name: str, stream: str) -> ClipFeatures:
        """The features of one clip."""
        place = self._where[name]
        return self._cache(place.path).read(place.index, stream)

    def close(self) -> None:
        """Close all files; they open again when read."""
        for cache in self._opened.values():
            cache.close()
        self._opened.clear()

    def _cache(self, path: Path) -> FileCache:
        if path in self._opened:
            self._opened.move_to_end(path)
            return self._opened[path]
        while len(self._opened) >= _OPEN_AT_ONCE:
            self._opened.popitem(last=False)[1].close()
        self._opened[path] = FileCache(path)
        return self._opened[path]


def _told(streams: dict[str, tuple[int, np.dtype[Any]]]) -> str:
    return ", ".join(f"{name} ({dim} {dtype})" for name, (dim, dtype) in streams.items())
