"""Models in runtimes: made ready, compared with the Python model, then timed, all in turns; a row a pair."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from harvib.bench.memory import Job, peak
from harvib.bench.runtimes import REFERENCE, RUNTIMES, UnavailableError
from harvib.bench.settings import BenchSettings
from harvib.bench.subject import Clip, Subject, Whole
from harvib.bench.timing import by_frame, interleaved, per_clip, threads
from harvib.errors import InputError

TOLERANCE = 1e-5
"""Of the largest logit, or of 1 where all are smaller: how far a runtime may be from the Python model."""
ROUNDINGS = 4
"""Or so many times as far as rounding to float32 takes the Python model itself: sums of 57,600 inputs, say."""
CHECKED, COMPARED = 3, 16
"""Clips on which that is looked at, and on which rounded models are asked for the same class."""


@dataclass
class Row:
    """One model in one runtime; `reason` tells why there is nothing to measure."""

    subject: Subject
    runtime: str
    reason: str = ""
    whole: Whole | None = None
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The key of the row."""
        return f"{self.subject.name}/{self.runtime}"

    def told(self, steps: int) -> dict[str, Any]:
        """As JSON: the model, where it ran, its costs, and the figures or the reason."""
        macs = self.subject.macs(steps)
        found: dict[str, Any] = {
            "model": self.subject.name,
            "runtime": self.runtime,
            "title": RUNTIMES[self.runtime].title,
            "parameters": self.subject.parameters,
            "macs": {"step": macs.step, "clip": macs.clip},
        }
        return found | ({"reason": self.reason} if self.reason else self.figures)


def measure_rows(
    pairs: Sequence[tuple[Subject, str]],
    settings: BenchSettings,
    folder: Path,
    memory: bool = True,
    tell: Callable[[str], None] = lambda note: None,
) -> list[dict[str, Any]]:
    """A row of figures for each pair of a model and the name of a runtime; the first is what others are told by.

    Of a row: `model`, `runtime`, `title`, `parameters`, `macs` (`step`, `clip`), and where it could not be
    measured `reason`. Else `bytes` of what a device gets, `bytes_of` what that is, `bytes_parts`; `clip` and, of
    runtimes that keep a state, `frame`: `median_ms`, `p95_ms`, `cold_ms`; `loop` where these are means of so many
    clips that one call goes through; `times_faster`, the medians of the first row and of the same model in torch
    over its own; `difference` to the Python model's logits, of rounded models also `agreement`, the share of clips
    with the same class; `memory` (`peak_bytes`, `process_bytes`, or why not) and of C `static_bytes` by kind.
    Files are written into `folder`. Raises InputError where a runtime's logits are not the Python model's.
    """
    rows = [Row(subject, runtime) for subject, runtime in pairs]
    widest = rows[0].subject
    with threads(settings.threads):
        tell(f"making {len(rows)} models ready, and comparing them with the Python model")
        for row in rows:
            _prepare(row, folder)
        ready = {row.name: row for row in rows if row.whole is not None}
        for row in ready.values():
            _compare(row, widest, settings)
        tell(f"timing {len(ready)} of them in turns, {settings.repeats} times")
        _time(ready, widest, settings)
    if memory:
        tell("measuring their memory, each in a process of its own")
    for row in ready.values() if memory else ():
        row.figures["memory"] = _memory(row, settings)
    _ratios(rows)
    return [row.told(settings.steps) for row in rows]


def _prepare(row: Row, folder: Path) -> None:
    try:
        whole = row.subject.prepare(RUNTIMES[row.runtime], folder)
    except UnavailableError as error:
        row.reason = str(error)
        return
    row.whole = whole
    row.figures = {"bytes": whole.shipped.bytes, "bytes_of": whole.shipped.what}
    if whole.shipped.parts:
        row.figures["bytes_parts"] = dict(whole.shipped.parts)
    if whole.static is not None:
        row.figures["static_bytes"] = {**whole.static, "total": sum(whole.static.values())}
    if whole.clips:
        row.figures["loop"] = whole.clips


