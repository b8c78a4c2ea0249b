"""What is measured: the plain and the compact model of a run, of one stream or of several that are fused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harvib.bench.runtimes import Prepared, Runtime, UnavailableError
from harvib.bench.runtimes.base import Resident, Shipped
from harvib.bench.settings import BenchSettings
from harvib.bench.timing import Frames, random_clips
from harvib.classifier import Classifier
from harvib.errors import InputError
from harvib.export.c.text import identifier
from harvib.fusion import FusedClassifier, load_fused
from harvib.macs import Macs, macs_of
from harvib.rundir import RunFolder
from harvib.weighting import fused_scores
from harvib.weights import ModelCard, load_model

Clip = Sequence[tuple[Tensor, Tensor]]
"""Of each stream features (B, T, D) and lengths (B,)."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model by the name of its state: the classifier of each stream with its card, and how they are fused."""

    name: str
    parts: Mapping[str, tuple[Classifier, ModelCard]]
    fused: FusedClassifier | None = None

    @property
    def features(self) -> list[int]:
        """Values a step in each stream."""
        return [model.spec.features for model, _ in self.parts.values()]

    @property
    def parameters(self) -> int:
        """Exact, of all streams."""
        return sum(model.parameter_counts()["total"] for model, _ in self.parts.values())

    def macs(self, steps: int) -> Macs:
        """Of all streams."""
        found = [macs_of(model, steps) for model, _ in self.parts.values()]
        return Macs(sum(each.step for each in found), sum(each.clip for each in found))

    def clips(self, settings: BenchSettings) -> Iterator[Clip]:
        """Endless random ones."""
        streams = [random_clips(width, settings) for width in self.features]
        while True:
            yield [next(clips) for clips in streams]

    def reads(self, clip: Clip) -> Clip:
        """Of a clip the first features where this model takes fewer, as behind a backbone that shrank with it."""
        return [
            (features[..., :width].contiguous(), lengths)
            for (features, lengths), width in zip(clip, self.features, strict=True)
        ]

    @torch.inference_mode()
    def logits(self, clip: Clip) -> Tensor:
        """By the Python model, (B, C)."""
        found = [model(*given) for (model, _), given in zip(self.parts.values(), clip, strict=True)]
        return self.joined(found)

    def joined(self, logits: Sequence[Tensor]) -> Tensor:
        """Of the streams' logits those of the whole."""
        if self.fused is None:
            return logits[0]
        return fused_scores(list(logits), self.fused.weights, self.fused.several)

    def prepare(self, runtime: Runtime, folder: Path) -> Whole:
        """The model in a runtime. Raises UnavailableError."""
        runtime.require()
        parts = []
        for stream, (model, card) in self.parts.items():
            name = identifier(f"{self.name}_{stream}" if stream else self.name)
            parts.append(runtime.prepare(model, card, folder, name))
        if len(parts) > 1 and parts[0].clips:
            raise UnavailableError("the streams of a fused run are joined in Python")
        return Whole(self, parts)


class Whole:
    """The prepared models of all streams, as one."""

    def __init__(self, subject: Subject, parts: Sequence[Prepared]) -> None:
        self._subject, self._parts = subject, parts
        self.clips = parts[0].clips
        first = parts[0].shipped
        figures: dict[str, int] = {}
        for part in parts:
            for name, size in part.shipped.parts.items():
                figures[name] = figures.get(name, 0) + size
        self.shipped = Shipped(sum(part.shipped.bytes for part in parts), first.what, figures)
        self.residents: list[Resident] = [part.resident for part in parts]

    @property
    def static(self) -> dict[str, int] | None:
        """See `Prepared.static`; of several streams their sum."""
        told = [part.static for part in self._parts if part.static is not None]
        return {kind: sum(each.get(kind, 0) for each in told) for kind in told[0]} if told else None

    def ready(self, clip: Clip) -> tuple[Any, ...]:
        """The arguments of `call`."""
        given = self._subject.reads(clip)
        return tuple(part.ready(*each) for part, each in zip(self._parts, given, strict=True))

    def call(self, *given: Any) -> Any:
        """A batch of clips, the fusion of several streams with it."""
        found = [part.clip(each) for part, each in zip(self._parts, given, strict=True)]
        return found if self._subject.fused is None else self._subject.joined(self._each(found))

    def logits(self, clip: Clip) -> Tensor:
        """(B, C)."""
        found = self.call(*self.ready(clip))
        return found if self._subject.fused is not None else self._each(found)[0]

    def frames(self) -> WholeFrames | None:
        """Frame by frame; None where the runtime has no such form."""
        found = [part.frames() for part in self._parts]
        streams = [each for each in found if each is not None]
        return WholeFrames(self._subject, streams, self._parts) if len(streams) == len(found) else None

    def _each(self, found: Sequence[Any]) -> list[Tensor]:
        return [part.logits(result) for part, result in zip(self._parts, found, strict=True)]


