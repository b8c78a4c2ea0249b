"""Streams of a cache side by side: the rows of `rgb+audio` are those of `rgb` and of `audio`, (T, 1024 + 128).

Streams of one type stay as they are stored, for all bytes of a cache stand for numbers alike; others are joined as
float32, bytes among them as the numbers that they stand for.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from harfeat.cache import VIEW, Cache, ClipFeatures
from harvib.errors import InputError

MARK = "+"


def joined(cache: Cache, stream: str) -> Cache:
    """The cache with this stream in it, where the name is that of several joined by `+`; else as it is.

    Raises CacheError where there is no such stream, InputError where the streams do not fit together.
    """
    if not stream or stream in cache.streams or MARK not in stream:
        return cache
    return JoinedCache(cache, stream)


def widths_of(cache: Cache, stream: str) -> tuple[int, ...]:
    """Values a row of each of the joined streams, in their order; none of a stream that is not joined."""
    return cache.widths if isinstance(cache, JoinedCache) and cache.joined == stream else ()


class JoinedCache(Cache):
    """A cache that also holds `stream`, some of its streams joined; views are joined as far as all have them."""

    def __init__(self, cache: Cache, stream: str) -> None:
        parts = stream.split(MARK)
        for part in parts:
            cache.require_stream(part)
        if len(set(parts)) < len(parts):
            raise InputError(f"{cache.path}::{stream}: a stream stands there twice")
        self.path, self.version, self.fingerprint = cache.path, cache.version, cache.fingerprint
        self.recipe, self.provenance, self.classes = cache.recipe, cache.provenance, cache.classes
        self.clips, self.splits, self.failures = cache.clips, cache.splits, cache.failures
        self.digests = cache.digests
        self.joined, self.widths = stream, tuple(map(cache.dim, parts))
        self._cache = cache
        self._parts = {stream: parts}
        numbers = [match["number"] for name in cache.streams if (match := VIEW.fullmatch(name))]
        for number in dict.fromkeys(numbers):
            views = [f"{part}-view-{number}" for part in parts]
            if set(views) <= set(cache.streams):
                self._parts[f"{stream}-view-{number}"] = views
        self.streams = (*cache.streams, *self._parts)
        for names in self._parts.values():
            self._require_equal_lengths(names)

    def _require_equal_lengths(self, names: list[str]) -> None:
        first = self._cache.lengths(names[0])
        for name in names[1:]:
            differing = np.flatnonzero(self._cache.lengths(name) != first)
            if len(differing):
                clip = differing[0]
                raise InputError(
                    f"{self.path}: clip {self.clips[clip].name} has {first[clip]} rows in {names[0]} and "
                    f"{self._cache.lengths(name)[clip]} in {name}: streams of other lengths cannot be joined"
                )

    def close(self) -> None:
        self._cache.close()

    def dim(self, stream: str | None = None) -> int:
        return sum(self._cache.dim(part) for part in self._of(stream))

    def dtype(self, stream: str | None = None) -> np.dtype[Any]:
        dtypes = {self._cache.dtype(part) for part in self._of(stream)}
        return dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)

    def quantisation(self, stream: str | None = None) -> tuple[float, float]:
        if self.dtype(stream) != np.uint8:
            return 1.0, 0.0
        return self._cache.quantisation(self._of(stream)[0])

    def lengths(self, stream: str | None = None) -> np.ndarray:
        return self._cache.lengths(self._of(stream)[0])

    def clip_hashes(self, stream: str | None = None) -> np.ndarray:
        """Of a joined stream the hash of each clip's hashes."""
        hashes = [self._cache.clip_hashes(part) for part in self._of(stream)]
        if len(hashes) == 1:
            return hashes[0]
        told = [hashlib.sha256(b"".join(map(bytes, row))).digest() for row in zip(*hashes, strict=True)]
        return np.frombuffer(b"".join(told), np.uint8).reshape(-1, 32)

    def read(self, clip: int, stream: str | None = None) -> ClipFeatures:
        parts = self._of(stream)
        found = [self._cache.read(clip, part) for part in parts]
        if len(parts) == 1:
            return found[0]
        rows = self._empty(len(found[0].features), stream)
        for columns, part, one in zip(self._columns(parts), parts, found, strict=True):
            rows[:, columns] = self._as_stored(one.features, part, rows.dtype)
        return ClipFeatures(rows, found[0].frame_index)

    def read_all(self, stream: str | None = None) -> np.ndarray:
        parts = self._of(stream)
        if len(parts) == 1:
            return self._cache.read_all(parts[0])
        # One stream at a time: memory holds the result and one of its parts.
        rows = self._empty(int(self.lengths(stream).sum()), stream)
        for columns, part in zip(self._columns(parts), parts, strict=True):
            rows[:, columns] = self._as_stored(self._cache.read_all(part), part, rows.dtype)
        return rows

    def _of(self, stream: str | None) -> list[str]:
        name = stream or self._cache.main_stream
        self.require_stream(name)
        return self._parts.get(name, [name])

    def _empty(self, count: int, stream: str | None) -> np.ndarray:
        return np.empty((count, self.dim(stream)), self.dtype(stream))

    def _columns(self, parts: list[str]) -> list[slice]:
        ends = np.cumsum([self._cache.dim(part) for part in parts]).tolist()
        return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    def _as_stored(self, rows: np.ndarray, part: str, dtype: np.dtype[Any]) -> np.ndarray:
        """Rows of a part as the joined stream holds them: bytes among others become numbers."""
        if rows.dtype == dtype or rows.dtype != np.uint8:
            return rows
        scale, shift = self._cache.quantisation(part)
        return rows.astype(dtype) / dtype.type(1 / scale) + dtype.type(shift)
