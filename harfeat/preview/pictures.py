"""Small pictures of the frames that a cache's rows were made from, decoded in processes that may be killed."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from harfeat.decode import DecodeError, decode_clip
from harfeat.decode.pool import each_of
from harfeat.hashing import sha256_of_file
from harfeat.preprocess import TransformConfig, prepare

_QUALITY = 72


@dataclass(frozen=True)
class Picture:
    """One frame, small, as JPEG."""

    frame: int
    width: int
    height: int
    jpeg: bytes


@dataclass(frozen=True)
class Wanted:
    """What to show of one clip: its video, the frames (in the order in which they are shown), its SHA-256."""

    path: Path
    frames: tuple[int, ...]
    sha256: str


@dataclass(frozen=True)
class ClipPictures:
    """The pictures of a clip, and its frames as the backbone takes them: (T, 3, h, w) uint8."""

    pictures: tuple[Picture, ...]
    pixels: np.ndarray | None


def pictures_of(
    clips: Sequence[Wanted], height: int, transform: TransformConfig | None, workers: int, timeout: float
) -> Iterator[ClipPictures | str]:
    """For each clip in order its pictures of `height` pixels, or the reason why there are none.

    With `transform`, the pixels for the backbone too. Works in `workers` processes, each of which is killed where
    it takes longer than `timeout` seconds for a clip; 0 works in this one, without protection.
    """
    for found in each_of(draw, ((clip, height, transform) for clip in clips), workers, timeout):
        yield str(found) if isinstance(found, DecodeError) else found


def draw(clip: Wanted, height: int, transform: TransformConfig | None) -> ClipPictures:
    """What a process runs for one clip. Raises DecodeError."""
    try:
        if not clip.path.is_file() or sha256_of_file(clip.path) != clip.sha256:
            raise DecodeError("the video below the root is not the one that was extracted")
    except OSError as error:
        raise DecodeError(f"cannot be read: {error.strerror or error}") from error
    unique = sorted(set(clip.frames))

    def choose(count: int) -> np.ndarray:
        if unique[0] < 0 or unique[-1] >= count:
            raise DecodeError(f"has {count} frames, and the cache states frames from {unique[0]} to {unique[-1]}")
        return np.array(unique)

    frames = dict(zip(unique, decode_clip(clip.path, choose).frames, strict=True))
    pixels = None
    if transform is not None:
        pixels = prepare(np.stack([frames[index] for index in clip.frames]), transform)
    return ClipPictures(tuple(_small(index, frames[index], height) for index in clip.frames), pixels)


def _small(index: int, frame: np.ndarray, height: int) -> Picture:
    image = Image.fromarray(frame)
    height = min(height, image.height)
    width = max(1, min(round(image.width * height / image.height), 4 * height))
    stream = io.BytesIO()
    image.resize((width, height), Image.Resampling.LANCZOS).save(stream, "JPEG", quality=_QUALITY, optimize=True)
    return Picture(index, width, height, stream.getvalue())
