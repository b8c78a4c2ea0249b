"""From a data set to its cache: find out what is missing, extract it, complete the cache.

The same call takes up what is there, after checking that each video still has the bytes it was extracted from.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import joblib
from tqdm import tqdm

from harfeat.backbone import Backbone
from harfeat.cache import CacheHead, ClipRow, Failure
from harfeat.cache.folder import WorkFolder
from harfeat.cache.manifest import Manifest
from harfeat.datasets import Clip, Dataset, DatasetOptions, load_dataset
from harfeat.datasets.subset import limited, without
from harfeat.errors import InputError
from harfeat.extraction import Destination, backbone_of, extract_clips, recipe_of
from harfeat.hashing import sha256_of_file
from harfeat.provenance import machine, versions
from harfeat.settings import ExtractSettings
from harfeat.splits import Split


@dataclass(frozen=True)
class ExtractResult:
    """What an extraction did.

    `clips` in the cache, of them `resumed` taken over from earlier; `failures`, of them `known` from earlier and
    not tried again; `dropped` files that were found damaged; `notes` of the data set.
    """

    clips: int
    resumed: int
    failures: tuple[Failure, ...]
    known: int
    splits: tuple[Split, ...]
    dropped: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float


def extract(settings: ExtractSettings, progress: bool = True) -> ExtractResult:
    """Make or finish the cache `settings.out`. Raises InputError; a clip that fails is recorded instead."""
    started = time.perf_counter()
    dataset = limited(load(settings), settings.limit)
    backbone = backbone_of(settings)
    recipe = recipe_of(settings, backbone)
    provenance = _provenance(dataset, backbone, settings)
    folder = WorkFolder(settings.out, Manifest(recipe, len(dataset.clips), provenance=provenance))
    try:
        folder.open()
        done = folder.done
        _refuse_loss(dataset, done, settings.out)
        changed = _changed(dataset.clips, done)
        folder.forget(changed)
        names = {clip.name for clip in dataset.clips}
        retried = set(folder.failures) if settings.retry_failed else set(folder.failures) - names
        folder.retry(retried | changed)
        known = len(folder.failures)
        todo = [
            clip for clip in dataset.clips if clip.name not in folder.done and clip.name not in folder.failures
        ]
        destination = Destination(folder.path, recipe, dataset.classes)
        with tqdm(total=len(todo), desc="extract", unit="clip", disable=not (progress and todo)) as bar:
            extract_clips(todo, backbone, settings, destination, folder.add, bar.update)
        kept = without(dataset, folder.failures)
        failures = tuple(folder.failures.values())
        _complete(dataset, kept, failures, folder, recipe, provenance)
    finally:
        folder.close()
    return ExtractResult(
        len(kept.clips),
        len(dataset.clips) - len(todo) - known,
        failures,
        known,
        kept.splits,
        tuple(folder.dropped),
        dataset.notes,
        time.perf_counter() - started,
    )


def load(settings: ExtractSettings) -> Dataset:
    """The data set that the settings name; raises InputError."""
    options = DatasetOptions(
        settings.splits_dir, settings.group_pattern, settings.test_groups, settings.split_seed
    )
    return load_dataset(settings.dataset, settings.root, options)


def _complete(
    dataset: Dataset,
    kept: Dataset,
    failures: Sequence[Failure],
    folder: WorkFolder,
    recipe: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> None:
    if not kept.clips:
        raise InputError(
            f"none of the {len(dataset.clips)} clips could be decoded; the first, {failures[0].name}: "
            f"{failures[0].reason}"
        )
    rows = [ClipRow(clip.name, clip.label, clip.group) for clip in kept.clips]
    folder.finish(CacheHead(recipe, kept.classes, rows, kept.splits, failures, provenance))


def _provenance(dataset: Dataset, backbone: Backbone, settings: ExtractSettings) -> dict[str, Any]:
    return {
        "dataset": {"name": dataset.name, "root": str(dataset.root), "notes": list(dataset.notes)},
        "settings": {
            key: str(value) if isinstance(value, Path) else value for key, value in asdict(settings).items()
        },
        "weights": asdict(backbone.source),
        "device": str(backbone.device),
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
    hashes = joblib.Parallel(n_jobs=-1, prefer="threads")(joblib.delayed(_hash)(clip.path) for clip in known)
    return {clip.name for clip, value in zip(known, hashes, strict=True) if value != done[clip.name].sha256}


def _hash(path: Path) -> str | None:
    """None where the file cannot be read; decoding it will tell why."""
    try:
        return sha256_of_file(path) if path.is_file() else None
    except OSError:
        return None
