"""HDF5 files of other people."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from harfeat.errors import InputError
from harfeat.importers.arrays import ForeignArrays, Keys, collect


def read_h5(path: Path, keys: Keys) -> ForeignArrays:
    """The arrays of an HDF5 file; features stay on disk and are read clip by clip."""
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise InputError(f"{path}: not a readable HDF5 file: {error}") from error
    known: list[str] = []
    file.visititems(lambda name, item: known.append(name) if isinstance(item, h5py.Dataset) else None)

    def fetch(key: str) -> np.ndarray:
        return file[key] if key == keys.features else file[key][...]

    return collect(path, keys, fetch, known)
