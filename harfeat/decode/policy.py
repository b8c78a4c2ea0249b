"""Where decord may fetch frames: in long clips without an error, whose structure shows its seeking to be exact.

PyAV decodes every clip from start to end, which is exact by construction and the only way to know the number of
frames and that nothing in the stream is damaged. For clips that fit into memory (`linear.KEEP_BYTES`: every
clip of UCF11, HMDB51 and UCF101) that is all. In a longer one the chosen frames must be fetched a second time,
and there seeking pays. Where decord's seeking is exact was found by
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
| cropped on the left or at the top (H.264) | shifted, or an exception | linear |
| a display matrix | turned, mirrored, or an exception | linear |
| interlaced, odd height with 4:2:0, more than 8 bits | right frames, other pixels | linear |
| H.264 in MP4 or Matroska, closed GOPs, variable frame rate too | equal, every index and pixel | decord |
| MJPEG in AVI, MP4 or Matroska | equal, every index and pixel, but see damage | linear |
| VP8, VP9, HEVC, FFV1 | equal where tried, but no rule was found that proves it | linear |

The rule for decord: one video stream, 8 bits, even size, upright, progressive, cropped nowhere but on the right
and at the bottom; every packet whole, and one picture each; each packet's time unique, and pictures decoded in the
order of their times; as many packets as the container states and as decord counts; each key frame a place where
decoding can start afresh (IDR) with everything before it shown before it and everything after it shown after it;
in H.264 no reference picture missing by frame_num.

Damage inside a picture's data that leaves all headers whole shows only when the stream is decoded: FFmpeg then
paints over the hole or drops the picture, and its versions (decord brings its own) differ in how. So decord gets
a clip only after PyAV has decoded all of it without an error, a picture marked as damaged, or a picture missing:
then both compute what the standard prescribes. By default FFmpeg passes over some errors in silence; so PyAV
decodes as one that gives up at an error (err_detect=explode), and once more by default where there was one.
A damaged container or index, too, is read otherwise by another FFmpeg: decord gets the packets that PyAV read,
in a new container (`seeking.rewrite`). Of 6,000 H.264 files with one byte overwritten (`scripts/damage.py`, which
aims at headers and indexes, too), decord alone gave wrong frames of 225; of the 1,937 left to it here, of none.
MJPEG has no marks of damage: of 157 damaged files that decoded without an error, 66 came out otherwise through
decord. It is decoded linearly. The linear path gave FFmpeg's frame count on every damaged file; only how a hole is
painted over differs between FFmpeg's versions.

Speed, 25 uniform frames of 10,000 of 320x240 H.264, with key frames every 25 (every 250) frames, one core of an
AMD EPYC: two linear passes 5.3 s (5.2 s); one linear pass, then decord, 2.9 s (3.6 s); decord alone 0.1 s
(0.9 s), which sees no damage and is therefore not used. A clip of 240 frames: decord 54-92 ms, one pass 88 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from harfeat.decode import h264
from harfeat.decode.probe import FirstFrame, PacketHead, StreamHead

POLICY_VERSION = 3
"""Goes up whenever some clip may come out differently, so that caches made before can be told apart."""

SEEK_SHARE = 8
"""Seeking pays where at most one frame in so many is wanted."""

_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
_PIXEL_FORMATS = {"yuv420p", "yuvj420p"}
_COLOUR_MATRICES = {1, 2, 5, 6, 9}  # BT.709, unspecified, BT.601 (two), BT.2020: those compared


def seeking_pays(wanted: int, source_frames: int) -> bool:
    """Whether fetching `wanted` frames of a clip too long to keep is much cheaper than decoding it again."""
    return wanted * SEEK_SHARE <= source_frames


def decord_may_fit(head: StreamHead) -> bool:
    """Whether the header alone leaves decord in question; False spares reading the packets."""
    return (
        head.container in _CONTAINERS
        and head.pixel_format in _PIXEL_FORMATS
        and head.width % 2 == head.height % 2 == 0
        and head.video_streams == 1
        and head.sequence is not None
    )


def decord_is_exact(head: StreamHead, packets: Sequence[PacketHead], first: FirstFrame | None) -> bool:
    """Whether the structure of the stream shows that decord's seeking returns the frames asked for."""
    if not decord_may_fit(head) or head.sequence is None or first is None or not packets:
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
    if not _every_key_frame_starts_afresh(packets, head.sequence):
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
