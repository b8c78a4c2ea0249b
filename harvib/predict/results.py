"""What a prediction tells: of a video, of a step of a running one, and of what gave none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Clip:
    """What a model sees of one video: by stream its rows (T, D), as the cache would store them, and their frames.

    `fps` is NaN where the container states none; `damaged`: FFmpeg met errors in it.
    """

    path: str
    rows: tuple[np.ndarray, ...]
    frame_index: tuple[np.ndarray, ...]
    source_frames: int
    fps: float
    damaged: bool


@dataclass(frozen=True)
class Failed:
    """A video that gave no prediction, and why, in one line."""

    path: str
    reason: str


@dataclass(frozen=True, eq=False)
class Prediction:
    """Of one video: (C,) logits and probabilities, float64.

    Of a fused model the logits are the mean of the streams' log-probabilities. Where clips have several labels
    each class has a probability of its own; else they sum to one.
    """

    clip: Clip
    logits: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True, eq=False)
class Step:
    """Of a video, or a stream, up to a frame. `time` in seconds, NaN where unknown."""

    frame: int
    time: float
    logits: np.ndarray
    probabilities: np.ndarray


def probabilities_of(logits: Tensor, several: bool) -> np.ndarray:
    """(C,) float64: softmax, or of `several` labels a sigmoid a class."""
    double = logits.double()
    found: np.ndarray = (torch.sigmoid(double) if several else torch.softmax(double, 0)).cpu().numpy()
    return found


def top(probabilities: np.ndarray, classes: Sequence[str], count: int) -> list[tuple[str, float]]:
    """The likeliest classes and their probabilities; of equals the one that comes first."""
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [(classes[index], float(probabilities[index])) for index in order.tolist()]
