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
        "clips_per_class": cache.clips_per_class.tolist(),
        "labels_per_clip": _labels_per_clip(cache),
        "groups": len({clip.group for clip in cache.clips} - {""}),
        "streams": {
            name: {
                "rows": int(cache.lengths(name).sum()),
                "dim": cache.dim(name),
                "dtype": str(cache.dtype(name)),
                "quantisation": list(cache.quantisation(name)),
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


def _labels_per_clip(cache: Cache) -> dict[str, Any]:
    """Mean, most, and how many clips have several or none."""
    sizes = np.diff(cache.label_sets[0])
    return {
        "mean": float(sizes.mean()) if sizes.size else 0.0,
        "most": int(sizes.max(initial=0)),
        "several": int((sizes > 1).sum()),
        "none": int((sizes == 0).sum()),
    }
