"""Caches for people with other tools: one file a format, one line here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from harfeat.exporters.npz import write_npz
from harfeat.exporters.safetensors import write_safetensors
from harfeat.exporters.tables import ExportSettings, Selection
from harfeat.exporters.webdataset import write_webdataset

EXPORTERS: dict[str, Callable[[Selection, Path], None]] = {
    "npz": write_npz,
    "safetensors": write_safetensors,
    "webdataset": write_webdataset,
}
"""Each writes the selection to a path that does not exist yet, wholly or not at all, clip by clip."""

__all__ = ["EXPORTERS", "ExportSettings", "Selection"]
