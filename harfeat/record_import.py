"""From files of records to a cache: find the files, read what is missing, complete the cache.

The same command takes up what is there. It streams: a worker holds one stretch of features; what grows with the
clips is one row of metadata each.
"""

from __future__ import annotations

import glob
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import joblib
from tqdm import tqdm

from harfeat.cache import CacheHead, ClipRow, Failure, open_cache
from harfeat.cache.fingerprint import canonical_json, differing_fields
from harfeat.cache.folder import WorkFolder, is_packed, work_folder
from harfeat.cache.manifest import Manifest
from harfeat.errors import InputError
from harfeat.importers import yt8m
from harfeat.ledger import Ledger
from harfeat.provenance import machine, versions
from harfeat.readers import read_all, refuse_changed
from harfeat.settings import check_limits, option
from harfeat.splits import Split
from harfeat.stretches import Done, Job, Stamp, stamp_of, stretch_of

_COUNTED = ("records", "clips", "failures", "read_bytes", "lost_bytes")
_MOST_TOLD = 100
"""Files, and places of damage, that the provenance lists one by one."""


@dataclass(frozen=True)
class RecordSettings:
    """Settings of `harfeat import --from yt8m`; validated when made."""

    sources: tuple[str, ...]
    """Files, or patterns of them."""
    out: Path
    """X.h5: one packed file; else a folder for shards."""
    classes: int | None = None
    """Number of classes; None: by the vocabulary, or the largest label."""
    split_seed: int = 0
    features_id: str = yt8m.FEATURES_ID
    vocabulary: Path | None = option("yt8m: the official vocabulary.csv, for the names of the classes.", None)
    only_labels: str = option("yt8m: clips with any of these classes, and no other classes, e.g. 0-99,205.", "")
    max_clips: int = option("yt8m: the first so many clips, in the order of files and records; 0: all.", 0, low=0)
    workers: int = option("yt8m: processes that read a file each; -1: one a core; 1: none.", -1, low=-1)
    max_failures: int = option("yt8m: records that may fail without an exit code of 1.", 0, low=0)
    part_seconds: float = 30.0
    """How often a shard is written at least."""

    def __post_init__(self) -> None:
        check_limits(self)
        if self.classes is not None and not 0 < self.classes <= yt8m.MOST_CLASSES:
            raise InputError(f"--classes {self.classes}: must be from 1 to {yt8m.MOST_CLASSES}")
        if self.classes is not None and self.vocabulary is not None:
            raise InputError("--classes and --vocabulary both tell the number of classes: leave one out")


@dataclass(frozen=True)
class RecordResult:
    """What an import did.

    `clips` are in the cache, of them `resumed` from earlier; of `records` read `failures` could not be used, and
    `lost_bytes` behind damaged lengths could not be looked into; `dropped` shards were found damaged, and made
    anew; `notes` for a person.
    """

    out: Path
    clips: int
    resumed: int
    records: int
    failures: tuple[Failure, ...]
    lost_bytes: int
    splits: tuple[Split, ...]
    dropped: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float


def import_records(settings: RecordSettings, progress: bool = True) -> RecordResult:
    """Make or finish the cache `settings.out`.

    Raises InputError; a record that cannot be used is counted, and told with its place, instead.
    """
    started = time.perf_counter()
    files = find_files(settings.sources)
    vocabulary = None if settings.vocabulary is None else yt8m.read_vocabulary(settings.vocabulary)
    selection = _selection(settings, vocabulary)
    stamps = {path.name: stamp_of(path) for path in files}
    told = {"features_id": settings.features_id, "max_clips": settings.max_clips, **yt8m.told(selection)}
    provenance: dict[str, Any] = {"import": told, "stamps": _hash(stamps)}
    if is_packed(settings.out) and settings.out.is_file():
        return _there_already(settings, provenance, selection, vocabulary, started)
    layout = _common_layout(files)
    recipe = layout.recipe(settings.features_id)
    folder = WorkFolder(settings.out, Manifest(recipe, None, provenance=provenance))
    try:
        folder.open()
        ledger = Ledger(files, settings.max_clips)
        notes = _take_up(folder, ledger, stamps, told)
        resumed = ledger.clips
        job = Job(folder.path.absolute(), recipe, layout, selection, told, settings.part_seconds)
        workers = min(joblib.cpu_count() if settings.workers < 0 else settings.workers, len(files))
        with _bar(settings, stamps, progress) as bar:

            def advance() -> None:
                bar.n = min(ledger.clips, settings.max_clips) if settings.max_clips else ledger.bytes
                bar.set_postfix_str(f"{ledger.clips:,} clips", refresh=True)

            advance()
            read_all(job, ledger, folder, workers, advance)
        refuse_changed(files, ledger)
        done = tuple(ledger.in_order())
        failures = tuple(ledger.failures())
        if not ledger.clips:
            # Shards without a clip would only stand in the way of another attempt.
            folder.drop([one.shard for one in done])
            why = (
                f"the first failed, {failures[0].reason}" if failures else "none has any of the classes asked for"
            )
            raise InputError(f"no clip is in {settings.sources[0]}{' and others' * (len(files) > 1)}: {why}")
        counted = _counted(done)
        told_all = provenance | _told_of(counted, failures, settings)
        head = _head(recipe, done, folder.done, failures, told_all, settings, selection, vocabulary)
        folder.retry(tuple(folder.failures))
        folder.add(failures=failures)
        with tqdm(total=len(head.clips), desc="pack", unit="clip", disable=not progress) as bar:
            folder.finish(head, bar.update)
    finally:
        folder.close()
    return RecordResult(
        settings.out,
        len(head.clips),
        resumed,
        sum(row["records"] for row in counted.values()),
        failures,
        sum(row["lost_bytes"] for row in counted.values()),
        tuple(head.splits),
        tuple(folder.dropped),
        tuple(notes),
        time.perf_counter() - started,
    )


