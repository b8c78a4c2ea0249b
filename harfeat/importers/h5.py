"""HDF5 files of other people."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from harfeat.errors import InputError
from harfeat.importers.arrays import UNREADABLE, ForeignArrays, Keys, collect


@contextmanager
def read_h5(path: Path, keys: Keys) -> Iterator[ForeignArrays]:
    """The arrays of an HDF5 file; features stay on disk and are read clip by clip, while the context lasts."""
    try:
        file = h5py.File(path, "r", locking=False)
    except UNREADABLE as error:
        raise InputError(f"{path}: not a readable HDF5 file (damaged, cut short or foreign)") from error

    def fetch(key: str) -> np.ndarray:
        return file[key] if key == keys.features else file[key][...]

    with file:
        yield collect(path, keys, fetch, lambda: _names(file))


def _names(file: h5py.File) -> list[str]:
    """Every dataset in the file itself; links to elsewhere are not followed."""
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names
