"""Opening a cache, in whichever form it comes.

This is the only part of harfeat that harvib uses.
"""

from __future__ import annotations

from pathlib import Path

from harfeat.cache.base import Cache
from harfeat.cache.manifest import read_manifest
from harfeat.cache.schema import CacheError
from harfeat.cache.sharded import ShardedCache, path_of
from harfeat.cache.single import FileCache


def open_cache(path: Path | str) -> Cache:
    """Open a cache for reading: a file, or a folder with a manifest (of shards, or of one packed file).

    Raises CacheError, one clear line, where it is missing, damaged, foreign, unfinished or too new.
    """
    path = Path(path)
    if not path.is_dir():
        return FileCache(path)
    manifest = read_manifest(path)
    packed = manifest.of_kind("cache")
    if not packed:
        return ShardedCache(path, manifest)
    if len(packed) != 1:
        raise CacheError(f"{path}: holds {len(packed)} caches; name one of them")
    cache = FileCache(path_of(path, packed[0]))
    if cache.fingerprint != manifest.fingerprint:
        cache.close()
        raise CacheError(f"{path}: the fingerprint of {packed[0].name} is not that of the manifest: file altered")
    return cache