def find_files(patterns: Sequence[str]) -> tuple[Path, ...]:
    """The files that patterns (`**` too) or paths name, each once, by their names; raises InputError."""
    found: dict[Path, Path] = {}
    for pattern in patterns:
        paths = (
            [Path(pattern)] if Path(pattern).exists() else [Path(p) for p in glob.glob(pattern, recursive=True)]
        )
        files = [path for path in paths if path.is_file()]
        if not files:
            what = "is a folder: say which files in it, as in 'DIR/train*.tfrecord'" if paths else "no such file"
            raise InputError(f"{pattern}: {what}")
        found |= {path.resolve(): path for path in files}
    ordered = sorted(found.values(), key=lambda path: path.name)
    for one, other in pairwise(ordered):
        if one.name == other.name:
            raise InputError(f"{one} and {other} have one name, by which records are told apart: rename one")
    return tuple(ordered)


def _selection(settings: RecordSettings, vocabulary: Sequence[str] | None) -> yt8m.Selection:
    stated = settings.classes or (None if vocabulary is None else len(vocabulary))
    only = yt8m.parse_labels(settings.only_labels)
    if only and stated and only[-1] >= stated:
        raise InputError(f"--only-labels {settings.only_labels}: there are {stated} classes, numbered from 0")
    return yt8m.Selection(stated or yt8m.MOST_CLASSES, only)


def _common_layout(files: Sequence[Path]) -> yt8m.Layout:
    """The layout of all files, by the first good record of each; raises InputError where they disagree."""
    found: dict[yt8m.Layout, Path] = {}
    wrong: list[str] = []
    for path in files:
        layout = yt8m.first_layout(path)
        if isinstance(layout, str):
            wrong.append(layout)
        else:
            found.setdefault(layout, path)
        if len(found) > 1:
            (one, first), (other, second) = found.items()
            raise InputError(f"{first} is of {one}, {second} of {other}: import them one by one")
    if not found:
        raise InputError(f"none of {len(files)} files has a record of YouTube-8M's form; {wrong[0]}")
    return next(iter(found))


def _take_up(
    folder: WorkFolder, ledger: Ledger, stamps: Mapping[str, Stamp], told: Mapping[str, Any]
) -> list[str]:
    """Note what an earlier run has done; notes on files that have changed since. Raises InputError."""
    changed: dict[str, list[str]] = {}
    for shard, note in folder.notes.items():
        if not {"stretch", "import"} <= note.told.keys():
            raise InputError(f"{folder.path}: {shard} was written by something else: choose another --out")
        if difference := differing_fields(note.told["import"], told):
            raise InputError(
                f"{folder.path} holds an import by other settings ({'; '.join(difference)}): delete it, or choose "
                "another --out"
            )
        stretch = stretch_of(note.told)
        if stretch.file not in stamps:
            raise InputError(
                f"{folder.path} holds clips of {stretch.file}, which is not among the files given: name it too, "
                "or choose another --out"
            )
        if stretch.stamp != stamps[stretch.file]:
            changed.setdefault(stretch.file, []).append(shard)
        else:
            ledger.add(Done(stretch, shard, note.names, note.failures))
    for shards in changed.values():
        folder.drop(shards)
    return [f"{name} has changed since it was read; it is read again" for name in sorted(changed)]


