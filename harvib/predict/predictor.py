"""Video in, probabilities out: a finished model with the very preprocessing of the cache it was trained on."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
from torch import Tensor

from harfeat.cache import Failure
from harvib.devices import device_of
from harvib.errors import InputError
from harvib.predict.parts import opened, ours
from harvib.predict.results import Clip, Failed, Prediction, Step, probabilities_of
from harvib.weighting import fused_scores


class Predictor:
    """A run folder, or a model file, opened.

        for found in Predictor(Path("runs/mine")).videos([Path("new.avi")]):
            if isinstance(found, Prediction):
                print(found.probabilities)

    `classes` name the outputs, `several` tells whether a clip may have several of them, `notes` are lines for the
    user: what differs here from where the cache was made.

    Args:
        model: a run folder, also of a fused run, or a model file, also in ONNX.
        weights: the backbone's, as `harfeat extract` takes them; None: what timm downloads.
        device: auto, cpu, cuda, ...
        batch: frames that the backbone sees at once; 1 for a live stream.

    Raises:
        InputError: the model cannot be read, or its features cannot be made here: another backbone, among others.
    """

    def __init__(self, model: Path, weights: str | None = None, device: str = "auto", batch: int = 32) -> None:
        found = opened(model, weights, device_of(device), batch)
        self._parts, self._weights = found.parts, found.weights
        first = self._parts[0].card
        self.model, self.classes, self.several = model, first.classes, first.several
        if any(part.card.classes != self.classes or part.card.several != self.several for part in self._parts):
            raise InputError(f"{model}: its streams have different classes: file damaged")
        self.notes = tuple(dict.fromkeys(note for part in self._parts for note in part.extractor.notes))
        self.samplings = tuple(part.extractor.sampling for part in self._parts)

    def videos(
        self, paths: Sequence[Path], workers: int = -1, timeout: float = 120.0
    ) -> Generator[Prediction | Failed, None, None]:
        """One result a video, in order: the logits that the model has of it in a cache of this recipe.

        They are decoded in `workers` processes (-1: one a core; 0: in this one, where a hostile file may hang),
        each in `timeout` seconds at most.
        """
        with closing(self.clips(paths, workers, timeout)) as clips:
            for clip in clips:
                yield clip if isinstance(clip, Failed) else self.predict(clip)

    def clips(
        self, paths: Sequence[Path], workers: int = -1, timeout: float = 120.0
    ) -> Generator[Clip | Failed, None, None]:
        """What the model sees of each video, in order; or why it sees nothing."""
        with ours(self.model), ExitStack() as stack:
            found_by = (part.extractor.videos(paths, workers, timeout) for part in self._parts)
            each = [stack.enter_context(closing(results)) for results in found_by]
            for path, *found in zip(paths, *each, strict=True):
                failure = next((result for result in found if isinstance(result, Failure)), None)
                if failure is not None:
                    yield Failed(str(path), failure.reason)
                    continue
                clips = [result for result in found if not isinstance(result, Failure)]
                yield Clip(
                    str(path),
                    tuple(clip.features for clip in clips),
                    tuple(clip.frame_index for clip in clips),
                    clips[0].source_frames,
                    clips[0].fps,
                    any(clip.damaged for clip in clips),
                )

    def predict(self, clip: Clip) -> Prediction:
        """Of a whole clip."""
        logits = [part.logits(rows) for part, rows in zip(self._parts, clip.rows, strict=True)]
        return Prediction(clip, *self._scored(logits))

    def steps(self, clip: Clip, restart_every: int = 0) -> Iterator[Step]:
        """The running prediction of a clip, one a sampled frame; the last one is that of `predict`.

        Where a rule goes back in time (wrap, repeat), a row counts as seen at the latest frame so far. Of several
        streams a step has all rows up to its frame. `restart_every`: forget all after so many steps.
        """
        running = self.stream(restart_every)
        for frame, rows in _in_time(clip):
            seen = running.see_rows(rows)
            if seen is not None:
                yield Step(frame, frame / clip.fps if clip.fps > 0 else math.nan, *seen)

    def stream(self, restart_every: int = 0) -> PredictionStream:
        """A running prediction that begins."""
        return PredictionStream(self, restart_every)

    def _scored(self, logits: Sequence[Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """The logits of all streams as one, and probabilities."""
        double = [found.double().cpu() for found in logits]
        one = double[0]
        if self._weights:
            one = fused_scores([found[None] for found in double], self._weights, self.several)[0]
        return one.numpy(), probabilities_of(one, self.several)


class PredictionStream:
    """Frames in, probabilities of all that was seen out, the model's state carried over; see `Predictor.stream`.

    Where a model cannot carry its state, it runs over all rows so far, and memory and time grow: `carries` tells.
    """

    def __init__(self, predictor: Predictor, restart_every: int = 0) -> None:
        self._predictor, self._parts = predictor, predictor._parts
        self._running = [part.running() for part in self._parts]
        self._restart_every, self._steps = restart_every, 0
        self._logits: list[Tensor | None] = [None] * len(self._parts)

    @property
    def carries(self) -> bool:
        """Whether a step costs the same however many came before."""
        return all(running.carries for running in self._running)

    def restart(self) -> None:
        """Forget all frames."""
        for running in self._running:
            running.restart()
        self._steps, self._logits = 0, [None] * len(self._parts)

    def see(self, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A frame (H, W, 3) uint8 RGB to logits and probabilities (C,) of all frames since the last restart.

        Raises InputError for models that see optical flow, which no single frame has.
        """
        with ours(self._predictor.model):
            rows = [part.extractor.frames([frame]) for part in self._parts]
        found = self.see_rows(rows)
        assert found is not None
        return found

    def see_rows(self, rows: Sequence[np.ndarray | None]) -> tuple[np.ndarray, np.ndarray] | None:
        """The rows (T, D) that each stream has of a step; None of a stream that has none in it.

        None where some stream has not had any yet.
        """
        if self._restart_every and self._steps == self._restart_every:
            self.restart()
        self._steps += 1
        for place, (part, running, new) in enumerate(zip(self._parts, self._running, rows, strict=True)):
            for row in () if new is None else part.numbers(new):
                self._logits[place] = running.see(row)
        seen = [logits for logits in self._logits if logits is not None]
        return self._predictor._scored(seen) if len(seen) == len(self._parts) else None


def _in_time(clip: Clip) -> Iterator[tuple[int, list[np.ndarray | None]]]:
    """By step its frame, and the row (1, D) or rows of each stream that are seen at it."""
    seen_at = [np.maximum.accumulate(indices) for indices in clip.frame_index]
    if all(np.array_equal(at, seen_at[0]) for at in seen_at):
        for place, frame in enumerate(seen_at[0].tolist()):
            yield frame, [rows[place : place + 1] for rows in clip.rows]
        return
    for frame in np.unique(np.concatenate(seen_at)).tolist():
        here = [rows[at == frame] for rows, at in zip(clip.rows, seen_at, strict=True)]
        yield frame, [rows if len(rows) else None for rows in here]
