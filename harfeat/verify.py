"""Whether a cache, a file or a folder, is intact and makes sense; every check goes on after what it finds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from harfeat.cache import Cache, CacheError, open_cache
from harfeat.cache.guard import require_harmless
from harfeat.cache.manifest import MANIFEST, FileEntry, Manifest, read_manifest
from harfeat.cache.schema import ClipFeatures
from harfeat.cache.single import FileCache
from harfeat.consistency import check_copies, check_failures, check_groups, check_labels, check_split
from harfeat.errors import InputError
from harfeat.findings import NOTE, OK, PROBLEM, WARNING, Finding, some
from harfeat.hashing import sha256_of_file
from harfeat.reproduce import sampling_of
from harfeat.sampling import SamplingError, SamplingSettings, plan


def verify(path: Path, progress: bool = True) -> Iterator[Finding]:
    """Yield what each check of the cache at `path` finds.

    Everything is read once, and every file is opened by HDF5 in a process of its own before it is opened here, so
    that a stranger's file can do no more than be refused. Raises InputError where there is nothing at `path`.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    files = [path]
    if path.is_dir():
        try:
            manifest = read_manifest(path)
        except CacheError as error:
            yield Finding(PROBLEM, "manifest", str(error))
            return
        yield from _check_files(path, manifest, progress)
        files = [path / entry.name for entry in manifest.files if (path / entry.name).is_file()]
    try:
        for file in files:
            if file.is_file():
                require_harmless(file)
        cache = open_cache(path)
    except CacheError as error:
        yield Finding(PROBLEM, "structure", str(error))
        if path.is_dir():
            yield from _check_shards_alone(path, manifest, progress)
        return
    with cache:
        yield Finding(OK, "structure", _told(cache))
        yield from _check_features(cache, progress)
        yield from check_labels(cache.classes, cache.clips)
        yield from check_groups(cache.clips)
        for split in cache.splits.values():
            yield from check_split(split, cache.classes, cache.clips)
        if not cache.splits:
            yield Finding(NOTE, "splits", "none")
        yield from check_copies(cache)
        yield from check_failures(cache.clips, cache.failures)


def _check_files(folder: Path, manifest: Manifest, progress: bool) -> Iterator[Finding]:
    """Each listed file there, of the stated size and hash; no file that nobody listed."""
    bad = []
    with tqdm(
        total=sum(entry.bytes for entry in manifest.files),
        desc="files",
        unit="B",
        unit_scale=True,
        delay=2,
        disable=not progress,
    ) as bar:
        for entry in manifest.files:
            if reason := _wrong_with(folder / entry.name, entry):
                bad.append(f"{entry.name} {reason}")
            bar.update(entry.bytes)
    if bad:
        yield Finding(PROBLEM, "files", f"{len(bad)} of {len(manifest.files)}: {some(bad)}")
    else:
        yield Finding(OK, "files", f"{len(manifest.files)}, each with the SHA-256 that {MANIFEST} states")
    listed = {entry.name for entry in manifest.files}
    others = sorted(item.name for item in folder.glob("*.h5") if item.name not in listed)
    if others:
        yield Finding(NOTE, "files", f"{len(others)} that {MANIFEST} does not list are not used: {some(others)}")


def _wrong_with(path: Path, entry: FileEntry) -> str:
    if not path.is_file():
        return "is missing"
    try:
        if path.stat().st_size != entry.bytes:
            return f"has {path.stat().st_size} bytes where {entry.bytes} are stated"
        return "" if sha256_of_file(path) == entry.sha256 else "has another SHA-256"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _check_shards_alone(folder: Path, manifest: Manifest, progress: bool) -> Iterator[Finding]:
    """What can still be said of a folder that does not open as one cache."""
    for entry in manifest.files:
        path = folder / entry.name
        if not path.is_file():
            continue
        try:
            require_harmless(path)
            with FileCache(path, head_only=entry.kind == "head") as cache:
                if cache.streams:
                    findings = list(_check_features(cache, progress))
                    yield from (finding for finding in findings if finding.level in (PROBLEM, WARNING))
        except CacheError as error:
            yield Finding(PROBLEM, "structure", str(error))


