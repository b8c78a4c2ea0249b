"""TFRecord files, record by record: lengths and checksums are checked, and damage is told with its place.

A record is a uint64 length, the masked CRC-32C of those eight bytes, the payload, and the payload's masked
CRC-32C; numbers are little endian. Source: tensorflow/core/lib/io/record_writer.h, where the mask is a turn by 15
bits and a constant. There is no index and no mark between records: behind a damaged length nothing can be found.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from google_crc32c import value as crc32c

from harfeat.errors import InputError

LARGEST = 16 << 20
"""Bytes that a record may have; one of YouTube-8M with 300 frames has 0.35 MB."""

_HEAD = struct.Struct("<QI")
_TAIL = struct.Struct("<I")
_MASK = 0xA282EAD8
_BUFFER = 1 << 20
_GZIP = b"\x1f\x8b"
_Read = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Record:
    """A whole record: `number` from 0, its bytes from `start` to `end` (the framing included), its payload."""

    number: int
    start: int
    end: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """A record that cannot be used. `end` is where the next one begins, or the file's end where none can be found.

    `lost` are the bytes up to the file's end in which nothing can be found, 0 where the next record is known.
    """

    number: int
    start: int
    end: int
    reason: str
    lost: int = 0


def read_records(path: Path, start: int = 0, number: int = 0) -> Iterator[Record | Damage]:
    """Records from byte `start`, where record `number` begins, to the end of the file, one in memory at a time.

    Raises InputError where the file cannot be opened or read, or is compressed.
    """
    try:
        with path.open("rb", buffering=_BUFFER) as stream:
            size = stream.seek(0, 2)
            stream.seek(0)
            if stream.read(2) == _GZIP:
                raise InputError(f"{path}: is compressed (gzip): unpack it first")
            stream.seek(start)
            while start < size:
                found = _take(stream.read, size, start, number)
                if isinstance(found, Damage):
                    stream.seek(found.end)
                yield found
                start, number = found.end, number + 1
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def masked_crc(data: bytes) -> int:
    """CRC-32C as TFRecord states it."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def _take(read: _Read, size: int, start: int, number: int) -> Record | Damage:
    left = size - start
    head = read(_HEAD.size)
    if len(head) < _HEAD.size:
        return Damage(number, start, size, f"the file ends within it: {left:,} bytes lost", left)
    length, stated = _HEAD.unpack(head)
    if masked_crc(head[:8]) != stated:
        reason = f"its length is damaged, so nothing behind it can be found: {left:,} bytes lost"
        return Damage(number, start, size, reason, left)
    end = start + _HEAD.size + length + _TAIL.size
    if end > size:
        return Damage(number, start, size, f"the file ends within it: {left:,} bytes lost", left)
    if length > LARGEST:
        return Damage(
            number, start, end, f"it has {length:,} bytes, more than the {LARGEST:,} that a record may have"
        )
    payload, tail = read(length), read(_TAIL.size)
    if len(payload) < length or len(tail) < _TAIL.size:
        return Damage(number, start, size, f"the file was cut short while it was read: {left:,} bytes lost", left)
    if masked_crc(payload) != _TAIL.unpack(tail)[0]:
        return Damage(number, start, end, "its bytes do not match their checksum")
    return Record(number, start, end, payload)
