"""How far extractions are, told from what they leave on disk: manifests, shards and their times, locks.

Nothing is written, and nothing is asked of the processes, which may run on other machines.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from harfeat.cache import CacheError, open_cache
from harfeat.cache.folder import LOCK, is_packed, work_folder
from harfeat.cache.manifest import MANIFEST, Manifest, read_manifest
from harfeat.errors import InputError

COMPLETE, RUNNING, STOPPED, ABSENT, UNREADABLE = "complete", "running", "stopped", "not begun", "unreadable"

_BREAK = 600.0
"""Seconds between two shards beyond which the run is taken to have stood still; shards come every half minute."""


@dataclass(frozen=True)
class Progress:
    """One extraction. `slice` is (i, n) counted from 0; `planned` is None where nobody has said it yet.

    `rate` is in clips an hour while it ran, from the times of its shards; `idle` the seconds since the last shard,
    `left` the seconds to the end; None where they cannot be known. `error` says why one is unreadable.
    """

    path: str
    state: str
    planned: int | None = None
    done: int = 0
    failures: int = 0
    slice: tuple[int, int] | None = None
    rate: float | None = None
    idle: float | None = None
    left: float | None = None
    error: str = ""


@dataclass(frozen=True)
class Status:
    """All extractions below a folder."""

    extractions: tuple[Progress, ...]

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do; clips that failed do not count as left."""
        return all(one.state == COMPLETE for one in self.extractions)

    def total(self) -> dict[str, Any]:
        """Sums over all; `rate` of those that run, `left` where all that is unfinished runs."""
        ours = self.extractions
        unfinished = [one for one in ours if one.state != COMPLETE]
        known = [one.left for one in unfinished if one.state == RUNNING and one.left is not None]
        unknown = any(one.planned is None for one in ours)
        return {
            "planned": None if unknown else sum(one.planned or 0 for one in ours),
            "done": sum(one.done for one in ours),
            "failures": sum(one.failures for one in ours),
            "extractions": len(ours),
            "complete": len(ours) - len(unfinished),
            "running": sum(one.state == RUNNING for one in ours),
            "rate": sum(one.rate or 0.0 for one in ours if one.state == RUNNING),
            "left": max(known) if unfinished and len(known) == len(unfinished) else None,
        }

    def json(self) -> dict[str, Any]:
        """Everything, for programs."""
        return {
            "complete": self.complete,
            "total": self.total(),
            "extractions": [asdict(x) for x in self.extractions],
        }

    def lines(self) -> list[str]:
        """A line an extraction and one for all."""
        width = max(len(one.path) for one in self.extractions)
        total = self.total()
        counted = Progress("total", "", total["planned"], total["done"], total["failures"])
        last = [
            f"{counted.path:{width}}  {_counts(counted)}",
            f"{total['complete']} of {total['extractions']} complete",
        ]
        last += [f"{total['rate']:,.0f} clips/h"] if total["rate"] else []
        last += [f"done in {duration(total['left'])}"] if total["left"] is not None else []
        return [*(f"{one.path:{width}}  {_told(one)}" for one in self.extractions), ", ".join(last)]


def survey(where: Path) -> Status:
    """Look at a folder, and two folders deep into it, or at the cache X.h5 and what gathers for it.

    Slices that are not there although others of the same n are count as not begun. Raises InputError where there
    is nothing to look at.
    """
    now = time.time()
    packed = [where] if is_packed(where) and not where.is_dir() else sorted(filter(is_packed, where.glob("*")))
    folders = {work_folder(where)} if is_packed(where) else {where}
    if where.is_dir():
        folders |= {path.parent for depth in ("*", "*/*") for path in where.glob(f"{depth}/{MANIFEST}")}
    manifests = {folder: folder / MANIFEST for folder in sorted(folders) if (folder / MANIFEST).is_file()}
    listed = {path.parent for path in manifests.values()}
    alone = [path for path in packed if path.is_file() and path.parent not in listed]
    grown = {work_folder(path): path for path in alone if work_folder(path) in manifests}
    found = [_of_file(path, where) for path in alone if path not in grown.values()]
    found += [_of_folder(folder, where, grown.get(folder), now) for folder in manifests]
    if not found:
        raise InputError(f"{where}: holds no {MANIFEST} and no cache, nor do the folders in it")
    return Status((*sorted(found, key=lambda one: one.path), *_absent(found)))