def _there_already(
    settings: RecordSettings,
    provenance: Mapping[str, Any],
    selection: yt8m.Selection,
    vocabulary: Sequence[str] | None,
    started: float,
) -> RecordResult:
    """What is told where the packed file is finished; raises InputError where it is of something else."""
    out = settings.out
    with open_cache(out) as cache:
        if any(cache.provenance.get(key) != value for key, value in provenance.items()):
            raise InputError(f"{out} exists, of other files or settings: delete it or choose another --out")
        if cache.classes != _class_names(settings, selection, vocabulary, len(cache.classes) - 1):
            raise InputError(
                f"{out} exists, with other names of classes (--vocabulary): delete it or choose another --out"
            )
        if (seed := cache.provenance["settings"]["split_seed"]) != settings.split_seed:
            raise InputError(
                f"{out} exists, with splits by --split-seed {seed}: `harfeat split` gives it others, or choose "
                "another --out"
            )
        if work_folder(out).exists():  # killed before it was removed
            folder = WorkFolder(out, Manifest(cache.recipe, None))
            try:
                folder.open()
                folder.finish(cache.head)
            finally:
                folder.close()
        counted, clips = cache.provenance["source"], len(cache.clips)
        return RecordResult(
            out,
            clips,
            clips,
            counted["records"],
            cache.failures,
            counted["lost_bytes"],
            tuple(cache.splits.values()),
            (),
            (),
            time.perf_counter() - started,
        )


def _head(
    recipe: Mapping[str, Any],
    done: Sequence[Done],
    rows: Mapping[str, ClipRow],
    failures: Sequence[Failure],
    provenance: dict[str, Any],
    settings: RecordSettings,
    selection: yt8m.Selection,
    vocabulary: Sequence[str] | None,
) -> CacheHead:
    clips = [rows[name] for one in done for name in one.names]
    largest = max((label for clip in clips for label in clip.all_labels), default=-1)
    classes = _class_names(settings, selection, vocabulary, largest)
    partitions = [yt8m.partition_of(one.stretch.file) for one in done for _ in one.names]
    splits = yt8m.splits_of(partitions, clips, settings.split_seed)
    return CacheHead(recipe, classes, clips, splits, failures, provenance)


def _class_names(
    settings: RecordSettings, selection: yt8m.Selection, vocabulary: Sequence[str] | None, largest: int
) -> tuple[str, ...]:
    stated = settings.classes is not None or vocabulary is not None
    return yt8m.class_names(selection, vocabulary, stated, largest)


def _counted(done: Sequence[Done]) -> dict[str, dict[str, int]]:
    """Of each file, how many records, clips and failures it has, how many bytes were read and lost."""
    files: dict[str, dict[str, int]] = {}
    for one in done:
        stretch = one.stretch
        row = files.setdefault(stretch.file, dict.fromkeys(_COUNTED, 0))
        found = (stretch.records, len(one.names), len(one.failures), stretch.end - stretch.start, stretch.lost)
        for key, count in zip(_COUNTED, found, strict=True):
            row[key] += count
    return files


def _told_of(
    files: Mapping[str, Mapping[str, int]], failures: Sequence[Failure], settings: RecordSettings
) -> dict[str, Any]:
    """Provenance of what was read. Names only: where files lie is nobody's affair who gets the cache."""
    return {
        "source": {
            "format": "yt8m",
            "files": len(files),
            **{key: sum(row[key] for row in files.values()) for key in _COUNTED},
            "by_file": dict(islice(files.items(), _MOST_TOLD)),
            "failures_by_place": [failure.reason for failure in failures[:_MOST_TOLD]],
        },
        "settings": {
            "only_labels": settings.only_labels,
            "max_clips": settings.max_clips,
            "classes": settings.classes,
            "vocabulary": None if settings.vocabulary is None else settings.vocabulary.name,
            "split_seed": settings.split_seed,
        },
        "versions": versions(),
        "machine": machine(),
    }


def _bar(settings: RecordSettings, stamps: Mapping[str, Stamp], progress: bool) -> tqdm:
    if settings.max_clips:
        return tqdm(total=settings.max_clips, desc="import", unit="clip", disable=not progress)
    total = sum(size for size, _ in stamps.values())
    return tqdm(total=total, desc="import", unit="B", unit_scale=True, disable=not progress)


def _hash(stamps: Mapping[str, Stamp]) -> str:
    return hashlib.sha256(
        canonical_json({name: list(stamp) for name, stamp in stamps.items()}).encode()
    ).hexdigest()