@dataclass
class _Bad:
    """Names of clips by what is wrong with them."""

    damaged: list[str] = field(default_factory=list)
    not_finite: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    off_rule: list[str] = field(default_factory=list)


def _check_features(cache: Cache, progress: bool) -> Iterator[Finding]:
    """The hash of each clip in each stream, finite values, and frames that the rule of the sampling gives."""
    found = {stream: _Bad() for stream in cache.streams}
    sampling, lack = _sampling(cache)
    numbers = {name: place for place, name in enumerate(sampling.stream_names())} if sampling else {}
    for clip in tqdm(range(len(cache.clips)), desc="clips", unit="clip", delay=2, disable=not progress):
        expected = _expected(cache, clip, sampling)
        for stream, bad in found.items():
            try:
                values = cache.read(clip, stream)
            except CacheError:
                bad.damaged.append(cache.clips[clip].name)
                continue
            number = numbers.get(stream, -1)
            _look(cache, clip, values, expected[number] if 0 <= number < len(expected) else None, bad)
    where = f"{cache.path.name}: " if isinstance(cache, FileCache) else ""
    for stream, bad in found.items():
        total = len(cache.clips)
        for names, check, text in (
            (bad.damaged, "hashes", "do not match their hash, they are damaged or altered"),
            (bad.not_finite, "values", "hold NaN or infinity"),
            (bad.outside, "frames", "have frame indices outside of their video"),
            (bad.off_rule, "frames", "have other frames than the rule of the sampling gives"),
        ):
            if names:
                told = f"{where}streams/{stream}: {len(names)} of {total} clips {text}: {some(names)}"
                yield Finding(PROBLEM, check, told)
        if not bad.damaged:
            yield Finding(OK, "hashes", f"all {total} clips of {stream} match theirs")
        if not (bad.not_finite or bad.damaged):
            yield Finding(OK, "values", f"all of {stream} are finite")
        if sampling and stream in numbers and not (bad.outside or bad.off_rule or bad.damaged):
            yield Finding(OK, "frames", f"all of {stream} are those that the rule {sampling.rule} gives")
    if lack:
        yield Finding(NOTE if cache.recipe.get("kind") != "video" else WARNING, "frames", lack)


def _sampling(cache: Cache) -> tuple[SamplingSettings | None, str]:
    """The sampling, or why it is not known."""
    if cache.recipe.get("kind") != "video":
        return None, "imported features: how their frames were chosen is not known"
    try:
        return sampling_of(cache), ""
    except InputError as error:
        return None, str(error).removeprefix(f"{cache.path}: ")


def _expected(cache: Cache, clip: int, sampling: SamplingSettings | None) -> list[np.ndarray]:
    """The frames that each stream of a clip should have; none where that cannot be known."""
    row = cache.clips[clip]
    if sampling is None or row.source_frames < 1 or not row.sha256:
        return []
    try:
        return [view.indices for view in plan(sampling, row.source_frames, row.fps, row.sha256)]
    except SamplingError:
        return [np.empty(0, np.int64)] * len(sampling.stream_names())


def _look(cache: Cache, clip: int, values: ClipFeatures, expected: np.ndarray | None, bad: _Bad) -> None:
    row = cache.clips[clip]
    index = values.frame_index
    if values.features.dtype.kind == "f" and not np.isfinite(values.features).all():
        bad.not_finite.append(row.name)
    if index.size and (index.min() < -1 or (row.source_frames >= 0 and index.max() >= row.source_frames)):
        bad.outside.append(row.name)
    elif expected is not None and not np.array_equal(index, expected):
        bad.off_rule.append(row.name)


def _told(cache: Cache) -> str:
    streams = ", ".join(
        f"{name} ({int(cache.lengths(name).sum())} rows of {cache.dim(name)} {cache.dtype(name)})"
        for name in cache.streams
    )
    return f"{len(cache.clips)} clips, streams {streams}, content {cache.content}"
