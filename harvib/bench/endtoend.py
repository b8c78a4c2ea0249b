"""From video to logits: what each part takes, before and after compression, and what other backbones would take.

    decode -> preprocess -> backbone -> classifier

Decoding is that of a whole video, for its frames cannot be had exactly without that; preprocessing and the
backbone go frame by frame, as in a stream, so a clip of T frames takes T times a frame. Before: the whole backbone
and the plain classifier; after: the backbone without what the compact classifier does not read, and that one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from harfeat.extractor import ClipFrames, DecodeError, raw_frames, sampling_in
from harfeat.extractor import InputError as ExtractorError
from harvib.bench.backbones import Timed, in_onnxruntime, of_run, of_timm
from harvib.bench.runtimes import REFERENCE
from harvib.bench.settings import BenchSettings, EndToEnd
from harvib.bench.subject import Subject
from harvib.bench.timing import interleaved, per_clip, threads
from harvib.errors import InputError
from harvib.recipes import recipe_of
from harvib.rundir import RunFolder

FRAME = (240, 320)
"""Height and width of the random frames that stand for a video: those of UCF101."""
ONNX = "onnx"
_DECODE, _PREPARE = "decode", "preprocess"

Figures = Mapping[str, float]


class EndToEndBench:
    """All that can be refused is refused when it is made, before anything is timed: InputError."""

    def __init__(self, folder: RunFolder, subjects: Sequence[Subject], asked: EndToEnd) -> None:
        self._asked = asked
        self._own = of_run(folder, subjects, asked.backbone)
        self._others = [of_timm(name) for name in asked.candidates if name != self._own.name]
        self._video: ClipFrames | None = None
        if asked.video is not None:
            try:
                ((_, card),) = subjects[-1].parts.values()
                self._sampling = sampling_in(recipe_of(folder.path, card))
            except ExtractorError as error:
                raise InputError(f"--video {asked.video}: {error}") from error
            self._video = self._decode()

    def measure(self, rows: Sequence[Mapping[str, Any]], settings: BenchSettings, onnx: bool) -> dict[str, Any]:
        """Time all of it; `rows` are those of the classifiers. With `onnx` the backbones run in onnxruntime too.

        `preprocess` and, of `backbone` and each of `candidates`, by runtime `whole` and `small`: times a frame.
        `totals`: by runtime and state what a clip takes, `ms` and `share` of each part, and the total.
        """
        with threads(settings.threads):
            calls, ready, reasons = self._work(onnx)
            taken = interleaved(calls, self._frames(settings), settings.repeats, ready=ready)
        times = {name: per_clip(each, 1) for name, each in taken.items()}
        video = None
        if self._video is not None and self._asked.video is not None:
            video = {"file": self._asked.video.name, "source_frames": self._video.source_frames}
            video |= {"frames": len(self._video.frames), "decode": times[_DECODE]}
        return {
            "steps": settings.steps,
            "video": video,
            "frame_size": list(FRAME if self._video is None else self._video.frames.shape[1:3]),
            "preprocess": times[_PREPARE],
            "backbone": _told(self._own, times, reasons),
            "candidates": [_told(other, times, reasons) for other in self._others],
            "totals": _totals(rows, times, settings.steps, self._own),
        }

    def _decode(self) -> ClipFrames:
        assert self._asked.video is not None
        try:
            return raw_frames(self._asked.video, self._sampling)
        except DecodeError as error:
            raise InputError(f"--video {self._asked.video}: {error}") from error

    def _frames(self, settings: BenchSettings) -> Iterator[tuple[np.ndarray]]:
        """Raw frames (1, H, W, 3), endless."""
        random, number = np.random.default_rng(settings.seed), 0
        while True:
            if self._video is None:
                yield (random.integers(0, 256, (1, *FRAME, 3), dtype=np.uint8),)
            else:
                yield (self._video.frames[number % len(self._video.frames)][None],)
            number += 1

    def _work(
        self, onnx: bool
    ) -> tuple[dict[str, Callable[..., object]], dict[str, Callable[..., tuple[Any, ...]]], dict[str, str]]:
        """What is timed, what makes its arguments of a raw frame, and why some of it is not."""
        calls: dict[str, Callable[..., object]] = {_PREPARE: self._own.preparation.pictures}
        ready: dict[str, Callable[..., tuple[Any, ...]]] = {_PREPARE: lambda frame: (frame,)}
        reasons: dict[str, str] = {}
        if self._video is not None:
            calls[_DECODE], ready[_DECODE] = self._decode, lambda frame: ()
        for timed in (self._own, *self._others):
            pictures = timed.preparation.pictures
            for part, module in timed.modules.items():
                name = _name(timed, part, REFERENCE)
                calls[name], ready[name] = module, _of_torch(pictures)
                if not onnx:
                    continue
                name = _name(timed, part, ONNX)
                try:
                    calls[name] = in_onnxruntime(module, timed.preparation, timed.name)
                except InputError as error:
                    reasons[name] = str(error)
                    continue
                ready[name] = _of_numpy(pictures)
        return calls, ready, reasons


def _of_torch(pictures: Callable[[np.ndarray], np.ndarray]) -> Callable[..., tuple[Any, ...]]:
    return lambda frame: (torch.from_numpy(pictures(frame)),)


def _of_numpy(pictures: Callable[[np.ndarray], np.ndarray]) -> Callable[..., tuple[Any, ...]]:
    return lambda frame: (pictures(frame),)


def _name(timed: Timed, part: str, runtime: str) -> str:
    return f"{timed.name}/{part}/{runtime}"


def _told(timed: Timed, times: Mapping[str, Figures], reasons: Mapping[str, str]) -> dict[str, Any]:
    """Name, costs, and by runtime times a frame or the reason why there are none."""
    found: dict[str, Any] = {"name": timed.name, "costs": timed.costs, "why_not_smaller": timed.why}
    for runtime in (REFERENCE, ONNX):
        names = {part: _name(timed, part, runtime) for part in timed.modules}
        told = {part: times[name] for part, name in names.items() if name in times}
        if told:
            found[runtime] = told
        elif any(name in reasons for name in names.values()):
            found[runtime] = {"reason": next(reasons[name] for name in names.values() if name in reasons)}
    return found


def _totals(
    rows: Sequence[Mapping[str, Any]], times: Mapping[str, Figures], steps: int, own: Timed
) -> dict[str, dict[str, Any]]:
    """By runtime and state: `ms` a clip of each part and their total, and each part's `share` of it."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        runtime, state = row["runtime"], row["model"]
        part = "small" if state == "compact" and "small" in own.modules else "whole"
        name = _name(own, part, runtime)
        if runtime not in (REFERENCE, ONNX) or "clip" not in row or name not in times:
            continue
        ms = {
            "decode": times[_DECODE]["median_ms"] if _DECODE in times else None,
            "preprocess": steps * times[_PREPARE]["median_ms"],
            "backbone": steps * times[name]["median_ms"],
            "classifier": row["clip"]["median_ms"],
        }
        total = sum(value for value in ms.values() if value is not None)
        shares = {part: None if value is None else value / total for part, value in ms.items()}
        found.setdefault(runtime, {})[state] = {"ms": {**ms, "total": total}, "share": shares, "backbone": part}
    return found
