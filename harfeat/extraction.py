"""Clips to shards: decode ahead, run the model in full batches, write what is finished every half minute."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import joblib
import numpy as np

from harfeat.backbone import build_backbone
from harfeat.batching import ClipBatcher, Pending
from harfeat.cache import ClipFeatures, ClipRow, Failure
from harfeat.cache.hashed_files import MOST_HELD, write_shard
from harfeat.cache.manifest import FileEntry
from harfeat.cache.schema import VERSION
from harfeat.datasets import Clip
from harfeat.decode import DecodeError
from harfeat.decode import recipe as decoder_recipe
from harfeat.decode.pool import prepared_clips
from harfeat.decode.worker import Prepared
from harfeat.flow import flow_recipe
from harfeat.interruptions import held_back
from harfeat.pixels import Pixels
from harfeat.preprocess import TransformConfig
from harfeat.sampling import FLOW
from harfeat.settings import PIXELS, ExtractSettings

Outcome = tuple[ClipRow, dict[str, ClipFeatures]] | Failure

Record = Callable[[Sequence[FileEntry], Sequence[Failure]], None]
"""Takes note of shards that were written and of clips that failed."""


class FrameModel(Protocol):
    """What makes features of prepared frames: a network (`Backbone`), or none (`Pixels`)."""

    @property
    def transform(self) -> TransformConfig:
        """How frames are resized and cropped before `start`."""

    @property
    def batch(self) -> int:
        """Frames in a batch."""

    @property
    def ahead(self) -> int:
        """Batches that should be under way at once."""

    @property
    def dim(self) -> int:
        """Values in a row of features."""

    @property
    def device(self) -> object:
        """Where it computes; its text is told."""

    @property
    def note(self) -> str | None:
        """One line for the user."""

    def recipe(self) -> dict[str, Any]:
        """Everything here that changes a feature."""

    def provenance(self) -> dict[str, Any]:
        """What is worth telling beside the recipe."""

    def start(self, pixels: np.ndarray) -> np.ndarray | Pending:
        """(B, 3, H, W) uint8 to (B, D) features, or to what will have them."""


def backbone_of(settings: ExtractSettings) -> FrameModel:
    """The model that the settings ask for; raises InputError."""
    if settings.model == PIXELS:
        return Pixels(*settings.pixel_size, settings.batch)
    return build_backbone(settings.model, settings.weights, settings.device, settings.precision, settings.batch)


def recipe_of(settings: ExtractSettings, backbone: FrameModel) -> dict[str, Any]:
    """Everything but the videos' bytes that changes a feature; the fingerprint is its hash."""
    return {
        "kind": "video",
        "schema": VERSION,
        "decoder": decoder_recipe(),
        "sampling": settings.sampling.recipe(),
        **({"flow": flow_recipe()} if settings.sampling.stream == FLOW else {}),
        **backbone.recipe(),
        "dtype": settings.stored_dtype,
    }


@dataclass(frozen=True)
class Destination:
    """Where shards go, and what stands in each beside its clips."""

    folder: Path
    recipe: dict[str, Any]
    classes: tuple[str, ...]


def extract_clips(
    clips: Sequence[Clip],
    backbone: FrameModel,
    settings: ExtractSettings,
    destination: Destination,
    record: Record,
    advance: Callable[[], Any] = lambda: None,
) -> None:
    """Extract clips into shards; `record` hears of each shard at once, `advance` of each clip.

    What is finished when an error or an interruption ends it is written too.
    """
    finished: list[tuple[ClipRow, dict[str, ClipFeatures]]] = []
    failures: list[Failure] = []
    written, held = time.monotonic(), 0

    def write() -> None:
        nonlocal written, held
        # An interruption after some of this would have the rest done once more, by the last call.
        with held_back():
            entries = []
            if finished:
                rows, features = zip(*finished, strict=True)
                place = destination
                entries.append(write_shard(place.folder, place.recipe, place.classes, rows, features))
            if entries or failures:
                record(entries, failures)
            finished.clear()
            failures.clear()
            written, held = time.monotonic(), 0

    try:
        # Closed at once on an error: the traceback would keep the decoding processes alive.
        with closing(outcomes(clips, backbone, settings)) as results:
            for result in results:
                if isinstance(result, Failure):
                    failures.append(result)
                else:
                    finished.append(result)
                    held += sum(values.features.nbytes for values in result[1].values())
                advance()
                if time.monotonic() - written > settings.part_seconds or held > MOST_HELD:
                    write()
    finally:
        # Ctrl-C comes here too: what is finished is kept.
        write()


def outcomes(
    clips: Sequence[Clip], backbone: FrameModel, settings: ExtractSettings
) -> Generator[Outcome, None, None]:
    """The row and features of each clip, or its failure; finished clips come in order."""
    batcher: ClipBatcher[tuple[Clip, Prepared]] = ClipBatcher(backbone.start, backbone.batch, backbone.ahead)
    workers = min(joblib.cpu_count() if settings.workers < 0 else settings.workers, max(1, len(clips)))
    prepared = prepared_clips(
        [clip.path for clip in clips], settings.sampling, backbone.transform, workers, settings.clip_timeout
    )
    streams = settings.sampling.stream_names()
    with closing(prepared), closing(batcher):
        for clip, result in zip(clips, prepared, strict=True):
            if isinstance(result, DecodeError):
                yield Failure(clip.name, str(result))
                continue
            pixels = [view.pixels for view in result.views]
            joined = pixels[0] if len(pixels) == 1 else np.concatenate(pixels)
            for (done, source), values in batcher.add((clip, result), joined):
                yield _outcome(done, source, values, streams, settings.stored_dtype)
        for (done, source), values in batcher.flush():
            yield _outcome(done, source, values, streams, settings.stored_dtype)


def _outcome(clip: Clip, source: Prepared, values: np.ndarray, streams: Sequence[str], dtype: str) -> Outcome:
    with np.errstate(over="ignore"):
        stored = values.astype(dtype)
    if not np.isfinite(stored).all():
        return Failure(clip.name, f"features hold NaN or infinity as {dtype}; try --dtype float32")
    row = ClipRow(
        clip.name, clip.label, clip.group, source.source_frames, source.fps, source.sha256, int(source.damaged)
    )
    ends = np.cumsum([len(view.indices) for view in source.views])
    return row, {
        stream: ClipFeatures(part, view.indices)
        for stream, part, view in zip(streams, np.split(stored, ends[:-1]), source.views, strict=True)
    }
