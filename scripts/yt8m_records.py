"""Writes files as YouTube-8M publishes them: TFRecord files of SequenceExample or Example messages.

It shares no code with the reader in harfeat, so that each checks the other. Fields and their types are those of
https://research.google.com/youtube8m/download.html; the messages are TensorFlow's example.proto and feature.proto,
in the wire format of protocol buffers.

    write_records(Path("train00.tfrecord"), [frame_record(b"ab12", [3, 7], rgb, audio)])
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

BYTES, FLOATS, INTEGERS = 1, 2, 3
"""Fields of the message Feature: which kind of list it holds."""
_CRC_MASK = 0xA282EAD8


def frame_record(
    clip_id: bytes, labels: Sequence[int], rgb: np.ndarray, audio: np.ndarray, id_name: str = "id"
) -> bytes:
    """SequenceExample of one video at frame level.

    rgb (T, 1024) and audio (T, 128) are uint8, a row a second. `id_name`: files of 2017 call the id "video_id".
    """
    context = [_entry(id_name, _list(BYTES, _field(1, clip_id))), _entry("labels", _integers(labels))]
    lists = [_entry(name, _frames(rows)) for name, rows in (("rgb", rgb), ("audio", audio))]
    return _field(1, b"".join(context)) + _field(2, b"".join(lists))


def video_record(
    clip_id: bytes, labels: Sequence[int], mean_rgb: np.ndarray, mean_audio: np.ndarray, id_name: str = "id"
) -> bytes:
    """Example of one video at video level: mean_rgb (1024,) and mean_audio (128,), stored as float32."""
    features = [_entry(id_name, _list(BYTES, _field(1, clip_id))), _entry("labels", _integers(labels))]
    for name, values in (("mean_rgb", mean_rgb), ("mean_audio", mean_audio)):
        # Repeated numbers are packed, as proto3 writes them.
        features.append(_entry(name, _list(FLOATS, _field(1, np.asarray(values, "<f4").tobytes()))))
    return _field(1, b"".join(features))


def write_records(path: Path, payloads: Iterable[bytes]) -> int:
    """Write payloads as a TFRecord file; the number of records."""
    count = 0
    with path.open("wb") as stream:
        for payload in payloads:
            stream.write(framed(payload))
            count += 1
    return count


def framed(payload: bytes) -> bytes:
    """A payload as TFRecord holds it: uint64 length, its masked CRC, payload, its masked CRC; little endian."""
    length = struct.pack("<Q", len(payload))
    return length + _masked_crc(length) + payload + _masked_crc(payload)


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of some bytes."""
    value = 0xFFFFFFFF
    table = _TABLE
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


def _crc_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [(value >> 1) ^ (0x82F63B78 if value & 1 else 0) for value in table]
    return table


_TABLE = _crc_table()


def _masked_crc(data: bytes) -> bytes:
    value = crc32c(data)
    return struct.pack("<I", ((value >> 15 | value << 17) + _CRC_MASK) & 0xFFFFFFFF)


def _frames(rows: np.ndarray) -> bytes:
    """FeatureList: a Feature with one byte string a frame."""
    if rows.dtype != np.uint8 or rows.ndim != 2:
        raise ValueError(f"frames are uint8 of shape (T, D), not {rows.dtype} of shape {rows.shape}")
    return b"".join(_field(1, _list(BYTES, _field(1, row.tobytes()))) for row in rows)


def _integers(values: Sequence[int]) -> bytes:
    return _list(INTEGERS, _field(1, b"".join(_varint(int(value)) for value in values)))


def _list(kind: int, values: bytes) -> bytes:
    """Feature: a list of one kind."""
    return _field(kind, values)


def _entry(key: str, value: bytes) -> bytes:
    """One pair of a map from names to messages, as field 1 of the message that holds the map."""
    return _field(1, _field(1, key.encode()) + _field(2, value))


def _field(number: int, payload: bytes) -> bytes:
    """A field of wire type 2: its bytes after their length."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    if value < 0:
        raise ValueError(f"labels and lengths are at least 0, not {value}")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
