"""Files that come into a folder under their final name only when they are complete, synced and hashed."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harfeat.cache.manifest import FileEntry
from harfeat.cache.schema import CacheError, CacheHead, ClipFeatures, ClipRow, StreamLayout
from harfeat.cache.writer import sync, write_cache
from harfeat.hashing import sha256_of_file

MOST_HELD = 128 << 20
"""Bytes of features that are gathered at most before they are written as a shard."""

SHARD, HEAD = (f"{kind}-{'[0-9a-f]' * 16}.h5" for kind in ("shard", "head"))


def write_shard(
    folder: Path,
    recipe: Mapping[str, Any],
    classes: Sequence[str],
    rows: Sequence[ClipRow],
    clips: Sequence[Mapping[str, ClipFeatures]],
) -> FileEntry:
    """Write one more shard into a folder; any number of processes may do so at once."""
    streams = {
        name: StreamLayout(
            [len(clip[name].frame_index) for clip in clips], values.features.shape[1], values.features.dtype
        )
        for name, values in clips[0].items()
    }
    return add_file(folder, "shard", CacheHead(recipe, classes, rows), streams, clips)


def add_file(
    folder: Path,
    kind: str,
    head: CacheHead,
    streams: Mapping[str, StreamLayout],
    clips: Iterable[Mapping[str, ClipFeatures]],
) -> FileEntry:
    """Write one more file of a kind (shard, head) into a folder; any number of processes may do so at once."""
    unnamed = folder / f".{kind}-{secrets.token_hex(8)}.part"
    try:
        write_cache(unnamed, head, streams, clips)
        digest, size = sha256_of_file(unnamed), unnamed.stat().st_size
        path = folder / f"{kind}-{digest[:16]}.h5"
        unnamed.replace(path)
        sync(folder)
    except OSError as error:
        raise CacheError(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        unnamed.unlink(missing_ok=True)
    return FileEntry(path.name, size, digest, kind, len(head.clips))


def make_folder(folder: Path) -> None:
    """Make a folder whose name survives a power cut, as do those above it that had to be made."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in made:
        sync(path.parent)
