"""Reading a complete folder of shards as one cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from harfeat.cache.base import Cache
from harfeat.cache.digest import digests_of_stream
from harfeat.cache.manifest import FileEntry, Manifest
from harfeat.cache.schema import CacheError, ClipFeatures, StreamLayout
from harfeat.cache.shards import Shards
from harfeat.cache.single import FileCache


class ShardedCache(Cache):
    """A folder whose manifest says that it is complete. Labels, groups and splits are those of its head."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.path = Path(folder)
        heads = manifest.of_kind("head")
        if not manifest.complete or len(heads) != 1:
            raise CacheError(
                f"{folder}: extraction is unfinished, {manifest.told} are there: repeat the command that made it"
            )
        with FileCache(path_of(folder, heads[0]), head_only=True) as head:
            self.version, self.fingerprint = head.version, head.fingerprint
            self.recipe, self.provenance = head.recipe, head.provenance
            self.classes, self.clips, self.splits, self.failures = (
                head.classes,
                head.clips,
                head.splits,
                head.failures,
            )
            digests = dict(head.digests)
        self._shards = Shards()
        try:
            for entry in manifest.of_kind("shard"):
                self._add(path_of(folder, entry), entry)
            self._names = [clip.name for clip in self.clips]
            self._compare_rows(manifest.done)
            self.streams = self._shards.streams
            self._layouts = self._shards.layouts(self._names)
            for name, layout in self._layouts.items():
                table = self.clip_hashes(name)
                digests |= digests_of_stream(name, layout.dim, layout.dtype, layout.lengths, table)
            self.digests = digests
        except BaseException:
            self._shards.close()
            raise

    def close(self) -> None:
        self._shards.close()

    def dim(self, stream: str | None = None) -> int:
        return self._layout(stream).dim

    def dtype(self, stream: str | None = None) -> np.dtype[Any]:
        return self._layout(stream).dtype

    def lengths(self, stream: str | None = None) -> np.ndarray:
        return np.array(self._layout(stream).lengths, np.int64)

    def clip_hashes(self, stream: str | None = None) -> np.ndarray:
        return self._shards.hashes(self._names, stream or self.main_stream)

    def read(self, clip: int, stream: str | None = None) -> ClipFeatures:
        stream = stream or self.main_stream
        self.require_stream(stream)
        return self._shards.read(self._names[clip], stream)

    def read_all(self, stream: str | None = None) -> np.ndarray:
        lengths = self.lengths(stream)
        rows = np.empty((int(lengths.sum()), self.dim(stream)), self.dtype(stream))
        start = 0
        for clip, length in enumerate(lengths.tolist()):
            rows[start : start + length] = self.read(clip, stream).features
            start += length
        return rows

    def _layout(self, name: str | None) -> StreamLayout:
        name = name or self.main_stream
        self.require_stream(name)
        return self._layouts[name]

    def _add(self, path: Path, entry: FileEntry) -> None:
        cache = self._shards.add(path)
        if cache.fingerprint != self.fingerprint:
            raise CacheError(
                f"{path}: its fingerprint is not that of the folder: remove the folder, fetch it again"
            )
        if len(cache.clips) != entry.clips:
            raise CacheError(f"{path}: does not hold the {entry.clips} clips that the manifest promises")

    def _compare_rows(self, promised: int) -> None:
        rows = self._shards.rows
        if len(rows) != promised:
            raise CacheError(f"{self.path}: {promised - len(rows)} clips stand in two shards: file altered")
        if len(rows) != len(self.clips):
            raise CacheError(f"{self.path}: its shards hold {len(rows)} clips, its head {len(self.clips)}")
        for clip in self.clips:
            row = rows.get(clip.name)
            if row is None or (row.sha256, row.source_frames) != (clip.sha256, clip.source_frames):
                raise CacheError(f"{self.path}: clip {clip.name} is another in the head than in its shard")


def path_of(folder: Path, entry: FileEntry) -> Path:
    """A file of the folder; CacheError where it is missing or has another size than the manifest states."""
    path = folder / entry.name
    size = path.stat().st_size if path.is_file() else -1
    if size != entry.bytes:
        found = "is missing" if size < 0 else f"has {size} bytes where the manifest states {entry.bytes}"
        raise CacheError(f"{path}: {found}: fetch or extract it again")
    return path
