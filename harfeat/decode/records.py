"""What decoding a clip yields: its frames, or the reason why there are none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

Choose = Callable[[int], np.ndarray]
"""Maps the exact frame count N to the wanted indices, (T,) within [0, N), in any order and with repeats."""

Kept = TypeVar("Kept")
Keep = Callable[[int, np.ndarray], Kept]
"""What to keep of a frame, by its index and its pixels, (H, W, 3) uint8 RGB.

Called for each wanted frame in ascending order, so that memory holds no others. Where one reader gives up midway,
the next begins again with the first.
"""


class DecodeError(Exception):
    """One clip could not be decoded; the text is the reason, in one line.

    Not an `InputError`: a bad clip is recorded and the run goes on.
    """


@dataclass(frozen=True)
class ClipFrames:
    """The chosen frames of one clip.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB, in the order of `indices`, as stored (rotation tags not applied).
        indices: (T,) int64 into the source frames.
        source_frames: the exact number of frames that a full linear decode gives.
        fps: mean frames a second by the container; NaN where it states none.
        decoder: "decord" or "pyav".
        damaged: FFmpeg met an error in the stream or marked a frame as damaged. The frames are those that its
            command line gives; what it paints over a hole is its own choice. Of MJPEG it often marks none.
    """

    frames: np.ndarray
    indices: np.ndarray
    source_frames: int
    fps: float
    decoder: str
    damaged: bool


@dataclass(frozen=True)
class Pictures(Generic[Kept]):
    """What was kept of each wanted frame, by its index; the other fields as in `ClipFrames`."""

    kept: dict[int, Kept]
    source_frames: int
    fps: float
    decoder: str
    damaged: bool


def chosen_indices(choose: Choose, source_frames: int) -> np.ndarray:
    """(T,) int64 that `choose` picks of `source_frames`; ValueError where one lies outside the clip."""
    indices = np.asarray(choose(source_frames), dtype=np.int64)
    if indices.ndim != 1 or (indices < 0).any() or (indices >= source_frames).any():
        raise ValueError(f"chosen indices must be a list within [0, {source_frames}), got {indices}")
    return indices
