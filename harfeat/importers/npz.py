"""NumPy archives (.npz); pickled arrays are refused."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from harfeat.errors import InputError
from harfeat.importers.arrays import ForeignArrays, Keys, collect


def read_npz(path: Path, keys: Keys) -> ForeignArrays:
    """The arrays of an npz file, in memory."""
    try:
        archive = np.load(path, allow_pickle=False)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a readable npz file: {error}") from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise InputError(f"{path}: a single array, not an npz archive; save features and labels with np.savez")

    def fetch(key: str) -> np.ndarray:
        try:
            return archive[key]
        except ValueError as error:
            raise InputError(
                f"{path}: array {key!r} holds Python objects; save text as fixed-width text"
            ) from error

    return collect(path, keys, fetch, archive.files)
