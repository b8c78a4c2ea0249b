"""Cameras and standard input: pictures one by one, decoded as a file's are, for as long as they come."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from harfeat.extractor import MAX_PIXELS, DecodeError, check_size, to_rgb
from harvib.errors import InputError
from harvib.predict.inputs import Camera, Live
from harvib.predict.jpegs import JpegSplitter

_PIECE = 1 << 16
_SECONDS_TO_OPEN = 30.0
_MOST_BEHIND = 2.0
_DEVICES: dict[str, tuple[str, str, dict[str, str]]] = {
    "linux": ("v4l2", "/dev/video{}", {}),
    # FFmpeg would ask for 30000/1001 frames a second, which most cameras of Macs refuse.
    "darwin": ("avfoundation", "{}", {"framerate": "30"}),
}
"""By platform FFmpeg's input device, the name that a camera's number has there, and options."""


class BrokenSourceError(Exception):
    """A live source ended in an error, or gives what cannot be used; the text says why, in one line."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A frame of a live source: its number from 0 and its time in seconds since the first."""

    index: int
    time: float
    frame: VideoFrame

    def rgb(self) -> np.ndarray:
        """(H, W, 3) uint8, converted as a file's frames are."""
        return to_rgb(self.frame)


class LiveSource(ABC):
    """`fps` are its frames a second; `broken` counts pictures that could not be decoded, which have no number."""

    def __init__(self, name: str, fps: float) -> None:
        self.name, self.fps, self.broken = name, fps, 0

    def pictures(self, frames: int = 0, seconds: float = 0.0) -> Iterator[Picture]:
        """At most so many, and of the first so many seconds; 0: all.

        Raises BrokenSourceError where the source ends in an error.
        """
        begun = 0.0
        for index, frame in enumerate(self.decoded()):
            time = self.time_of(frame, index)
            begun = time if index == 0 else begun
            if seconds and time - begun >= seconds:
                return
            yield Picture(index, time - begun, frame)
            if index + 1 == frames:
                return

    def time_of(self, frame: VideoFrame, index: int) -> float:
        """In seconds, from any start."""
        return index / self.fps

    @abstractmethod
    def decoded(self) -> Iterator[VideoFrame]:
        """All frames, as they come."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the device."""


class Clock:
    """Whether what is done with pictures keeps up with a camera, which does not wait."""

    def __init__(self) -> None:
        self._begun: float | None = None
        self._told = False

    def behind(self, time: float) -> float:
        """Seconds behind a picture of this time, the first time that they are too many; else 0."""
        now = monotonic() - time
        self._begun = now if self._begun is None else min(self._begun, now)
        late = now - self._begun
        if self._told or late < _MOST_BEHIND:
            return 0.0
        self._told = True
        return late


class CameraSource(LiveSource):
    """A device that FFmpeg has opened."""

    def __init__(self, name: str, container: InputContainer, fps: float) -> None:
        self._container = container
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream):
            raise InputError(f"{name}: gives no pictures")
        self._stream = stream
        rate = stream.average_rate or stream.guessed_rate
        super().__init__(name, float(rate) if rate else fps)

    def time_of(self, frame: VideoFrame, index: int) -> float:
        return index / self.fps if frame.time is None else float(frame.time)

    def decoded(self) -> Iterator[VideoFrame]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                raise BrokenSourceError(str(error.strerror)) from error
            if packet is None:
                return
            try:
                yield from self._stream.decode(packet)
            except av.FFmpegError:
                self.broken += 1

    def close(self) -> None:
        self._container.close()


