"""A contact sheet of a cache as one HTML page: frames of each class, with what the backbone takes them for.

The page is a single file without any outside resource and without a script. Names of classes and clips may be a
stranger's: they are escaped.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from tqdm import tqdm

from harfeat.cache import Cache
from harfeat.cache.writer import atomic_path
from harfeat.datasets import Clip
from harfeat.errors import InputError
from harfeat.preview.classify import Classifier, Guess, classifier_of
from harfeat.preview.pictures import ClipPictures, Wanted, pictures_of
from harfeat.reproduce import settings_of, videos_of
from harfeat.sampling import uniform


@dataclass(frozen=True)
class PreviewSettings:
    """How much of a cache a page shows; 0 classes: all. `height` of a picture in pixels, `timeout` in seconds.

    `workers` decode: -1: one a core; 0: none, a bad clip may then end the process.
    """

    classes: int = 50
    clips: int = 2
    frames: int = 6
    height: int = 96
    timeout: float = 120.0
    workers: int = -1

    def __post_init__(self) -> None:
        for name, least in (("classes", 0), ("clips", 1), ("frames", 1)):
            if getattr(self, name) < least:
                raise InputError(f"--preview-{name} {getattr(self, name)}: must be at least {least}")


@dataclass(frozen=True)
class Shot:
    """One picture on the page."""

    frame: int
    width: int
    height: int
    uri: str


@dataclass(frozen=True)
class ShownClip:
    """One clip on the page; `lack` says why it has no pictures."""

    name: str
    group: str
    source_frames: int
    fps: str
    roles: tuple[str, ...]
    shots: tuple[Shot, ...]
    guesses: tuple[Guess, ...]
    lack: str


@dataclass(frozen=True)
class ShownClass:
    """One class on the page."""

    number: int
    name: str
    clips: int
    shown: tuple[ShownClip, ...]


def write_preview(
    cache: Cache,
    root: Path,
    out: Path,
    settings: PreviewSettings | None = None,
    weights: str | None = None,
    splits_dir: Path | None = None,
    progress: bool = True,
) -> None:
    """Write the page of a cache whose videos lie below `root` to `out`, whole or not at all.

    `weights` as for `harfeat.preview.classify.classifier_of`. Raises InputError: imported features, a root that
    does not hold the data set, a place that cannot be written.
    """
    settings = settings or PreviewSettings()
    # Around the work too, so that a place which cannot be written is told before it.
    with atomic_path(out) as temporary:
        text = _page(cache, root, settings, weights, splits_dir, progress)
        temporary.write_text(text, encoding="utf-8")


def _page(
    cache: Cache,
    root: Path,
    settings: PreviewSettings,
    weights: str | None,
    splits_dir: Path | None,
    progress: bool,
) -> str:
    videos = videos_of(settings_of(cache, root, weights or "none", splits_dir))
    chosen = chosen_clips(cache, settings)
    classifier = classifier_of(cache, weights)
    shown = dict(
        _shown(
            cache, [clip for clips in chosen.values() for clip in clips], videos, classifier, settings, progress
        )
    )
    counts = cache.clips_per_class
    classes = [
        ShownClass(label + 1, cache.classes[label], int(counts[label]), tuple(shown[clip] for clip in clips))
        for label, clips in chosen.items()
    ]
    environment = Environment(
        loader=PackageLoader("harfeat", "preview"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        name=cache.path.name,
        cache=cache,
        classes=classes,
        without=[name for name, count in zip(cache.classes, counts, strict=True) if not count],
        hidden=int((counts > 0).sum()) - len(classes),
        rows=int(cache.lengths().sum()),
        note=classifier if isinstance(classifier, str) else "",
    )


def chosen_clips(cache: Cache, settings: PreviewSettings) -> dict[int, list[int]]:
    """Clips to show by label: evenly spaced classes that have clips, and of each evenly spaced clips.

    A clip of several labels may stand in several classes.
    """
    offsets, index = cache.label_sets
    labels = np.unique(index).tolist()
    if settings.classes and settings.classes < len(labels):
        labels = [labels[place] for place in uniform(len(labels), settings.classes)]
    owners = np.repeat(np.arange(len(cache.clips)), np.diff(offsets))
    members = {label: owners[index == label] for label in labels}
    return {
        label: clips[np.unique(uniform(len(clips), min(settings.clips, len(clips))))].tolist()
        for label, clips in members.items()
    }


def _shown(
    cache: Cache,
    clips: Sequence[int],
    videos: dict[str, Clip],
    classifier: Classifier | str,
    settings: PreviewSettings,
    progress: bool,
) -> list[tuple[int, ShownClip]]:
    wanted: dict[int, Wanted] = {}
    for clip in clips:
        row, index = cache.clips[clip], cache.read(clip).frame_index
        if row.name in videos and len(index):
            places = uniform(len(index), min(settings.frames, len(index)))
            wanted[clip] = Wanted(videos[row.name].path, tuple(index[places].tolist()), row.sha256)
    transform = classifier.transform if isinstance(classifier, Classifier) else None
    workers = min(joblib.cpu_count() if settings.workers < 0 else settings.workers, max(1, len(wanted)))
    results = pictures_of(list(wanted.values()), settings.height, transform, workers, settings.timeout)
    bar = tqdm(results, total=len(wanted), desc="preview", unit="clip", disable=not progress)
    found: dict[int, ClipPictures | str] = dict(zip(wanted, bar, strict=True)) if wanted else {}
    return [
        (clip, _shown_clip(cache, clip, found.get(clip, "is not below the root"), classifier)) for clip in clips
    ]


def _shown_clip(cache: Cache, clip: int, found: ClipPictures | str, classifier: Classifier | str) -> ShownClip:
    row = cache.clips[clip]
    guesses: list[Guess] = []
    if isinstance(found, ClipPictures) and isinstance(classifier, Classifier) and found.pixels is not None:
        guesses = classifier.guesses(found.pixels)
    sides = ("unused", "train", "test")
    return ShownClip(
        row.name,
        row.group,
        row.source_frames,
        "" if math.isnan(row.fps) else f"{row.fps:g}",
        tuple(f"split {name}: {sides[split.roles[clip]]}" for name, split in cache.splits.items()),
        () if isinstance(found, str) else tuple(_shot(found, place) for place in range(len(found.pictures))),
        tuple(guesses),
        found if isinstance(found, str) else "",
    )


def _shot(found: ClipPictures, place: int) -> Shot:
    picture = found.pictures[place]
    encoded = base64.b64encode(picture.jpeg).decode()
    return Shot(picture.frame, picture.width, picture.height, f"data:image/jpeg;base64,{encoded}")
