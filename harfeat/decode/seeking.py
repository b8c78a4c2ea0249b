"""Frames by seeking with decord, for the streams that `policy` admits."""

from __future__ import annotations

from collections.abc import Sequence, Set
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av

from harfeat.decode.linear import KEEP_BYTES
from harfeat.decode.probe import demuxed, open_video
from harfeat.decode.records import Keep, Kept

_BATCH = 16  # frames in memory at a time
_PERIOD = Fraction(1, 25)


def rewrite(path: Path, times: Sequence[int]) -> BytesIO | None:
    """The video stream of a file in an MP4 file of its own, in memory, 25 frames a second.

    decord's FFmpeg never sees the original: it is another version, which may read a damaged container or its index
    otherwise than PyAV's does. Times of decoding are stated, as they are not in Matroska: where a stream misstates
    how many pictures it reorders, FFmpeg's versions infer different ones. They begin below zero, which becomes an
    edit list, as encoders have it: decord misses key frames in a file that begins with a later time of showing.
    None where the file is too large to keep, or changed.

    Args:
        path: the video file.
        times: when each of its packets is shown, in stored order, all different.
    """
    if path.stat().st_size > KEEP_BYTES:
        return None
    shown = {time: number for number, time in enumerate(sorted(times))}
    delay = max(stored - shown[time] for stored, time in enumerate(times))
    copy = BytesIO()
    try:
        with open_video(path) as (container, stream), av.open(copy, "w", format="mp4") as output:
            copied = output.add_stream_from_template(stream)
            for stored, packet in enumerate(packet for packet in demuxed(container, stream) if packet.size):
                if packet.pts not in shown:
                    return None
                packet.pts, packet.dts, packet.time_base = shown[packet.pts], stored - delay, _PERIOD
                packet.stream = copied
                output.mux(packet)
    except av.FFmpegError:
        return None
    copy.seek(0)
    return copy


def pick(
    video: BytesIO, source_frames: int, size: tuple[int, int], wanted: Set[int], keep: Keep[Kept]
) -> dict[int, Kept] | None:
    """What `keep` keeps of each wanted frame of a video file that has `source_frames` of `size`, (height, width).

    Returns None where decord cannot open the file, or counts or crops its frames differently: the caller then
    decodes linearly, and the decoder recorded with the clip says so.

    decord is imported here, late, because importing it before torch can hang the process: whoever needs
    torch in this process imports torch first.
    """
    import decord  # noqa: PLC0415
    from decord._ffi.base import DECORDError  # noqa: PLC0415

    decord.logging.set_level(decord.logging.QUIET)
    kept: dict[int, Kept] = {}
    in_order = sorted(wanted)
    try:
        reader = decord.VideoReader(video, ctx=decord.cpu(0), num_threads=1)
        if len(reader) != source_frames:
            return None
        for start in range(0, len(in_order), _BATCH):
            indices = in_order[start : start + _BATCH]
            frames = reader.get_batch(indices).asnumpy()
            if frames.shape[1:3] != size:
                return None
            kept |= {index: keep(index, frame) for index, frame in zip(indices, frames, strict=True)}
    except (DECORDError, RuntimeError):  # the second where the file cannot be opened
        return None
    return kept
