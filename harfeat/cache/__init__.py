"""The feature cache: one HDF5 file, its schema, fingerprint, writer and reader."""

from harfeat.cache.reader import ROLES, Cache, open_cache
from harfeat.cache.schema import CacheError, ClipFeatures, ClipRow, Failure
from harfeat.cache.writer import CacheHead, write_cache

__all__ = [
    "ROLES",
    "Cache",
    "CacheError",
    "CacheHead",
    "ClipFeatures",
    "ClipRow",
    "Failure",
    "open_cache",
    "write_cache",
]
