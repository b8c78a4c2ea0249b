"""A video with the running prediction on it: every frame of the source, H.264 where FFmpeg was built with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame
from PIL import Image

from harvib.errors import InputError
from harvib.predict.panel import Panel, Row
from harvib.weights import replace_synced

_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
_ENCODERS = (("libx264", {"preset": "veryfast", "crf": "20"}), ("mpeg4", {"qscale": "3", "flags": "+qscale"}))
_MOST_TICKS = 60_000
"""A second at most: MPEG-4 has no more than 65,535."""


class Overlay:
    """A video that appears under its name when it is closed without an error; a context.

    Sizes are made even, as H.264 with its usual colours needs them, by repeating the last row or column.
    """

    def __init__(self, path: Path, fps: float, rows: int) -> None:
        self._path, self._part = path, path.with_name(f".{path.name}.part")
        self._rate = _rate_of(fps)
        # A whole number of ticks to a frame.
        self._ticks = _MOST_TICKS // self._rate.numerator * self._rate.numerator
        # Cameras may tell the same time twice, and Matroska counts milliseconds.
        self._step = self._ticks // 1000
        self._last = -self._step
        self._rows = rows
        self._container: Any = None
        self._stream: Any = None
        self._size = (0, 0)
        self._panel: Panel | None = None

    def add(self, picture: np.ndarray, time: float, rows: Sequence[Row]) -> None:
        """A frame (H, W, 3) uint8 RGB at `time` seconds, with these labels and their probabilities on it.

        The first decides the size; a later one of another size is resized.
        """
        if self._container is None:
            self._open(*picture.shape[:2])
        assert self._panel is not None
        height, width = self._size
        if picture.shape[:2] != self._size:
            picture = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))
        picture = picture.copy()
        self._panel.draw_on(picture, rows)
        even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = VideoFrame.from_ndarray(even, format="rgb24")
        self._last = max(self._last + self._step, round(time * self._ticks))
        frame.pts, frame.time_base = self._last, Fraction(1, self._ticks)
        self._told(lambda: self._container.mux(self._stream.encode(frame)))

    def __enter__(self) -> Overlay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._container is None:
                return
            if kind is None:
                self._told(lambda: self._container.mux(self._stream.encode(None)))
            self._told(self._container.close)
            if kind is None:
                replace_synced(self._part, self._path)
        finally:
            # What was wrong with it has been told.
            with suppress(OSError):
                self._part.unlink()

    def _open(self, height: int, width: int) -> None:
        self._size, self._panel = (height, width), Panel(width, height, self._rows)
        container = self._told(lambda: av.open(str(self._part), "w", format=_FORMATS[self._path.suffix.lower()]))
        name, options = next(pair for pair in _ENCODERS if pair[0] in av.codecs_available)
        stream = container.add_stream(name, rate=self._rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        stream.codec_context.time_base = Fraction(1, self._ticks)
        self._container, self._stream = container, stream

    def _told(self, act: Callable[[], Any]) -> Any:
        """What FFmpeg says of the file, as one line."""
        try:
            return act()
        except (av.FFmpegError, OSError) as error:
            raise InputError(f"--overlay {self._path}: cannot be written: {error.strerror or error}") from error


def _rate_of(fps: float) -> Fraction:
    """The frames a second as a fraction that ticks can count; the usual ones, such as 30000/1001, exactly."""
    rates = (Fraction(min(max(fps, 0.01), 1000.0)).limit_denominator(most) for most in (1001, 100, 10, 1))
    return next(rate for rate in rates if 0 < rate.numerator <= _MOST_TICKS)


def overlay_path(text: str, inputs: Sequence[Path]) -> Path:
    """Where an overlay is to go. Raises InputError where it cannot, or would overwrite what it is made of."""
    path = Path(text)
    if path.suffix.lower() not in _FORMATS:
        raise InputError(f"--overlay {text}: its name must end in one of {', '.join(_FORMATS)}")
    if path.is_dir():
        raise InputError(f"--overlay {text}: is a folder")
    if not path.absolute().parent.is_dir():
        raise InputError(f"--overlay {text}: there is no folder {path.parent}")
    if any(path.exists() and video.exists() and path.samefile(video) for video in inputs):
        raise InputError(f"--overlay {text}: is the video itself; choose another name")
    return path