@torch.inference_mode()
def _compare(row: Row, widest: Subject, settings: BenchSettings) -> None:
    """Note how far the runtime is from the Python model. Raises InputError where that is too far."""
    assert row.whole is not None
    exact = RUNTIMES[row.runtime].exact
    same, difference, by_frames = [], 0.0, 0.0
    clips = list(islice(widest.clips(settings), CHECKED if exact else -(-COMPARED // settings.batch)))
    # One for all clips: what is left of a clip must not reach the next.
    stream = row.whole.frames()
    for clip in clips:
        theirs = row.subject.logits(row.subject.reads(clip))
        ours = row.whole.logits(clip)
        difference = max(difference, _apart(ours, theirs))
        same.append(ours.argmax(1) == theirs.argmax(1))
        if stream is not None:
            stream.begin()
            for frame in stream.rows(clip):
                last = stream.see(frame)
            # Where a frame counts many times the logits are others.
            if stream.calls == 1:
                by_frames = max(by_frames, _apart(stream.logits(last), ours[:1]))
    row.figures["difference"] = difference
    if not exact:
        row.figures["agreement"] = float(torch.cat(same).float().mean())
    found = {
        "the Python model's": difference if exact else 0.0,
        "those of whole clips, frame by frame,": by_frames,
    }
    for others, apart in found.items():
        if not (apart <= TOLERANCE or apart <= ROUNDINGS * _rounding(row.subject, clips)):
            raise InputError(
                f"{row.name}: its logits differ from {others} by {apart:.1e}, more than {TOLERANCE:g}: its times "
                "would mean nothing; leave it out by --runtimes"
            )


@torch.inference_mode()
def _rounding(subject: Subject, clips: Sequence[Clip]) -> float:
    """How far float32 alone takes the Python model: from itself in float64, on these clips."""
    parts = {name: (copy.deepcopy(model).double(), card) for name, (model, card) in subject.parts.items()}
    exact, found = replace(subject, parts=parts), 0.0
    for clip in map(subject.reads, clips):
        twice = [(features.double(), lengths) for features, lengths in clip]
        found = max(found, _apart(subject.logits(clip).double(), exact.logits(twice)))
    return found


def _apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1))


def _time(rows: Mapping[str, Row], widest: Subject, settings: BenchSettings) -> None:
    wholes = {name: row.whole for name, row in rows.items() if row.whole is not None}

    def clips() -> Any:
        return ((clip,) for clip in widest.clips(settings))

    runners = {name: whole.call for name, whole in wholes.items()}
    ready = {name: whole.ready for name, whole in wholes.items()}
    for name, taken in interleaved(runners, clips(), settings.repeats, ready=ready).items():
        rows[name].figures["clip"] = per_clip(taken, settings.batch * max(1, wholes[name].clips))
    streams = {name: stream for name, whole in wholes.items() if (stream := whole.frames()) is not None}
    if streams:
        frames: Any = widest.clips(settings)
        for name, taken in by_frame(streams, frames, settings.repeats).items():
            rows[name].figures["frame"] = per_clip(taken, streams[name].calls)


def _memory(row: Row, settings: BenchSettings) -> dict[str, Any]:
    assert row.whole is not None
    job = Job(row.whole.residents, row.subject.features)
    try:
        return dict(peak(job, settings.batch, settings.steps, settings.threads))
    except UnavailableError as error:
        return {"reason": str(error)}


def _ratios(rows: Sequence[Row]) -> None:
    """How many times faster than the first row, and than the same model in torch."""
    medians = {row.name: row.figures["clip"]["median_ms"] for row in rows if "clip" in row.figures}
    first = medians.get(rows[0].name)
    for row in rows:
        if row.name in medians:
            own = medians.get(f"{row.subject.name}/{REFERENCE}")
            found = {"first": first, "same_in_torch": own}
            row.figures["times_faster"] = {
                key: None if other is None else other / medians[row.name] for key, other in found.items()
            }


def allowed_cores() -> int | None:
    """Processor cores that this process may run on; None where the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
