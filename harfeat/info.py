"""What a cache holds, as plain values."""

from __future__ import annotations

from typing import Any

import numpy as np

from harfeat.cache import Cache


def describe(cache: Cache) -> dict[str, Any]:
    """Everything but the features: counts, streams, splits, failures, provenance; fit for JSON."""
    return {
        "file": str(cache.path),
        "version": cache.version,
        "fingerprint": cache.fingerprint,
        "content": cache.content,
        "clips": len(cache.clips),
        "classes": list(cache.classes),
        "clips_per_class": np.bincount(cache.labels[cache.labels >= 0], minlength=len(cache.classes)).tolist(),
        "groups": len({clip.group for clip in cache.clips} - {""}),
        "streams": {
            name: {
                "rows": int(cache.lengths(name).sum()),
                "dim": cache.dim(name),
                "dtype": str(cache.dtype(name)),
            }
            for name in cache.streams
        },
        "splits": {
            name: {
                "counts": np.bincount(split.roles, minlength=3).tolist(),
                "rule": split.rule,
                "seed": split.seed,
                "leaking_groups": split.leaking_groups,
            }
            for name, split in cache.splits.items()
        },
        "damaged": [clip.name for clip in cache.clips if clip.damaged == 1],
        "failures": [vars(failure) for failure in cache.failures],
        "provenance": cache.provenance,
    }
