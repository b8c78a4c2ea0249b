"""The identity of features: a hash over everything that changes a number in them.

Two caches may be mixed, and a model trained on one may be used on the other, exactly when their
fingerprints are equal. The recipe that is hashed stands in the provenance, so that a difference can be named.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def canonical_json(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(recipe: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a recipe's canonical JSON."""
    return hashlib.sha256(canonical_json(recipe).encode()).hexdigest()


def differing_fields(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Where two recipes differ, as 'field: ours against theirs', nested fields with dots."""
    lines: list[str] = []
    for key in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(key), theirs.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differing_fields(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a!r} against {b!r}")
    return lines
