"""Which clips decord may decode: those whose container and stream structure show that its seeking is exact.

Every other clip is decoded linearly by PyAV, which is exact by construction. What decides was found by
comparing decord 0.6.0 (`get_batch` at uniform, random, shuffled and all indices) with a linear decode by
FFmpeg, on the genuine UCF11, HMDB51, UCF101 and UTD-MHAD clips and on some 200 made ones:

| what decord was given | what it returned | so |
|---|---|---|
| MPEG program or transport stream, ASF | off by a GOP, any codec | linear |
| AVI: H.264, MPEG-1, MPEG-2, H.263, even without B-frames | off by -1 to -45 | linear |
| MPEG-4 part 2 with B-frames, any container, also packed ones | off by -23 to +2, -75 where shuffled | linear |
| MPEG-4 part 2 of HMDB51 (a last packet that holds no picture) | one frame too many, off by -1 to -6 | linear |
| MPEG-4 part 2 by XviD without B-frames (UCF101, UTD-MHAD) | right frames, pixels up to 2 levels off | linear |
| H.264 in MP4 or Matroska, open GOP or intra refresh | off by -11 to +2 | linear |
| the same with an edit list, a lost key frame, or no key frame first | off by -3 to -10 | linear |
| the same, times copied from AVI (in stored order, B-frames present) | off by -2 | linear |
| a display matrix | turned, mirrored, or an exception | linear |
| interlaced, odd height with 4:2:0, more than 8 bits | right frames, other pixels | linear |
| H.264 in MP4 or Matroska, closed GOPs, variable frame rate too | equal, every index and pixel | decord |
| MJPEG in AVI, MP4 or Matroska | equal, every index and pixel | decord |
| VP8, VP9, HEVC, FFV1 | equal where tried, but no rule was found that proves it | linear |

The rule for decord: one video stream, 8 bits, even size, upright, progressive; every packet whole, and one
picture each; each packet's time unique; as many packets as the container states and as decord counts; each
key frame a place where decoding can start afresh (IDR) with everything before it shown before it and
everything after it shown after it; in H.264 no reference picture missing by frame_num.

Its limit: damage inside a picture's data that leaves all headers whole shows only when the stream is decoded.
Of 80 H.264 files with 1 or 30 bytes overwritten at random, 14 were seen and decoded linearly, 48 came out
exact through decord, 18 did not. The linear path gave FFmpeg's frame count on every damaged file; only how a
hole is painted over differs between FFmpeg's versions.

Speed is no reason either way: on 240 frames of 320x240 H.264, decord takes 54 ms with key frames every 12
frames and 92 ms every 250, the linear path 88 ms; MJPEG 146 ms against 67 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from harfeat.decode import h264
from harfeat.decode.probe import FirstFrame, PacketHead, StreamHead

POLICY_VERSION = 1
"""Goes up whenever some clip may come out differently, so that caches made before can be told apart."""

_MP4, _MATROSKA, _AVI = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi"
_CONTAINERS = {"h264": {_MP4, _MATROSKA}, "mjpeg": {_MP4, _MATROSKA, _AVI}}
_PIXEL_FORMATS = {"h264": {"yuv420p", "yuvj420p"}, "mjpeg": {"yuvj420p", "yuvj422p", "yuvj444p"}}
_COLOUR_MATRICES = {1, 2, 5, 6, 9}  # BT.709, unspecified, BT.601 (two), BT.2020: those compared


def decord_may_fit(head: StreamHead) -> bool:
    """Whether the header alone leaves decord in question; False spares reading the packets."""
    return (
        head.container in _CONTAINERS.get(head.codec, ())
        and head.pixel_format in _PIXEL_FORMATS[head.codec]
        and head.width % 2 == head.height % 2 == 0
        and head.video_streams == 1
        and (head.codec != "h264" or head.sequence is not None)
    )


def decord_is_exact(head: StreamHead, packets: Sequence[PacketHead], first: FirstFrame | None) -> bool:
    """Whether the structure of the stream shows that decord's seeking returns the frames asked for."""
    if not decord_may_fit(head) or first is None or not packets:
        return False
    if first.displaced or first.interlaced or first.colour_matrix not in _COLOUR_MATRICES:
        return False
    if head.stated_frames not in (0, len(packets)) or not all(packet.whole for packet in packets):
        return False
    times = [packet.pts for packet in packets if packet.pts is not None]
    if len(times) != len(packets) or len(set(times)) != len(times):
        return False
    stored_as_shown = times == sorted(times)
    if stored_as_shown == head.reorders:
        return False  # the times contradict the codec: they tell nothing of the order
    if head.sequence is not None and not _every_key_frame_starts_afresh(packets, head.sequence):
        return False
    return _groups_are_closed(times, [packet.keyframe for packet in packets])


def _every_key_frame_starts_afresh(packets: Sequence[PacketHead], sequence: h264.Sequence264) -> bool:
    pictures = [packet.picture for packet in packets if packet.picture is not None]
    return (
        len(pictures) == len(packets)
        and all(picture.idr == packet.keyframe for picture, packet in zip(pictures, packets, strict=True))
        and h264.no_reference_is_missing(pictures, sequence)
    )


def _groups_are_closed(times: Sequence[int], keyframes: Sequence[bool]) -> bool:
    """Whether each key frame is shown after all that is stored before it and before all stored after it."""
    latest_before = list(accumulate(times, max))
    earliest_after = list(accumulate(reversed(times), min))[::-1]
    return keyframes[0] and all(
        (i == 0 or latest_before[i - 1] < times[i]) and earliest_after[i] == times[i]
        for i, keyframe in enumerate(keyframes)
        if keyframe
    )
