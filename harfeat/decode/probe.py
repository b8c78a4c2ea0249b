"""Opening a clip safely, and what its container tells without decoding more than one frame."""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
from av.codec.context import Flags
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from harfeat.decode import h264
from harfeat.decode.records import DecodeError

MAX_SIDE = 16_384
MAX_PIXELS = 8_192 * 4_320
"""8K, the largest format that cameras record; FFmpeg refuses a frame above it before it takes the memory."""

MAX_ASPECT = 32
"""Longer to shorter side. A model's resizing of the shorter side would blow a strip up to gigabytes."""

# What a playlist names lies in other files, which no hash of this one covers, and a named pipe among them blocks.
_PLAYLISTS = frozenset({"hls", "concat", "dash", "imf", "sdp", "avisynth", "vapoursynth"})

# FFmpeg paints text (.txt, .ans) as a terminal would show it.
_TEXTS = frozenset({"tty", "bin", "xbin", "adf", "idf"})


@dataclass(frozen=True)
class StreamHead:
    """What the container's header says of the video stream."""

    container: str  # FFmpeg's demuxer name, e.g. "mov,mp4,m4a,3gp,3g2,mj2"
    codec: str
    pixel_format: str
    width: int
    height: int
    fps: float  # NaN where none is stated
    reorders: bool  # pictures are shown in another order than they are stored
    stated_frames: int  # 0 where the container states none
    video_streams: int
    sequence: h264.Sequence264 | None


@dataclass(frozen=True)
class PacketHead:
    """One packet as demuxed."""

    pts: int | None
    keyframe: bool
    whole: bool  # not empty, damaged, to be thrown away, or with another header, says the demuxer
    picture: h264.Picture264 | None  # H.264 only; None where it is not exactly one whole picture


@dataclass(frozen=True)
class FirstFrame:
    """What only a decoded frame tells."""

    displaced: bool  # carries a display matrix: to be shown turned or mirrored
    interlaced: bool
    colour_matrix: int  # FFmpeg's AVColorSpace


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The opened container and its best video stream, single-threaded.

    Raises:
        DecodeError: not a regular file (a named pipe would block), empty, unreadable, not a video, a playlist,
            no video stream, no decoder for it, or frames too large.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise DecodeError(f"cannot read the file: {getattr(error, 'strerror', error)}") from error
    if not stat.S_ISREG(status.st_mode):
        raise DecodeError("not a regular file")
    if status.st_size == 0:
        raise DecodeError("the file is empty")
    try:
        # The absolute name keeps a colon in a file name from being taken for a protocol.
        options = {"protocol_whitelist": "file", "max_pixels": str(MAX_PIXELS)}
        container = av.open(str(path.resolve()), metadata_errors="ignore", options=options)
    except (FileNotFoundError, PermissionError) as error:
        raise DecodeError(f"cannot read the file: {error.strerror}") from error
    except (av.FFmpegError, OSError) as error:
        raise DecodeError(f"not a readable video: {error.strerror}") from error
    with container:
        if not _PLAYLISTS.isdisjoint(container.format.name.split(",")):
            raise DecodeError(
                f"a playlist ({container.format.name}), not a video: its pictures lie in other files"
            )
        if container.format.name in _TEXTS:
            raise DecodeError("a text, not a video")
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream):
            raise DecodeError("no video stream")
        if stream.codec_context is None:
            raise DecodeError("no decoder for its video codec")
        check_size(stream.codec_context.width, stream.codec_context.height)
        stream.thread_type = "NONE"  # automatic threads have hung servers
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= Flags.unaligned  # else a picture cropped on its left is not
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        yield container, stream


def demuxed(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    """The stream's packets in stored order, PyAV's empty end mark among them.

    Where a further stream appears in mid-file (MPEG program streams may), PyAV may take it for one that was asked
    for, by what lies in memory, and raise IndexError on marking its end, which is after the last packet.
    Source: `InputContainer.demux` of PyAV 18, its issue 692.
    """
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, IndexError):
            return
        yield packet


def check_size(width: int, height: int) -> None:
    """DecodeError for frames that only a broken or hostile file has."""
    long, short = max(width, height), min(width, height)
    if short > 0 and long > MAX_ASPECT * short:
        raise DecodeError(
            f"frames of {width}x{height} pixels: above {MAX_ASPECT} times as long as wide is refused"
        )
    if long > MAX_SIDE or width * height > MAX_PIXELS:
        raise DecodeError(
            f"frames of {width}x{height} pixels: above {MAX_SIDE:,} a side or {MAX_PIXELS:,} in all is refused"
        )


def reason(error: av.FFmpegError) -> str:
    """What FFmpeg says of a stream, in one line.

    Raises:
        MemoryError: it had no memory. To go on would make the frames depend on how much there is.
    """
    if error.errno == errno.ENOMEM:
        raise MemoryError from error
    return str(error.strerror)


def read_head(container: InputContainer, stream: VideoStream) -> StreamHead:
    """The header fields that the policy asks for."""
    codec = stream.codec_context
    return StreamHead(
        container=container.format.name,
        codec=codec.name,
        # Without a format to name, pix_fmt crashes the process in PyAV 17.
        pixel_format=(codec.pix_fmt or "") if codec.format is not None else "",
        width=codec.width,
        height=codec.height,
        fps=float(stream.average_rate) if stream.average_rate else float("nan"),
        reorders=bool(codec.has_b_frames),
        stated_frames=stream.frames,
        video_streams=len(container.streams.video),
        sequence=h264.read_sequence(codec.extradata or b"") if codec.name == "h264" else None,
    )


def read_packets(
    container: InputContainer, stream: VideoStream, head: StreamHead
) -> tuple[tuple[PacketHead, ...], FirstFrame | None]:
    """Every packet's head, and the first frame's (None where the stream breaks before one appears)."""
    packets: list[PacketHead] = []
    first: VideoFrame | None = None
    try:
        for packet in demuxed(container, stream):
            if packet.size == 0 and packet.pts is None:
                continue  # PyAV's own end mark
            data = bytes(packet)
            packets.append(
                PacketHead(
                    pts=packet.pts,
                    keyframe=packet.is_keyframe,
                    whole=bool(data)
                    and not (packet.is_corrupt or packet.is_discard or packet.has_sidedata("new_extradata")),
                    picture=h264.read_picture(data, head.sequence) if head.sequence else None,
                )
            )
            if first is None and data:
                first = next(iter(packet.decode()), None)
        first = first or next(iter(stream.decode(None)), None)
    except av.FFmpegError:
        return tuple(packets), None
    return tuple(packets), _first_frame(first) if first else None


def _first_frame(frame: VideoFrame) -> FirstFrame:
    return FirstFrame(
        displaced=frame.side_data.get("DISPLAYMATRIX") is not None,
        interlaced=bool(frame.interlaced_frame),
        colour_matrix=int(frame.colorspace),
    )