class PipeSource(LiveSource):
    """JPEG pictures from a stream of bytes that nobody seeks in."""

    def __init__(self, name: str, stream: BinaryIO, fps: float) -> None:
        super().__init__(name, fps)
        self._stream = stream
        self._decoder: Any = av.CodecContext.create("mjpeg", "r")
        self._decoder.thread_count = 1
        self._decoder.options = {"max_pixels": str(MAX_PIXELS)}

    def decoded(self) -> Iterator[VideoFrame]:
        splitter, undecoded = JpegSplitter(), 0
        for jpeg in self._pictures(splitter):
            frame = self._frame(jpeg)
            undecoded += frame is None
            self.broken = splitter.broken + undecoded
            if frame is not None:
                yield frame
        self.broken = splitter.broken + undecoded

    def _pictures(self, splitter: JpegSplitter) -> Iterator[bytes]:
        # read1: what there is, without waiting for more.
        while data := self._stream.read1(_PIECE):  # type: ignore[attr-defined]
            yield from splitter.feed(data)
        yield from splitter.close()

    def _frame(self, jpeg: bytes) -> VideoFrame | None:
        try:
            (frame,) = self._decoder.decode(av.Packet(jpeg))
            check_size(frame.width, frame.height)
        except (av.FFmpegError, DecodeError, ValueError):
            # ValueError: no frame, or several.
            return None
        found: VideoFrame = frame
        return found

    def close(self) -> None:
        """Standard input is not ours."""


def live_source(live: Live, fps: float) -> LiveSource:
    """The opened source; `fps` where it does not tell its own. Raises InputError, one line."""
    if not isinstance(live, Camera):
        if sys.stdin is None or sys.stdin.isatty():
            raise InputError(
                "-: standard input is a terminal or closed: pipe JPEG pictures into it, as of "
                "`ffmpeg -i CLIP -f mjpeg -`"
            )
        return PipeSource(live.name, sys.stdin.buffer, fps)
    try:
        container = open_device(live.device)
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{live.name}: cannot be opened: {error.strerror}{_others()}") from error
    return CameraSource(live.name, container, fps)


def open_device(device: str) -> InputContainer:
    """A camera by its number or its device file, opened by FFmpeg."""
    if sys.platform not in _DEVICES:
        raise InputError(
            f"camera {device}: cameras have no numbers on this system; pipe one into standard input, as of "
            "`ffmpeg -f dshow -i video=NAME -f mjpeg - | harvib predict --stream ... -`"
        )
    kind, named, options = _DEVICES[sys.platform]
    name = named.format(device) if device.isdigit() else device
    return av.open(name, format=kind, options=options, timeout=_SECONDS_TO_OPEN)


def _others() -> str:
    """Which cameras there are, where the system tells by files."""
    if sys.platform != "linux":
        return ""
    return f" (there are: {', '.join(map(str, sorted(Path('/dev').glob('video*')))) or 'none'})"


def record(pictures: Iterator[Picture], path: Path, fps: float) -> int:
    """Write pictures losslessly as a video of `fps` frames a second; how many there were.

    A rule that looks at a whole clip can then be applied as to any file, with pixels that are the same to the bit.
    Raises BrokenSourceError where their size changes, InputError where there is no room for them.
    """
    try:
        return _recorded(pictures, path, Fraction(fps).limit_denominator(1_000_000))
    except av.FFmpegError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}; TMPDIR names another folder") from error


def _recorded(pictures: Iterator[Picture], path: Path, rate: Fraction) -> int:
    count = 0
    with av.open(str(path), "w", format="matroska") as container:
        stream: Any = container.add_stream("ffv1", rate=rate)
        for picture in pictures:
            size = (picture.frame.width, picture.frame.height)
            if not count:
                stream.width, stream.height = size
                stream.pix_fmt = "bgr0"
            if size != (stream.width, stream.height):
                raise BrokenSourceError(
                    f"frames change size, from {stream.width}x{stream.height} to {size[0]}x{size[1]}"
                )
            frame = VideoFrame.from_ndarray(picture.rgb(), format="rgb24").reformat(format="bgr0")
            frame.pts, frame.time_base = count, 1 / rate
            container.mux(stream.encode(frame))
            count += 1
        if count:
            container.mux(stream.encode(None))
    return count
