"""From a data set to its cache: find out what is missing, extract it, complete the cache.

The same call takes up what is there, after checking that each video still has the bytes it was extracted from.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import joblib
from tqdm import tqdm

from harfeat.backends import backend_of
from harfeat.cache import CacheHead, ClipRow, Failure
from harfeat.cache.folder import WorkFolder
from harfeat.cache.manifest import Manifest
from harfeat.datasets import Clip, Dataset
from harfeat.datasets.subset import limited, without
from harfeat.errors import InputError
from harfeat.extraction import Destination
from harfeat.hashing import sha256_of_file
from harfeat.provenance import machine, versions
from harfeat.settings import ExtractSettings, dataset_of
from harfeat.slices import parse_slice, refuse_slices, slice_folder, sliced
from harfeat.splits import Split


@dataclass(frozen=True)
class ExtractResult:
    """What an extraction did.

    `out` is where the cache is: the slice's folder where only a slice was asked for. `clips` are in the cache, of
    them `resumed` taken over from earlier; `failures`, of them `known` from earlier and not tried again; `dropped`
    files that were found damaged; `notes` of the data set.
    """

    out: Path
    clips: int
    resumed: int
    failures: tuple[Failure, ...]
    known: int
    splits: tuple[Split, ...]
    dropped: tuple[str, ...]
    damaged: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float


def extract(
    settings: ExtractSettings, progress: bool = True, environment: Mapping[str, str] | None = None
) -> ExtractResult:
    """Make or finish the cache `settings.out`, or one slice of it; `environment` tells which one for `auto`.

    Raises InputError; a clip that fails is recorded instead.
    """
    started = time.perf_counter()
    part = parse_slice(settings.shard, os.environ if environment is None else environment)
    if part is None:
        refuse_slices(settings.out)
    out = settings.out if part is None else slice_folder(settings.out, part)
    dataset = sliced(limited(dataset_of(settings), settings.limit), part)
    with backend_of(settings) as backend:
        described = backend.describe()
        recipe = described.recipe
        notes = (*dataset.notes, *([described.note] if described.note else []))
        provenance = _provenance(dataset, described.provenance, settings)
        folder = WorkFolder(out, Manifest(recipe, len(dataset.clips), slice=part, provenance=provenance))
        try:
            folder.open()
            _refuse_loss(dataset, folder.done, out)
            todo = _todo(dataset, folder, settings.retry_failed)
            known = len(folder.failures)
            destination = Destination(folder.path.absolute(), recipe, dataset.classes)
            stamps = {clip.name: _stamp(clip.path) for clip in todo}
            with tqdm(total=len(todo), desc="extract", unit="clip", disable=not (progress and todo)) as bar:
                backend.run(todo, destination, folder.add, bar.update, folder.adopt)
            _refuse_changed([clip for clip in todo if _stamp(clip.path) != stamps[clip.name]], folder)
            kept = without(dataset, folder.failures)
            failures = tuple(folder.failures.values())
            if not kept.clips and part is None:
                raise InputError(
                    f"none of the {len(dataset.clips)} clips could be decoded; the first, {failures[0].name}: "
                    f"{failures[0].reason}"
                )
            rows = [ClipRow(clip.name, clip.label, clip.group) for clip in kept.clips]
            done = folder.done
            damaged = tuple(row.name for row in rows if done[row.name].damaged == 1)
            folder.finish(CacheHead(recipe, kept.classes, rows, kept.splits, failures, provenance))
        finally:
            folder.close()
    return ExtractResult(
        out,
        len(kept.clips),
        len(dataset.clips) - len(todo) - known,
        failures,
        known,
        kept.splits,
        tuple(folder.dropped),
        damaged,
        notes,
        time.perf_counter() - started,
    )


def _todo(dataset: Dataset, folder: WorkFolder, retry_failed: bool) -> list[Clip]:
    """The clips to extract; what is stored of videos that have changed is forgotten."""
    changed = _changed(dataset.clips, folder.done)
    folder.forget(changed)
    retried = set(folder.failures)
    if not retry_failed:
        retried -= {clip.name for clip in dataset.clips}
    folder.retry(retried | changed)
    return [clip for clip in dataset.clips if clip.name not in folder.done and clip.name not in folder.failures]


def _refuse_changed(clips: Sequence[Clip], folder: WorkFolder) -> None:
    """Do not keep features of a video whose bytes are others by now: nobody could say what they are of."""
    changed = _changed(clips, folder.done)
    folder.forget(changed)
    folder.add(failures=[Failure(name, "its file changed while it was extracted") for name in sorted(changed)])


def _provenance(dataset: Dataset, model: Mapping[str, Any], settings: ExtractSettings) -> dict[str, Any]:
    # Names only: where folders and files lie is nobody's affair who gets the cache.
    told = {**asdict(settings), "weights": Path(settings.weights).name}
    return {
        "dataset": {"name": dataset.name, "root": dataset.root.name, "notes": list(dataset.notes)},
        "settings": {key: value.name if isinstance(value, Path) else value for key, value in told.items()},
        **model,
        "versions": versions(),
        "machine": machine(),
    }


def _refuse_loss(dataset: Dataset, done: Mapping[str, ClipRow], out: Path) -> None:
    """A smaller set (--limit, a folder that was moved) must not shrink what was extracted before."""
    lost = sorted(done.keys() - {clip.name for clip in dataset.clips})
    if lost:
        raise InputError(
            f"{out} holds {len(lost)} clips that this command would drop, first {lost[0]}: choose another --out, "
            "or delete it"
        )


def _changed(clips: Sequence[Clip], done: Mapping[str, ClipRow]) -> set[str]:
    """Names of the clips whose video is no longer what it was when its features were made."""
    known = [clip for clip in clips if clip.name in done]
    hashes = joblib.Parallel(n_jobs=-1, backend="threading")(joblib.delayed(_hash)(clip.path) for clip in known)
    return {clip.name for clip, value in zip(known, hashes, strict=True) if value != done[clip.name].sha256}


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What differs once a file has been written to or replaced."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _hash(path: Path) -> str | None:
    """None where the file cannot be read; decoding it will tell why."""
    try:
        return sha256_of_file(path) if path.is_file() else None
    except OSError:
        return None
