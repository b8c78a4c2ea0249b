"""What a user reads of predictions, a line each: text, or JSON objects one a line."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from harvib.errors import printable
from harvib.predict.results import Failed, Prediction, Step, top

Echo = Callable[[str], Any]
"""Writes a line at once: who reads along must not wait for a buffer to fill."""


class Output(ABC):
    """`out` takes results, `err` what else there is to tell."""

    def __init__(self, classes: Sequence[str], topk: int, out: Echo, err: Echo) -> None:
        self._classes, self._topk, self._out, self._err = classes, topk, out, err

    def top(self, probabilities: np.ndarray) -> list[tuple[str, float]]:
        """The labels that are told, with their probabilities."""
        return top(probabilities, self._classes, self._topk)

    def note(self, text: str) -> None:
        """Something the user should know."""
        self._err(printable(f"note: {text}"))

    def failed(self, failed: Failed) -> None:
        """A source that gave nothing, or broke off."""
        self._err(printable(f"failed: {failed.path}: {failed.reason}"))

    @abstractmethod
    def prediction(self, found: Prediction) -> None:
        """Of a whole video."""

    @abstractmethod
    def step(self, name: str, step: Step) -> None:
        """Of a running prediction."""


class Text(Output):
    """For people."""

    def prediction(self, found: Prediction) -> None:
        damaged = " (damaged: FFmpeg met errors in it)" if found.clip.damaged else ""
        self._out(printable(f"{found.clip.path}: {self._told(found.probabilities)}{damaged}"))

    def step(self, name: str, step: Step) -> None:
        time = "" if math.isnan(step.time) else f"{step.time:.2f} s, "
        self._out(printable(f"{name}: {time}frame {step.frame}: {self._told(step.probabilities)}"))

    def _told(self, probabilities: np.ndarray) -> str:
        return ", ".join(f"{label} {share:.1%}" for label, share in self.top(probabilities))


class Json(Output):
    """For programs."""

    def prediction(self, found: Prediction) -> None:
        clip = found.clip
        frames = [indices.tolist() for indices in clip.frame_index]
        told = {
            "input": clip.path,
            "top": self._told(found.probabilities),
            "frames": frames[0] if len(frames) == 1 else frames,
            "source_frames": clip.source_frames,
            "fps": _number(clip.fps),
            "damaged": clip.damaged,
        }
        self._out(json.dumps(told))

    def step(self, name: str, step: Step) -> None:
        told = {"input": name, "time": _number(step.time), "frame": step.frame}
        self._out(json.dumps(told | {"top": self._told(step.probabilities)}))

    def failed(self, failed: Failed) -> None:
        super().failed(failed)
        self._out(json.dumps({"input": failed.path, "error": failed.reason}))

    def _told(self, probabilities: np.ndarray) -> list[dict[str, Any]]:
        return [{"label": label, "probability": share} for label, share in self.top(probabilities)]


def _number(value: float) -> float | None:
    """JSON has no NaN; of times, microseconds are enough."""
    return round(value, 6) if math.isfinite(value) else None
