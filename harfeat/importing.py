"""From a foreign feature file to a cache."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from harfeat.cache import CacheHead, single_stream, write_cache
from harfeat.cache.labels import is_several
from harfeat.cache.schema import VERSION, quantisation_of
from harfeat.errors import InputError
from harfeat.hashing import sha256_of_file
from harfeat.importers import IMPORTERS, Keys
from harfeat.importers.arrays import ForeignClips, check
from harfeat.provenance import machine, versions
from harfeat.splits import Split, default_splits


def import_features(
    source: Path,
    kind: str,
    keys: Keys,
    out: Path,
    test_groups: tuple[str, ...] = (),
    split_seed: int = 0,
    features_id: str | None = None,
    quantisation: tuple[float, float] | None = None,
) -> tuple[Split, ...]:
    """Write the cache of a foreign file, and return its splits.

    Nothing is known of how the features were made, so their identity is `features_id`, what the user calls
    the recipe, or else the hash of the file: only caches of the same id (file) and key are of one kind.
    `quantisation` is (scale, shift) where features are bytes that stand for value * scale + shift; other bytes are
    pixels, value / 255.
    """
    if not source.is_file():
        raise InputError(f"{source}: no such file")
    if out.exists():
        raise InputError(f"{out} exists: delete it or choose another --out")
    with IMPORTERS[kind](source, keys) as arrays:
        clips = check(source, arrays)
        if quantisation is not None and clips.dtype != np.uint8:
            raise InputError(
                f"{source}: features are {clips.dtype}; --scale and --shift are for bytes, leave them out"
            )
        head = _head(source, kind, keys, clips, test_groups, split_seed, features_id, quantisation)
        write_cache(out, head, *single_stream(clips.lengths, clips.features(), clips.dim, clips.dtype))
    return tuple(head.splits)


def _head(
    source: Path,
    kind: str,
    keys: Keys,
    clips: ForeignClips,
    test_groups: tuple[str, ...],
    split_seed: int,
    features_id: str | None,
    quantisation: tuple[float, float] | None,
) -> CacheHead:
    digest = sha256_of_file(source)
    recipe: dict[str, Any] = {
        "kind": "import",
        "schema": VERSION,
        "features_id": features_id or f"sha256:{digest}",
        "key": keys.features,
        "dim": clips.dim,
        "dtype": str(clips.dtype),
    }
    if quantisation is not None:
        recipe["quantisation"] = {"scale": quantisation[0], "shift": quantisation[1]}
        try:
            quantisation_of(recipe)
        except ValueError as error:
            raise InputError(f"--scale and --shift: {error}; a scale is above 0") from error
    labels, groups = [clip.label for clip in clips.rows], [clip.group for clip in clips.rows]
    counts = [len(clip.all_labels) for clip in clips.rows] if is_several(clips.rows) else None
    splits = default_splits(labels, groups, seed=split_seed, test_groups=test_groups, counts=counts)
    provenance = {
        "source": {"file": source.name, "sha256": digest, "format": kind, "keys": asdict(keys)},
        "settings": {"test_groups": list(test_groups), "split_seed": split_seed},
        "versions": versions(),
        "machine": machine(),
    }
    return CacheHead(recipe, clips.classes, clips.rows, splits, provenance=provenance)
