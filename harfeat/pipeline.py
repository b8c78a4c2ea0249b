"""From a data set to its cache: decode ahead, run the model in full batches, write parts, pack.

Every 30 seconds the finished clips become a part on disk. The same call takes up what is there, after checking
that each video still has the bytes it was extracted from.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from tqdm import tqdm

from harfeat.backbone import Backbone, build_backbone
from harfeat.batching import ClipBatcher
from harfeat.cache import CacheHead, ClipFeatures, ClipRow, Failure
from harfeat.cache.parts import Parts
from harfeat.cache.schema import VERSION
from harfeat.datasets import Clip, Dataset, DatasetOptions, load_dataset
from harfeat.decode import POLICY_VERSION, DecodeError
from harfeat.decode.pool import prepared_clips
from harfeat.decode.worker import Prepared
from harfeat.errors import InputError
from harfeat.hashing import sha256_of_file
from harfeat.provenance import machine, versions
from harfeat.sampling import SAMPLERS, SamplingSettings, uniform
from harfeat.splits import Split, leaking_groups


@dataclass(frozen=True)
class ExtractSettings:
    """Settings of `harfeat extract`.

    `limit` takes about that many clips, spread evenly over the classes; 0 takes all. `workers` 0 decodes in the
    main process, -1 starts one process a core. `clip_timeout` is in seconds.
    """

    dataset: str
    root: Path
    out: Path
    model: str = "tf_efficientnet_lite0"
    weights: str = "auto"
    frames: int = 25
    sampling: str = "uniform"
    splits_dir: Path | None = None
    group_pattern: str | None = None
    test_groups: tuple[str, ...] = ()
    split_seed: int = 0
    workers: int = -1
    device: str = "auto"
    precision: str = "auto"
    dtype: str = "float16"
    batch: int = 32
    limit: int = 0
    clip_timeout: float = 120.0
    part_seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.sampling not in SAMPLERS:
            raise InputError(f"--sampling {self.sampling}: choose one of {', '.join(SAMPLERS)}")
        for name, low in (("frames", 1), ("batch", 1), ("limit", 0), ("workers", -1), ("split_seed", 0)):
            if getattr(self, name) < low:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least {low}")
        if not self.clip_timeout > 0:
            raise InputError(f"--clip-timeout {self.clip_timeout}: must be more than 0 seconds")


@dataclass(frozen=True)
class ExtractResult:
    """What an extraction did: clips in the cache, of them taken over from earlier, failures, data set notes."""

    clips: int
    resumed: int
    failures: tuple[Failure, ...]
    splits: tuple[Split, ...]
    notes: tuple[str, ...]
    seconds: float


def extract(settings: ExtractSettings, progress: bool = True) -> ExtractResult:
    """Make or finish the cache `settings.out`. Raises InputError; a clip that fails is recorded instead."""
    started = time.perf_counter()
    options = DatasetOptions(
        settings.splits_dir, settings.group_pattern, settings.test_groups, settings.split_seed
    )
    dataset = _limited(load_dataset(settings.dataset, settings.root, options), settings.limit)
    backbone = build_backbone(
        settings.model, settings.weights, settings.device, settings.precision, settings.batch
    )
    recipe = {
        "kind": "video",
        "schema": VERSION,
        "decoder_policy": POLICY_VERSION,
        "sampling": SamplingSettings(settings.sampling, settings.frames).recipe(),
        **backbone.recipe(),
        "dtype": settings.dtype,
    }
    parts = Parts(settings.out, recipe, np.dtype(settings.dtype))
    try:
        done = parts.open()
        _refuse_loss(dataset, done, settings.out)
        changed = _changed(dataset.clips, done)
        parts.forget(changed)
        todo = [clip for clip in dataset.clips if clip.name not in done or clip.name in changed]
        failures = _extract_clips(todo, dataset, backbone, settings, parts, progress)
        _pack(dataset, backbone, settings, recipe, parts, failures)
    finally:
        parts.close()
    kept = len(dataset.clips) - len(failures)
    return ExtractResult(
        kept,
        len(dataset.clips) - len(todo),
        tuple(failures),
        _subset(dataset, failures).splits,
        dataset.notes,
        time.perf_counter() - started,
    )


def _extract_clips(
    todo: Sequence[Clip],
    dataset: Dataset,
    backbone: Backbone,
    settings: ExtractSettings,
    parts: Parts,
    progress: bool,
) -> list[Failure]:
    failures: list[Failure] = []
    rows: list[ClipRow] = []
    features: list[ClipFeatures] = []
    written = time.monotonic()

    def write() -> None:
        nonlocal written
        if rows:
            parts.add(dataset.classes, rows, features)
        rows.clear()
        features.clear()
        written = time.monotonic()

    try:
        # Closed at once on an error: the traceback would keep the decoding processes alive.
        with closing(_features(todo, backbone, settings, progress)) as results:
            for result in results:
                if isinstance(result, Failure):
                    failures.append(result)
                    continue
                row, values = result
                rows.append(row)
                features.append(values)
                if time.monotonic() - written > settings.part_seconds:
                    write()
    finally:
        # Ctrl-C comes here too: what is finished is kept.
        write()
    return failures


Outcome = tuple[ClipRow, ClipFeatures] | Failure


def _features(
    todo: Sequence[Clip], backbone: Backbone, settings: ExtractSettings, progress: bool
) -> Generator[Outcome, None, None]:
    """The row and features of each clip, or its failure; finished clips come in order."""
    batcher: ClipBatcher[tuple[Clip, Prepared]] = ClipBatcher(backbone.features, backbone.batch)
    workers = min(joblib.cpu_count() if settings.workers < 0 else settings.workers, max(1, len(todo)))
    paths = [clip.path for clip in todo]
    sampling = SamplingSettings(settings.sampling, settings.frames)
    prepared = prepared_clips(paths, sampling, backbone.transform, workers, settings.clip_timeout)
    bar = tqdm(total=len(todo), desc="extract", unit="clip", disable=not (progress and todo))
    with closing(prepared), bar:
        for clip, result in zip(todo, prepared, strict=True):
            if isinstance(result, DecodeError):
                bar.update()
                yield Failure(clip.name, str(result))
                continue
            for (done, source), values in batcher.add((clip, result), result.views[0].pixels):
                bar.update()
                yield _outcome(done, source, values, settings.dtype)
        for (done, source), values in batcher.flush():
            bar.update()
            yield _outcome(done, source, values, settings.dtype)


def _outcome(clip: Clip, source: Prepared, values: np.ndarray, dtype: str) -> Outcome:
    with np.errstate(over="ignore"):
        stored = values.astype(dtype)
    if not np.isfinite(stored).all():
        return Failure(clip.name, f"features hold NaN or infinity as {dtype}; try --dtype float32")
    row = ClipRow(clip.name, clip.label, clip.group, source.source_frames, source.fps, source.sha256)
    return row, ClipFeatures(stored, source.views[0].indices)


def _pack(
    dataset: Dataset,
    backbone: Backbone,
    settings: ExtractSettings,
    recipe: dict[str, Any],
    parts: Parts,
    failures: Sequence[Failure],
) -> None:
    kept = _subset(dataset, failures)
    if not kept.clips:
        raise InputError(
            f"none of the {len(dataset.clips)} clips could be decoded; the first, {failures[0].name}: "
            f"{failures[0].reason}"
        )
    provenance = {
        "dataset": {"name": dataset.name, "root": str(dataset.root), "notes": list(dataset.notes)},
        "settings": {
            key: str(value) if isinstance(value, Path) else value for key, value in asdict(settings).items()
        },
        "weights": asdict(backbone.source),
        "device": str(backbone.device),
        "versions": versions(),
        "machine": machine(),
    }
    rows = [ClipRow(clip.name, clip.label, clip.group) for clip in kept.clips]
    parts.pack(CacheHead(recipe, kept.classes, rows, kept.splits, failures, provenance), backbone.dim)


def _subset(dataset: Dataset, failures: Sequence[Failure]) -> Dataset:
    """The data set without the clips that failed."""
    failed = {failure.name for failure in failures}
    return _take(dataset, [index for index, clip in enumerate(dataset.clips) if clip.name not in failed])


def _limited(dataset: Dataset, limit: int) -> Dataset:
    """At most `limit` clips, of every class evenly; the splits stay what they are on the whole set."""
    if limit == 0 or limit >= len(dataset.clips):
        return dataset
    classes: dict[int, list[int]] = {}
    for index, clip in enumerate(dataset.clips):
        classes.setdefault(clip.label, []).append(index)
    shares = dict.fromkeys(classes, 0)
    while sum(shares.values()) < limit:
        for label in sorted(classes, key=lambda label: shares[label] / len(classes[label])):
            if sum(shares.values()) < limit and shares[label] < len(classes[label]):
                shares[label] += 1
    chosen = sorted(
        members[place]
        for label, members in classes.items()
        if shares[label]
        for place in uniform(len(members), shares[label])
    )
    note = f"limited to {limit} of {len(dataset.clips)} clips"
    return replace(_take(dataset, chosen), notes=(*dataset.notes, note))


def _take(dataset: Dataset, chosen: Sequence[int]) -> Dataset:
    if len(chosen) == len(dataset.clips):
        return dataset
    clips = tuple(dataset.clips[index] for index in chosen)
    groups = [clip.group for clip in clips]
    splits = []
    for split in dataset.splits:
        roles = split.roles[list(chosen)]
        splits.append(replace(split, roles=roles, leaking_groups=leaking_groups(roles, groups)))
    return replace(dataset, clips=clips, splits=tuple(splits))


def _refuse_loss(dataset: Dataset, done: Mapping[str, ClipRow], out: Path) -> None:
    """A smaller set (--limit, a folder that was moved) must not shrink what was extracted before."""
    lost = sorted(done.keys() - {clip.name for clip in dataset.clips})
    if lost:
        raise InputError(
            f"{out} holds {len(lost)} clips that this command would drop, first {lost[0]}: choose another --out, "
            "or delete it"
        )


def _changed(clips: Sequence[Clip], done: dict[str, ClipRow]) -> set[str]:
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
