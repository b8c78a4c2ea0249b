"""Features that somebody else extracted: one file a format, one line here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from harfeat.importers.arrays import ForeignArrays, Keys
from harfeat.importers.h5 import read_h5
from harfeat.importers.npz import read_npz

IMPORTERS: dict[str, Callable[[Path, Keys], AbstractContextManager[ForeignArrays]]] = {
    "h5": read_h5,
    "npz": read_npz,
}
"""Formats of arrays under keys, a file each."""

RECORDS = ("yt8m",)
"""Formats of records, many files each (`harfeat.record_import`)."""

__all__ = ["IMPORTERS", "RECORDS", "ForeignArrays", "Keys"]
