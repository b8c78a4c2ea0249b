"""From a cache to a format of other tools."""

from __future__ import annotations

from pathlib import Path

from harfeat.cache import open_cache
from harfeat.errors import InputError
from harfeat.exporters import EXPORTERS, ExportSettings, Selection

_OF_WEBDATASET = {"split": "--split", "shard_clips": "--shard-clips", "shuffle": "--shuffle"}


def export(source: Path, kind: str, out: Path, settings: ExportSettings | None = None) -> tuple[str, ...]:
    """Write the cache at `source` to the new path `out` in the format `kind` (`EXPORTERS`); the streams written.

    Every clip is checked against its hash on the way. `out` is there only when it is whole. Raises InputError.
    """
    settings = settings or ExportSettings()
    if kind not in EXPORTERS:
        raise InputError(f"--to {kind}: choose one of {', '.join(EXPORTERS)}")
    if out.exists():
        raise InputError(f"{out} exists: delete it or choose another --out")
    if settings.shard_clips < 1:
        raise InputError(f"--shard-clips {settings.shard_clips}: must be at least 1")
    if settings.shuffle is not None and settings.shuffle < 0:
        raise InputError(f"--shuffle {settings.shuffle}: must be at least 0")
    if kind != "webdataset":
        for field, option in _OF_WEBDATASET.items():
            if getattr(settings, field) != getattr(ExportSettings(), field):
                raise InputError(f"{option} is for --to webdataset only; leave it out")
    with open_cache(source) as cache:
        selection = Selection(cache, settings)
        EXPORTERS[kind](selection, out)
        return selection.streams
