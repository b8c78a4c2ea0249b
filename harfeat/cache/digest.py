"""Hashes over what a cache holds, so that damage and alteration show, and equal content is known as equal.

Every clip of a stream has a hash of its rows; every other data set, and each stream's table of hashes, stands in
the attribute `digests`. The hashes are over values, not over bytes of the file: repacking (h5repack, another order
of data sets, compression) leaves them as they are. They show damage; whoever alters a file on purpose can make
them anew, which is why a manifest, or what one publishes, names `content` or the hash of the file itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harfeat.cache.fingerprint import canonical_json, fingerprint
from harfeat.cache.labels import is_several, label_sets_of
from harfeat.cache.schema import VERSION, CacheHead, ClipFeatures, Failure, offsets_of

PROVENANCE = "@provenance"


def digest_of_clip(clip: ClipFeatures) -> bytes:
    """32 bytes: SHA-256 of a clip's feature rows and then of its frame indices, both little-endian."""
    digest = hashlib.sha256(_bytes(clip.features))
    digest.update(_bytes(clip.frame_index.astype(np.int32, copy=False)))
    return digest.digest()


def digests_of_head(head: CacheHead) -> dict[str, str]:
    """Hash (hex) of each part of a cache but its streams; attributes begin with '@'."""
    clips = head.clips
    fps = np.array([clip.fps for clip in clips], np.float64)
    fps[np.isnan(fps)] = np.nan  # one NaN of many
    digests = {
        "@version": _of_json(VERSION),
        "@fingerprint": _of_json(fingerprint(head.recipe)),
        PROVENANCE: _of_json(dict(head.provenance)),
        "classes": _of_json(list(head.classes)),
        "clips/name": _of_json([clip.name for clip in clips]),
        "clips/group": _of_json([clip.group for clip in clips]),
        "clips/sha256": _of_json([clip.sha256 for clip in clips]),
        "clips/label": _of_numbers(np.array([clip.label for clip in clips], np.int32)),
        "clips/source_frames": _of_numbers(np.array([clip.source_frames for clip in clips], np.int32)),
        "clips/damaged": _of_numbers(np.array([clip.damaged for clip in clips], np.int8)),
        "clips/fps": _of_numbers(fps),
        "failures/name": _of_json([failure.name for failure in head.failures]),
        "failures/reason": _of_json([failure.reason for failure in head.failures]),
    }
    if is_several(clips):
        # Only then: all other caches keep the content that they had before there was this.
        offsets, index = label_sets_of(clips)
        digests |= {"labels/offsets": _of_numbers(offsets), "labels/index": _of_numbers(index)}
    for split in head.splits:
        roles = _of_numbers(np.asarray(split.roles, np.int8))
        digests[f"splits/{split.name}"] = _of_json([roles, split.rule, split.seed, split.leaking_groups])
    return digests


def digests_of_stream(
    name: str, dim: int, dtype: np.dtype[Any], lengths: Sequence[int], table: np.ndarray
) -> dict[str, str]:
    """Hash (hex) of a stream's parts; `table` (V, 32) uint8 holds the clips' hashes."""
    rows = _of_json([str(np.dtype(dtype)), dim, _of_numbers(np.asarray(table, np.uint8))])
    return {f"streams/{name}/features": rows, f"streams/{name}/offsets": _of_numbers(offsets_of(lengths))}


def content_of(digests: Mapping[str, str]) -> str:
    """One hash (hex) over everything but the provenance: equal for equal features, clips, labels and splits."""
    return _of_json({key: value for key, value in digests.items() if key != PROVENANCE})


def sorted_failures(failures: Sequence[Failure]) -> list[Failure]:
    """Failures in the order in which a cache keeps them, by name."""
    return sorted(failures, key=lambda failure: failure.name)


def _of_json(value: object) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def _of_numbers(values: np.ndarray) -> str:
    digest = hashlib.sha256(f"{values.dtype.name} {values.shape}\n".encode())
    digest.update(_bytes(values))
    return digest.hexdigest()


def _bytes(values: np.ndarray) -> memoryview:
    """The values' bytes, little-endian, without a copy where they lie so already."""
    little = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
    return little.view(np.uint8).data if little.size else memoryview(b"")
