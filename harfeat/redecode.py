"""Some clips of a cache extracted again from their videos, and compared with what the cache holds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from harfeat.cache import Cache, ClipFeatures, Failure
from harfeat.cache.fingerprint import differing_fields
from harfeat.datasets import Clip
from harfeat.deviation import deviation
from harfeat.errors import InputError
from harfeat.extraction import backbone_of, outcomes, recipe_of
from harfeat.extractor import MAY_DIFFER
from harfeat.findings import NOTE, OK, PROBLEM, WARNING, Finding, some
from harfeat.hashing import sha256_of_file
from harfeat.provenance import machine, versions
from harfeat.reproduce import settings_of, videos_of

LEAST_COSINE = 0.999
"""Rows that point in less like directions are not those of the same frame by the same model."""


def redecode(
    cache: Cache,
    root: Path,
    count: int,
    seed: int | None = None,
    weights: str | None = None,
    splits_dir: Path | None = None,
    progress: bool = True,
) -> Iterator[Finding]:
    """Extract `count` clips again from the videos below `root`, and yield what the comparison finds.

    The clips are spread evenly over the classes, or drawn by `seed`. First the bytes of each video are compared,
    then the frame indices, exactly, then the features: bit for bit where machine and versions are those of the
    extraction, else by cosine. Raises InputError where the cache holds no videos' features, or the settings in its
    provenance give another recipe here; the text names the field.
    """
    if count < 1:
        raise InputError(f"--decode {count}: must be at least 1")
    settings = settings_of(cache, root, weights, splits_dir)
    backbone = backbone_of(settings)
    differing = differing_fields(cache.recipe, recipe_of(settings, backbone))
    if grave := [line for line in differing if not line.startswith(MAY_DIFFER)]:
        raise InputError(f"{cache.path}: cannot be made again here: {'; '.join(grave)}")
    if differing:
        yield Finding(NOTE, "decode", f"features are compared by cosine, since here {'; '.join(differing)}")
    videos = videos_of(settings)
    chosen = [cache.clips[index].name for index in choose(cache.labels, count, seed)]
    wanted = {clip.name: clip for clip in cache.clips if clip.name in chosen}
    clips, missing, changed = [], [], []
    for name in chosen:
        video = videos.get(name)
        if video is None:
            missing.append(name)
        elif _sha256(video) != wanted[name].sha256:
            changed.append(name)
        else:
            clips.append(video)
    if missing:
        yield Finding(
            PROBLEM, "decode", f"{len(missing)} of {len(chosen)} clips are not below {root}: {some(missing)}"
        )
    if changed:
        text = f"{len(changed)} of {len(chosen)} videos are not the ones that were extracted: {some(changed)}"
        yield Finding(PROBLEM, "decode", text)
    if clips:
        settings = replace(settings, workers=min(2, len(clips)))
        results = outcomes(clips, backbone, settings)
        bar = tqdm(results, total=len(clips), desc="decode", unit="clip", disable=not progress)
        again: dict[str, dict[str, ClipFeatures] | str] = {}
        for result in bar:
            if isinstance(result, Failure):
                again[result.name] = result.reason
            else:
                again[result[0].name] = result[1]
        yield from _compare(cache, again, exact=not differing and _same_place(cache, str(backbone.device)))


def choose(labels: np.ndarray, count: int, seed: int | None) -> list[int]:
    """Clips of all classes in turn: of each class evenly spaced ones, or those that `seed` draws."""
    rng = None if seed is None else np.random.default_rng(seed)
    queues = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        queues.append(list(rng.permutation(members) if rng else members[_spread(len(members))]))
    if rng:
        queues = [queues[place] for place in rng.permutation(len(queues))]
    taken: list[int] = []
    while queues and len(taken) < count:
        taken += [int(queue.pop(0)) for queue in queues[: count - len(taken)]]
        queues = [queue for queue in queues if queue]
    return taken


def _spread(size: int) -> list[int]:
    """0 .. size-1 in an order whose every beginning is spread: the middle, then the middles of what is left."""
    order, spans = [], [(0, size)]
    while spans:
        start, stop = spans.pop(0)
        if start < stop:
            middle = (start + stop) // 2
            order.append(middle)
            spans += [(start, middle), (middle + 1, stop)]
    return order


def _compare(
    cache: Cache, again: Mapping[str, Mapping[str, ClipFeatures] | str], exact: bool
) -> Iterator[Finding]:
    places = {clip.name: index for index, clip in enumerate(cache.clips)}
    failed: list[str] = []
    frames: list[str] = []
    far: list[str] = []
    near: list[str] = []
    equal, largest, cosine = 0, 0.0, math.inf
    for name, streams in again.items():
        if isinstance(streams, str):
            failed.append(f"{name} ({streams})")
            continue
        stored = cache.read_streams(places[name])
        if stored.keys() != streams.keys() or any(
            not np.array_equal(stored[key].frame_index, streams[key].frame_index) for key in stored
        ):
            frames.append(name)
            continue
        apart = [deviation(stored[key].features, streams[key].features) for key in stored]
        largest = max(largest, *(one.largest for one in apart))
        least = min(one.cosine for one in apart)
        cosine = min(cosine, least)
        if all(np.array_equal(stored[key].features, streams[key].features) for key in stored):
            equal += 1
        else:
            # Written so that NaN is far too.
            (near if least > LEAST_COSINE else far).append(name)
    figures = f"least cosine {cosine:.6f}, largest deviation {largest:.3g}"
    for names, text in (
        (failed, "could not be decoded again"),
        (frames, "have other frames"),
        (far, f"have other features ({figures})"),
    ):
        if names:
            yield Finding(PROBLEM, "decode", f"{len(names)} of {len(again)} clips {text}: {some(names)}")
    if near:
        text = f"{len(near)} of {len(again)} clips have the same frames and nearly the same features ({figures})"
        if exact:
            text += ", though versions and kind of machine are those of the extraction: another processor?"
        yield Finding(WARNING if exact else OK, "decode", text)
    if equal:
        yield Finding(OK, "decode", f"{equal} of {len(again)} clips come out bit for bit equal")


def _same_place(cache: Cache, device: str) -> bool:
    told = cache.provenance
    return (told.get("versions"), told.get("machine"), told.get("device")) == (versions(), machine(), device)


def _sha256(video: Clip) -> str | None:
    try:
        return sha256_of_file(video.path) if video.path.is_file() else None
    except OSError:
        return None
