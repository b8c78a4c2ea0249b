"""Frames by decoding the whole stream in order with FFmpeg (PyAV): exact for every file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation

from harfeat.decode.probe import MAX_PIXELS, check_size, demuxed, open_video, reason
from harfeat.decode.records import DecodeError, Keep, Kept

KEEP_BYTES = 256 * 2**20
_FRAME_OVERHEAD = 4_096  # of a frame object, so that millions of tiny frames are bounded too


@dataclass
class Survey:
    """What a full linear decode tells of a clip.

    Attributes:
        count: the exact number of frames.
        flawless: whether FFmpeg met no error and painted over no hole; of H.264 it tells all where `survey` was
            strict (see `policy`).
        size: (height, width) of every frame.
        in_order: whether each frame is known to be shown later than the one before it.
        frames: by index, all or the likely ones, unconverted; nothing where they exceed `KEEP_BYTES`.
    """

    count: int = 0
    flawless: bool = True
    size: tuple[int, int] = (0, 0)
    in_order: bool = True
    frames: dict[int, VideoFrame] = field(default_factory=dict)


def survey(path: Path, likely: Set[int] | None = None, strict: bool = False) -> Survey:
    """Decode a clip once from start to end.

    Which frames are wanted depends on their number, which only this tells. So the decoded frames are kept as
    they are (YUV, unconverted), up to `KEEP_BYTES`: 2,200 frames of 320x240, more than any clip of UCF11, HMDB51
    or UCF101 has. Of a longer clip, the wanted frames are fetched in a second pass, or by `seeking`.

    Where `likely` is given, only those indices are kept. FFmpeg then works in the same few buffers, which a
    core's cache holds: 10 ms in place of 20 for 164 frames of 320x240.

    Where `strict`, FFmpeg first decodes as one that gives up at a fault: by default it passes over some, such as a
    slice whose references make no sense, without a word. The frames are those of the default all the same: a clip
    with a fault is decoded again.

    Raises:
        DecodeError: not a readable video, no frame in it, frames too large, or of changing size.
    """
    if strict:
        with suppress(DecodeError):
            found = _survey(path, likely, strict=True)
            if found.flawless:
                return found
            found.frames.clear()
    found = _survey(path, likely)
    found.flawless = found.flawless and not strict
    return found


def _survey(path: Path, likely: Set[int] | None, strict: bool = False) -> Survey:
    """Where `strict`, only up to the first fault."""
    found = Survey()
    kept_bytes, before = 0, -math.inf
    for frame in _decoded(path, found, strict):
        if strict and not found.flawless:
            break
        index, found.count = found.count, found.count + 1
        time = -math.inf if frame.pts is None else frame.pts
        found.in_order, before = found.in_order and before < time, time
        if kept_bytes <= KEEP_BYTES and (likely is None or index in likely):
            found.frames[index] = frame
            kept_bytes += _FRAME_OVERHEAD + sum(plane.buffer_size for plane in frame.planes)
            if kept_bytes > KEEP_BYTES:
                found.frames.clear()
    return found


def pick(path: Path, found: Survey, wanted: Set[int], keep: Keep[Kept]) -> dict[int, Kept]:
    """What `keep` keeps of each wanted frame, from the survey's frames or by decoding the clip a second time.

    Raises:
        DecodeError: as `survey`, or the file changed since.
    """
    if wanted <= found.frames.keys():
        return {index: keep(index, to_rgb(found.frames[index])) for index in sorted(wanted)}
    kept: dict[int, Kept] = {}
    last = max(wanted, default=-1)
    for index, frame in enumerate(_decoded(path, Survey())):
        if index in wanted:
            kept[index] = keep(index, to_rgb(frame))
        if index == last:
            break
    if len(kept) != len(wanted):
        raise DecodeError(f"the file changed while it was read: {found.count} frames, then fewer")
    return kept


def pictures(path: Path) -> Iterator[np.ndarray]:
    """Every frame of a clip in order, (H, W, 3) uint8 RGB. FFmpeg can hang on a hostile file: see `survey` first.

    Raises:
        DecodeError: as `survey`.
    """
    return map(to_rgb, _decoded(path, Survey()))


def _decoded(path: Path, found: Survey, strict: bool = False) -> Iterator[VideoFrame]:
    """Every frame in order, as FFmpeg's own command line gives them; notes in `found` whether errors occurred.

    As there, a packet that cannot be decoded gives no frame, and a break in the container ends the stream.
    """
    failure = "it holds none"
    with open_video(path) as (container, stream):
        if strict:
            stream.codec_context.options |= {"err_detect": "explode"}
        packets = demuxed(container, stream)
        at_end = False
        while not at_end:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                packet, failure, found.flawless = None, reason(error), False
            at_end = packet is None
            if packet is not None and packet.size == 0:
                continue  # to the decoder an empty packet means the end of the stream
            try:
                frames = stream.decode(packet)
            except av.FFmpegError as error:
                failure, found.flawless = reason(error), False
                continue
            for frame in frames:
                found.flawless = found.flawless and not frame.is_corrupt
                height, width = found.size
                if height == 0:
                    check_size(frame.width, frame.height)
                    found.size = (frame.height, frame.width)
                elif found.size != (frame.height, frame.width):
                    raise DecodeError(f"frames change size, from {width}x{height} to {frame.width}x{frame.height}")
                yield frame
        if found.size[0] == 0 and stream.codec_context.width == 0:
            failure += f"; by its header, frames have no size, or one above {MAX_PIXELS:,} pixels"
    if found.size[0] == 0:
        raise DecodeError(f"no frame could be decoded: {failure}")


def to_rgb(frame: VideoFrame) -> np.ndarray:
    """(H, W, 3) uint8. Bicubic is the command line's choice; it matters for odd sizes and 10 bits only."""
    return frame.to_ndarray(format="rgb24", interpolation=Interpolation.BICUBIC)
