"""The few H.264 header fields that tell whether a stream can be entered at every key frame.

Source: ITU-T H.264 (08/2021): byte stream and NAL units 7.3.1, sequence parameter set 7.3.2.1.1,
slice header 7.3.3, frame_num 7.4.3; ISO/IEC 14496-15 5.3.3 for the decoder configuration ("avcC").
FFmpeg knows all of this but hands out none of it before decoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_SLICE, _PARTITIONS, _IDR_SLICE, _SEQUENCE = 1, (2, 3, 4), 5, 7
_HIGH_PROFILES = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)
_SLICE_HEADER_BYTES = 24  # first_mb, slice_type, pps_id and frame_num fit, even with escapes


@dataclass(frozen=True)
class Sequence264:
    """The one sequence parameter set of a stream of progressive 8-bit 4:2:0 pictures."""

    raw: bytes
    length_size: int  # bytes of the length in front of each NAL unit
    frame_num_bits: int


@dataclass(frozen=True)
class Picture264:
    """One coded picture: whether decoding may start there, and its place in the chain of references."""

    idr: bool
    reference: bool
    frame_num: int


def read_sequence(extradata: bytes) -> Sequence264 | None:
    """The sequence header in a container's "avcC" record; None where it is not the plain kind.

    Plain means one parameter set, 8 bits, 4:2:0, whole progressive frames only, no scaling lists, no
    gaps allowed in frame_num, and nothing cropped on the left or at the top.
    """
    if len(extradata) < 8 or extradata[0] != 1 or extradata[5] & 31 != 1:
        return None
    size = int.from_bytes(extradata[6:8], "big")
    raw = extradata[8 : 8 + size]
    if len(raw) != size or size < 4 or raw[0] & 31 != _SEQUENCE:
        return None
    try:
        frame_num_bits = _plain_frame_num_bits(_Bits(raw[1:]))
    except EOFError:
        return None
    if frame_num_bits is None:
        return None
    return Sequence264(raw, (extradata[4] & 3) + 1, frame_num_bits)


def read_picture(packet: bytes, sequence: Sequence264) -> Picture264 | None:
    """The one picture in a packet; None unless whole NAL units fill the packet and hold just one picture."""
    picture: Picture264 | None = None
    for unit in _nal_units(packet, sequence.length_size):
        if not unit or unit[0] & 0x80:
            return None
        kind = unit[0] & 31
        if kind in _PARTITIONS or (kind == _SEQUENCE and unit != sequence.raw):
            return None
        if kind not in (_SLICE, _IDR_SLICE):
            continue
        bits = _Bits(unit[1:_SLICE_HEADER_BYTES])
        try:
            first_macroblock, _, _ = bits.exp_golomb(), bits.exp_golomb(), bits.exp_golomb()
            frame_num = bits.read(sequence.frame_num_bits)
        except EOFError:
            return None
        here = Picture264(kind == _IDR_SLICE, bool(unit[0] & 0x60), frame_num)
        if (picture is None) != (first_macroblock == 0) or (picture is not None and here != picture):
            return None
        picture = here
    return picture


def no_reference_is_missing(pictures: Sequence[Picture264], sequence: Sequence264) -> bool:
    """Whether frame_num counts on without a gap from an IDR picture: no reference picture was lost."""
    expected = -1
    for picture in pictures:
        if picture.frame_num != (0 if picture.idr else expected):
            return False
        if picture.idr or picture.reference:
            expected = (picture.frame_num + 1) % (1 << sequence.frame_num_bits)
    return True


def _nal_units(packet: bytes, length_size: int) -> Iterator[bytes]:
    """The NAL units of a packet; an empty one where a length does not fit."""
    at = 0
    while at < len(packet):
        start = at + length_size
        at = start + int.from_bytes(packet[at:start], "big")
        if at > len(packet) or at == start:
            yield b""
            return
        yield packet[start:at]


def _plain_frame_num_bits(bits: _Bits) -> int | None:
    profile, _, _ = bits.read(8), bits.read(8), bits.read(8)
    bits.exp_golomb()  # seq_parameter_set_id
    if profile in _HIGH_PROFILES:
        chroma, luma_depth, chroma_depth = bits.exp_golomb(), bits.exp_golomb(), bits.exp_golomb()
        bits.read(1)  # qpprime_y_zero_transform_bypass_flag
        scaling_lists = bits.read(1)
        if (chroma, luma_depth, chroma_depth, scaling_lists) != (1, 0, 0, 0):
            return None
    frame_num_bits = bits.exp_golomb() + 4
    order_type = bits.exp_golomb()
    if order_type == 0:
        bits.exp_golomb()  # log2_max_pic_order_cnt_lsb_minus4
    elif order_type != 2:
        return None
    bits.exp_golomb()  # max_num_ref_frames
    gaps_allowed = bits.read(1)
    for _ in ("width", "height"):
        bits.exp_golomb()
    frames_only = bits.read(1)
    if not frames_only or gaps_allowed or frame_num_bits > 16:
        return None
    bits.read(1)  # direct_8x8_inference_flag
    if bits.read(1):  # frame_cropping_flag
        left, _, top, _ = (bits.exp_golomb() for _ in ("left", "right", "top", "bottom"))
        if left or top:
            return None
    return frame_num_bits


class _Bits:
    """Reads bits of a NAL unit's payload, big end first; EOFError past the end."""

    def __init__(self, payload: bytes) -> None:
        plain = payload.replace(b"\0\0\3", b"\0\0")  # emulation prevention, 7.4.1
        self._value = int.from_bytes(plain, "big")
        self._left = 8 * len(plain)

    def read(self, count: int) -> int:
        if count > self._left:
            raise EOFError
        self._left -= count
        return self._value >> self._left & ((1 << count) - 1)

    def exp_golomb(self) -> int:
        """An unsigned Exp-Golomb number, 9.1."""
        zeros = 0
        while self.read(1) == 0:
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)
