"""Caches that were changed by somebody else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from harfeat.cache import CacheError, open_cache


def assert_refused_with(change: Callable[[h5py.File], object], path: Path, match: str) -> None:
    """A cache that was tampered with so is refused in one line, which names the file and what `match` finds."""
    with h5py.File(path, "r+", libver=("v108", "latest")) as file:
        change(file)
    with pytest.raises(CacheError, match=match) as caught:
        open_cache(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
