"""The feature cache: one HDF5 file or a folder of shards; schema, fingerprint, writer and reader."""

from harfeat.cache.base import ROLES, VIEW, Cache
from harfeat.cache.fingerprint import fingerprint as fingerprint_of
from harfeat.cache.labels import label_fields
from harfeat.cache.reader import open_cache
from harfeat.cache.schema import (
    DEFAULT_STREAM,
    CacheError,
    CacheHead,
    ClipFeatures,
    ClipRow,
    Failure,
    StreamLayout,
)
from harfeat.cache.writer import single_stream, write_cache
from harfeat.interruptions import sigterm_as_ctrl_c

__all__ = [
    "DEFAULT_STREAM",
    "ROLES",
    "VIEW",
    "Cache",
    "CacheError",
    "CacheHead",
    "ClipFeatures",
    "ClipRow",
    "Failure",
    "StreamLayout",
    "fingerprint_of",
    "label_fields",
    "open_cache",
    "sigterm_as_ctrl_c",
    "single_stream",
    "write_cache",
]
