"""Protocol buffers on the wire: the fields of a message, without a description of it. Nothing in them is trusted.

Source: https://protobuf.dev/programming-guides/encoding. What a decoder must do by it is done here: unknown fields
are passed over, a message that stands twice is merged (which is the same as joining its bytes), of a map's entries
with one key the last counts. Groups (wire types 3 and 4), which no file of today has, are refused.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""Wire types."""

_FIXED = {FIXED64: 8, FIXED32: 4}
_MOST_FIELDS = 100_000
"""In one message: a hostile one could hold millions that mean nothing."""
_LONGEST_VARINT = 10


class WireError(ValueError):
    """Bytes that are no message."""


def fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """(number, wire type, value) of each field: an integer for VARINT, else its bytes. Raises WireError."""
    at, end, count = 0, len(data), 0
    while at < end:
        tag, at = varint(data, at)
        number, kind = tag >> 3, tag & 7
        count += 1
        if not 0 < number < 1 << 29 or count > _MOST_FIELDS:
            raise WireError(
                f"field number {number}" if count <= _MOST_FIELDS else f"more than {_MOST_FIELDS} fields"
            )
        if kind == VARINT:
            value, at = varint(data, at)
            yield number, kind, value
            continue
        if kind == LENGTH:
            size, at = varint(data, at)
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            raise WireError(f"wire type {kind}")
        if size > end - at:
            raise WireError("a field ends beyond its message")
        yield number, kind, data[at : at + size]
        at += size


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """The unsigned 64-bit integer at a place, and the place behind it. Raises WireError."""
    value = shift = 0
    for place in range(at, min(at + _LONGEST_VARINT, len(data))):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, place + 1
        shift += 7
    raise WireError("a number does not end")


def strings(data: memoryview, number: int) -> list[memoryview]:
    """What stands in each field of this number that has bytes (strings, messages, packed numbers)."""
    return [
        value
        for found, kind, value in fields(data)
        if found == number and kind == LENGTH and isinstance(value, memoryview)
    ]


def message(data: memoryview, number: int) -> memoryview:
    """The message in a field; empty where there is none."""
    return joined(strings(data, number))


def mapping(data: memoryview, number: int) -> dict[bytes, memoryview]:
    """A map from texts to messages."""
    found: dict[bytes, memoryview] = {}
    for entry in strings(data, number):
        keys = strings(entry, 1)
        found[bytes(keys[-1]) if keys else b""] = message(entry, 2)
    return found


def integers(data: memoryview, number: int, most: int) -> list[int]:
    """A list of int64, packed or one by one. Raises WireError for more than `most`."""
    found: list[int] = []
    for key, kind, value in fields(data):
        if key != number:
            continue
        if isinstance(value, int):
            found.append(_signed(value))
        elif kind == LENGTH:
            at = 0
            while at < len(value) and len(found) <= most:
                unsigned, at = varint(value, at)
                found.append(_signed(unsigned))
        if len(found) > most:
            raise WireError(f"more than {most:,} numbers")
    return found


def floats(data: memoryview, number: int) -> memoryview:
    """The bytes of a list of float32, little endian, packed or one by one. Raises WireError."""
    parts = [
        value
        for key, kind, value in fields(data)
        if key == number and isinstance(value, memoryview) and kind in (LENGTH, FIXED32)
    ]
    if any(len(part) % 4 for part in parts):
        raise WireError("a list of floats is cut")
    return joined(parts)


def joined(parts: list[memoryview]) -> memoryview:
    """Bytes one after the other."""
    return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
