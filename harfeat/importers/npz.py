"""NumPy archives (.npz); pickled arrays are refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from harfeat.errors import InputError
from harfeat.importers.arrays import UNREADABLE, ForeignArrays, Keys, collect


@contextmanager
def read_npz(path: Path, keys: Keys) -> Iterator[ForeignArrays]:
    """The arrays of an npz file, in memory."""
    try:
        archive = np.load(path, allow_pickle=False)
    except UNREADABLE as error:
        raise InputError(f"{path}: not a readable npz file (damaged, cut short or foreign)") from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise InputError(f"{path}: a single array, not an npz archive; save features and labels with np.savez")
    with archive:
        yield collect(path, keys, archive.__getitem__, lambda: list(archive.files))