class WholeFrames:
    """The streams of a model, a frame of each at a time."""

    def __init__(self, subject: Subject, streams: Sequence[Frames], parts: Sequence[Prepared]) -> None:
        self._subject, self._streams, self._parts = subject, streams, parts
        self.calls = streams[0].calls

    def begin(self) -> None:
        """A new clip."""
        for stream in self._streams:
            stream.begin()

    def rows(self, clip: Clip) -> Sequence[Any]:
        """Frames of the first clip of the batch."""
        given = self._subject.reads(clip)
        return list(
            zip(*(stream.rows(each) for stream, each in zip(self._streams, given, strict=True)), strict=True)
        )

    def see(self, row: Any) -> object:
        """The next frame and the logits so far, fused."""
        found = [stream.see(each) for stream, each in zip(self._streams, row, strict=True)]
        if self._subject.fused is None:
            return found
        return self._subject.joined([part.logits(each) for part, each in zip(self._parts, found, strict=True)])

    def logits(self, result: Any) -> Tensor:
        """What `see` gave, as (1, C)."""
        return result if self._subject.fused is not None else self._parts[0].logits(result[0])


def subjects_of(folder: RunFolder) -> tuple[list[Subject], list[str]]:
    """The models of a run that are there, the plain one first, and a note for each that is not.

    Raises InputError where the final model is missing.
    """
    report, notes = folder.report(), []
    final = "compact" if "compact" in report else "plain"
    found = []
    if final == "compact":
        lacking = [run.plain for run in (folder.streams or {"": folder}).values() if not run.plain.is_file()]
        if lacking:
            notes.append(f"the plain model is not measured: {lacking[0]} is not there, as in a pulled run")
        else:
            found.append(_subject(folder, "plain"))
    return [*found, _subject(folder, final)], notes


def _subject(folder: RunFolder, state: str) -> Subject:
    if folder.streams:
        fused, cards = load_fused(folder.path, state)
        return Subject(state, {name: (fused.models[name], cards[name]) for name in fused.models}, fused)
    file = folder.plain if state == "plain" and folder.plain.is_file() else folder.model
    return Subject(state, {"": load_model(file)})


def steps_of(folder: RunFolder) -> int | None:
    """Frames of each clip in the cache of a run, by its recipe; None where they vary or nobody knows."""
    for run in (folder.streams or {"": folder}).values():
        if not (run.path / "config.json").is_file():
            continue
        sampling = (run.config().get("recipe") or {}).get("sampling")
        frames = sampling.get("frames") if isinstance(sampling, dict) else None
        if type(frames) is int and frames > 0:
            return frames
    return None


def require_same_features(subjects: Sequence[Subject]) -> None:
    """Raise InputError where a model takes more features than the first, which the clips are made for."""
    for subject in subjects:
        if len(subject.features) != len(subjects[0].features) or any(
            ours > theirs for ours, theirs in zip(subject.features, subjects[0].features, strict=True)
        ):
            raise InputError(f"the {subject.name} model takes other features than the {subjects[0].name} one")
