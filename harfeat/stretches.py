"""A stretch of a file of records: what one worker reads at a time and writes as one shard.

The shard tells in its provenance which bytes of which file it covers, and as its failures what in them could not
be used; it is written also where no clip was taken. So the shards alone say what is done, whenever a run ends.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harfeat.cache import CacheHead, ClipFeatures, ClipRow, Failure, StreamLayout
from harfeat.cache.hashed_files import MOST_HELD, add_file
from harfeat.cache.manifest import FileEntry
from harfeat.errors import InputError
from harfeat.importers.example import RecordError, VideoRecord
from harfeat.importers.tfrecord import Damage, Record, read_records
from harfeat.importers.yt8m import Layout, Selection, clip_of

Stamp = tuple[int, int]
"""Size and time of change of a file: what differs once it has been written to or replaced."""


@dataclass(frozen=True)
class Job:
    """What all stretches of an import have in common.

    `folder` takes the shards; `settings` are those that change which clips are taken, told in each shard. One is
    written after `seconds`, or when `held` bytes of features have come together.
    """

    folder: Path
    recipe: Mapping[str, Any]
    layout: Layout
    selection: Selection
    settings: Mapping[str, Any]
    seconds: float = 30.0
    held: int = MOST_HELD


@dataclass(frozen=True)
class Task:
    """What to read: a file from byte `start`, where record `record` begins, up to byte `until` (None: the end).

    It ends with the clip that makes it `most`. `taken` are videos that another file has (its name is the value):
    here they count as failures.
    """

    path: Path
    start: int = 0
    record: int = 0
    until: int | None = None
    most: int | None = None
    taken: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stretch:
    """Bytes `start` to `end` of a file, in which the records from number `record` on, `records` of them, stand.

    `last`: the file ends with it. `lost`: bytes at the file's end in which nothing could be found. `taken`: where
    the last clip that was taken ends, `start` where there is none.
    """

    file: str
    stamp: Stamp
    start: int
    end: int
    last: bool
    record: int
    records: int
    lost: int
    taken: int


@dataclass(frozen=True)
class Done:
    """A stretch that is written: its shard, the names of its clips in their order, what failed in it."""

    stretch: Stretch
    shard: str
    names: tuple[str, ...]
    failures: tuple[Failure, ...]
    entry: FileEntry | None = None
    """None where it comes from an earlier run."""


def stamp_of(path: Path) -> Stamp:
    """Size and time of change of a file; raises InputError where there is none."""
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return status.st_size, status.st_mtime_ns


def read_stretch(job: Job, task: Task) -> Done:
    """Read records and write the clips among them as a shard. Raises InputError where file or folder refuse."""
    stamp, began = stamp_of(task.path), time.monotonic()
    rows: list[ClipRow] = []
    clips: list[dict[str, ClipFeatures]] = []
    failures: list[Failure] = []
    seen = dict(task.taken)
    end = last_taken = task.start
    records = lost = held = 0
    for record in read_records(task.path, task.start, task.record):
        end, records = record.end, records + 1
        lost += record.lost if isinstance(record, Damage) else 0
        taken = _take(record, task.path.name, seen, job)
        if isinstance(taken, Failure):
            failures.append(taken)
        elif taken is not None:
            rows.append(taken[0])
            clips.append(taken[1])
            seen[taken[0].name] = task.path.name
            last_taken = end
            held += sum(values.features.nbytes for values in taken[1].values())
        if (
            (task.until is not None and end >= task.until)
            or (task.most is not None and len(rows) >= task.most)
            or held >= job.held
            or time.monotonic() - began >= job.seconds
        ):
            break
    last = end >= stamp[0]
    stretch = Stretch(task.path.name, stamp, task.start, end, last, task.record, records, lost, last_taken)
    entry = _write(job, stretch, rows, clips, failures)
    return Done(stretch, entry.name, tuple(row.name for row in rows), tuple(failures), entry)


def stretch_of(told: Mapping[str, Any]) -> Stretch:
    """The stretch that a shard's provenance tells of."""
    fields = dict(told["stretch"])
    return Stretch(**{**fields, "stamp": tuple(fields["stamp"])})


def gaps(path: Path, done: Iterable[Stretch]) -> Iterator[Task]:
    """What of a file is still to be read, in its order."""
    at = record = 0
    for stretch in sorted(done, key=lambda one: one.start):
        if stretch.start > at:
            yield Task(path, at, record, stretch.start)
        at, record = stretch.end, stretch.record + stretch.records
        if stretch.last:
            return
    yield Task(path, at, record)


def place_of(file: str, record: Record | Damage) -> str:
    """Where a record stands, as failures tell it."""
    return f"{file}, record {record.number}, byte {record.start}"


def _take(
    record: Record | Damage, file: str, seen: Mapping[str, str], job: Job
) -> tuple[ClipRow, dict[str, ClipFeatures]] | Failure | None:
    """The clip of a record, its failure, or None where it is not wanted."""
    name = f"{file}@{record.start}"
    if isinstance(record, Damage):
        return Failure(name, f"{place_of(file, record)}: {record.reason}")
    try:
        video = VideoRecord(record.payload)
        found = video.name
        if found not in seen:
            name = found
        taken = clip_of(video, found, job.layout, job.selection)
    except RecordError as error:
        return Failure(name, f"{place_of(file, record)}: {error}")
    if taken is not None and found in seen:
        return Failure(name, f"{place_of(file, record)}: the video {found} stands in {seen[found]} already")
    return taken


def _write(
    job: Job, stretch: Stretch, rows: list[ClipRow], clips: list[dict[str, ClipFeatures]], failures: list[Failure]
) -> FileEntry:
    # Only so many as its own labels need; the names come with the head.
    largest = max((label for row in rows for label in row.all_labels), default=-1)
    classes = [f"class{index}" for index in range(largest + 1)]
    streams = {
        name: StreamLayout([len(clip[name].frame_index) for clip in clips], width, job.layout.dtype)
        for name, width in job.layout.widths
    }
    provenance = {"stretch": asdict(stretch), "import": dict(job.settings)}
    head = CacheHead(job.recipe, classes, rows, failures=failures, provenance=provenance)
    return add_file(job.folder, "shard", head, streams, clips)
