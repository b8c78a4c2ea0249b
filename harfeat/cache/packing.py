"""From a folder of shards to one self-contained file."""

from __future__ import annotations

from pathlib import Path

from harfeat.cache.base import Cache
from harfeat.cache.reader import open_cache
from harfeat.cache.writer import write_cache
from harfeat.errors import InputError


def pack(source: Path, out: Path) -> str:
    """Write the cache at `source` (a folder of shards, or a file) as the one file `out`; its content hash.

    Raises InputError where `source` is unfinished or damaged, or `out` exists.
    """
    if out.exists():
        raise InputError(f"{out} exists: delete it or choose another --out")
    with open_cache(source) as cache:
        write_packed(cache, out)
        return cache.content


def write_packed(cache: Cache, out: Path) -> None:
    """Write an open cache as one file, clip by clip."""
    layouts = {stream: cache.layout(stream) for stream in cache.streams}
    write_cache(out, cache.head, layouts, (cache.read_streams(clip) for clip in range(len(cache.clips))))