def duration(seconds: float) -> str:
    """A time a person can read: 12 s, 24 min, 3.5 h, 2.1 days."""
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            value = seconds / divisor
            return f"{value:.1f} {unit}" if unit == "h" else f"{value:.0f} {unit}"
    return f"{seconds / 86_400:.1f} days"


def rate_of(shards: Iterable[tuple[float, int]]) -> float | None:
    """Clips an hour from (time in seconds, clips) of each shard, without the times it stood still.

    None where fewer than two shards follow each other.
    """
    ordered = sorted(shards)
    gaps = [
        (after - before, clips) for (before, _), (after, clips) in pairwise(ordered) if after - before <= _BREAK
    ]
    seconds = sum(gap for gap, _ in gaps)
    return 3600 * sum(clips for _, clips in gaps) / seconds if seconds > 0 else None


def is_running(folder: Path) -> bool:
    """Whether a process holds the folder's lock, which the system frees when the process dies."""
    try:
        import fcntl  # noqa: PLC0415
    except ImportError as error:  # Windows has no flock
        raise InputError("harfeat status needs a system with flock (Linux, macOS)") from error
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise CacheError(f"{folder / LOCK}: cannot be opened ({error.strerror})") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _of_file(path: Path, where: Path) -> Progress:
    try:
        with open_cache(path) as cache:
            clips, failures = len(cache.clips), len(cache.failures)
    except CacheError as error:
        return Progress(_name(path, where), UNREADABLE, error=str(error))
    return Progress(_name(path, where), COMPLETE, clips + failures, clips, failures)


def _of_folder(folder: Path, where: Path, packed: Path | None, now: float) -> Progress:
    """`packed` is the file that the folder's shards are to be added to, if it is there already."""
    name = _name(folder, where)
    try:
        manifest = read_manifest(folder)
        running = is_running(folder)
        done = manifest.done
        if packed is not None:
            with open_cache(packed) as cache:
                done += len(cache.clips)
    except CacheError as error:
        return Progress(name, UNREADABLE, error=str(error))
    failures = len(manifest.failures)
    done = done if manifest.planned is None else min(done, manifest.planned)
    # While shards are added to a complete folder, its manifest says that it is not.
    state = COMPLETE if manifest.complete else RUNNING if running else STOPPED
    times = _times(folder, manifest)
    rate = rate_of(times)
    left = None
    if state == RUNNING and rate and manifest.planned is not None:
        left = 3600 * (manifest.planned - done - failures) / rate
    idle = None if not times else max(0.0, now - max(time for time, _ in times))
    return Progress(name, state, manifest.planned, done, failures, manifest.slice, rate, idle, left)


def _times(folder: Path, manifest: Manifest) -> list[tuple[float, int]]:
    """When each shard was written, and its clips."""
    found = []
    for entry in manifest.of_kind("shard"):
        # It may be replaced while we look.
        with contextlib.suppress(FileNotFoundError):
            found.append(((folder / entry.name).stat().st_mtime, entry.clips))
    return found


def _absent(found: Sequence[Progress]) -> list[Progress]:
    there = {one.slice for one in found}
    unreadable = {Path(one.path).name for one in found if one.state == UNREADABLE}
    counts = sorted({one.slice[1] for one in found if one.slice is not None})
    absent = [(f"slice-{i + 1}-of-{n}", (i, n)) for n in counts for i in range(n) if (i, n) not in there]
    return [Progress(name, ABSENT, slice=part) for name, part in absent if name not in unreadable]


def _name(path: Path, where: Path) -> str:
    return str(path.relative_to(where)) if path != where and path.is_relative_to(where) else path.name or str(path)


def _counts(one: Progress) -> str:
    planned = "?" if one.planned is None else f"{one.planned:,}"
    return f"{one.done:,} of {planned} clips" + (f", {one.failures:,} FAILED" if one.failures else "")


def _told(one: Progress) -> str:
    if one.state == UNREADABLE:
        return f"UNREADABLE: {one.error}"
    if one.state == ABSENT:
        return "NOT BEGUN"
    if one.state == COMPLETE:
        return f"{_counts(one)}, complete"
    parts = [_counts(one), "running" if one.state == RUNNING else "STOPPED: the same command resumes"]
    parts += [f"{one.rate:,.0f} clips/h"] if one.rate else []
    parts += [f"last shard {duration(one.idle)} ago"] if one.idle is not None else []
    parts += [f"done in {duration(one.left)}"] if one.left is not None else []
    return ", ".join(parts)
