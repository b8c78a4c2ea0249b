"""NumPy archives (.npz) that numpy alone reads, without pickle: see `harfeat.exporters.tables` for the names."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from harfeat.cache.writer import atomic_path
from harfeat.exporters.tables import ROWS, Selection, key_of

_BEFORE_1980 = (1980, 1, 1, 0, 0, 0)
"""What zip writes as no time, so that equal caches give equal files."""


def write_npz(selection: Selection, out: Path) -> None:
    """Write one uncompressed archive. np.savez would need all features in memory."""
    with atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w", allowZip64=True) as archive:
        for stream in selection.streams:
            for what in ROWS:
                with _member(archive, key_of(stream, what)) as file:
                    shape, dtype = selection.shape(stream, what)
                    _write_header(file, shape, dtype)
                    for rows in selection.rows(stream, what):
                        file.write(rows.data.cast("B") if rows.size else b"")
        texts = {key: np.array(values, dtype=np.str_) for key, values in selection.texts().items()}
        facts = {key: np.array(value, dtype=np.str_) for key, value in selection.facts().items()}
        for key, values in {**selection.numbers(), **texts, **facts}.items():
            with _member(archive, key) as file:
                np.lib.format.write_array(file, values, allow_pickle=False)


def _member(archive: zipfile.ZipFile, key: str) -> IO[bytes]:
    return archive.open(zipfile.ZipInfo(f"{key}.npy", _BEFORE_1980), "w", force_zip64=True)


def _write_header(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)
