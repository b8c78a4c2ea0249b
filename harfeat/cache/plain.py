"""Whether an HDF5 file has the plain form in which caches are written, found out before HDF5 opens it.

The HDF5 library (2.0.0) hung on 16 of 11,000 damaged files of its old format, whose metadata has no checksums,
and crashed on 4 of 6,000 forged ones of its newest; on 18,000 forged ones of the plain form it did neither. What
caches need is that small part of HDF5: a superblock of version 2 or 3, object headers of version 2 with checksums,
links and attributes inside of them, data in one piece, plain numbers and texts of fixed width. This walks over
those headers, each once, and looks no further than it must to tell. Files in another form are opened in a process
of its own first (`harfeat.cache.guard`).

Source: HDF5 File Format Specification 3.0, sections II.A (superblock), IV.A.1.b (object header version 2), IV.A.2
(messages); checksums: lookup3 by Bob Jenkins (public domain), as the specification asks.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

Read = Callable[[int, int], bytes]
"""(address, number of bytes) to the bytes; fewer where the file ends."""

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_NOWHERE = 0xFFFFFFFFFFFFFFFF
_SUPERBLOCK = struct.Struct("<8sBBBBQQQQI")
_MOST_HEADERS, _LONGEST_HEADER = 100_000, 16 << 20

_NIL, _SPACE, _LINK_INFO, _TYPE, _FILL, _LINK, _LAYOUT = 0, 1, 2, 3, 5, 6, 8
_GROUP_INFO, _ATTRIBUTE, _CONTINUATION, _TIME, _ATTRIBUTE_INFO = 0xA, 0xC, 0x10, 0x12, 0x15
_HARMLESS = (_NIL, _SPACE, _FILL, _GROUP_INFO, _TIME)
_PLAIN_TYPES = (0, 1, 3)  # whole numbers, floats, texts of fixed width
_COMPACT_OR_CONTIGUOUS = (0, 1)


class DamagedError(ValueError):
    """A checksum does not fit its bytes. The text names the object, or is empty for the file as a whole."""


class _OtherFormError(ValueError):
    """Something that is no part of the plain form."""


def is_plain(read: Read) -> bool:
    """Whether all of the file's metadata that HDF5 will look at has the plain form.

    Raises DamagedError where it has, but is cut short or has a checksum that does not match. HDF5 checks them
    itself; here they are computed only where something looks odd, to tell damage from another form.
    """
    block = read(0, _SUPERBLOCK.size)
    if len(block) < _SUPERBLOCK.size or block[:8] != SIGNATURE or block[8] not in (2, 3):
        return False
    _, _, offsets, lengths, flags, base, extension, end, root, stated = _SUPERBLOCK.unpack(block)
    if checksum(block[:-4]) != stated or not read(end - 1, 1):
        raise DamagedError
    if (offsets, lengths, flags, base, extension) != (8, 8, 0, 0, _NOWHERE):
        return False
    waiting, seen = [("/", root)], {root}
    while waiting:
        where, address = waiting.pop()
        try:
            links = _links_of_object(where, address, read)
        except _OtherFormError:
            return False
        for name, target in links:
            if target in seen or len(seen) > _MOST_HEADERS:
                return False
            seen.add(target)
            waiting.append((f"{where.rstrip('/')}/{name}", target))
    return True


def _links_of_object(where: str, address: int, read: Read) -> list[tuple[str, int]]:
    """Names and addresses of what a group holds."""
    prefix = read(address, 34)
    if prefix[:1] == b"\1":
        raise _OtherFormError  # version 1
    if prefix[:5] != b"OHDR\x02" or len(prefix) < 34:
        raise DamagedError(where.lstrip("/"))
    flags = prefix[5]
    at = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
    width = 1 << (flags & 3)
    size = int.from_bytes(prefix[at : at + width], "little")
    at += width
    blocks, links, chunks = [(address, at, size)], [], 0
    while blocks:
        start, first, length = blocks.pop()
        chunks += 1
        if length > _LONGEST_HEADER or chunks > 1000:
            raise _OtherFormError
        data = read(start, first + length + 4)
        try:
            if len(data) != first + length + 4 or (chunks > 1 and data[:4] != b"OCHK"):
                raise DamagedError(where.lstrip("/"))
            found, more = _messages(data[first:-4], bool(flags & 4))
        except (_OtherFormError, struct.error, IndexError) as error:
            if len(data) > 4 and checksum(data[:-4]) != int.from_bytes(data[-4:], "little"):
                raise DamagedError(where.lstrip("/")) from error
            raise _OtherFormError from error
        links += found
        blocks += [(place, 4, extent - 8) for place, extent in more if extent > 8]
    return links


def _messages(body: bytes, ordered: bool) -> tuple[list[tuple[str, int]], list[tuple[int, int]]]:
    """The links and the continuations (address, length) in one block of messages."""
    links, more = [], []
    at, head = 0, 6 if ordered else 4
    while at + head <= len(body):
        kind, size, flags = struct.unpack_from("<BHB", body, at)
        data = body[at + head : at + head + size]
        # Bit 1: the message stands elsewhere.
        if flags & 2 or len(data) != size:
            raise _OtherFormError
        if kind == _LINK:
            links.append(_link(data))
        elif kind == _CONTINUATION:
            more.append(struct.unpack("<QQ", data))
        elif not _is_harmless(kind, data):
            raise _OtherFormError
        at += head + size
    return links, more


def _is_harmless(kind: int, data: bytes) -> bool:
    if kind == _TYPE:
        return data[0] & 15 in _PLAIN_TYPES
    if kind == _LAYOUT:
        return data[0] in (3, 4) and data[1] in _COMPACT_OR_CONTIGUOUS
    if kind == _LINK_INFO:
        return _nothing_in_a_heap(data, 8)
    if kind == _ATTRIBUTE_INFO:
        return _nothing_in_a_heap(data, 2)
    if kind == _ATTRIBUTE:
        version, shared, name_size = struct.unpack_from("<BBH", data)
        return version == 3 and not shared and data[9 + name_size] & 15 in _PLAIN_TYPES
    return kind in _HARMLESS


def _nothing_in_a_heap(data: bytes, counter: int) -> bool:
    place = 2 + (counter if data[1] & 1 else 0)
    return bool(struct.unpack_from("<Q", data, place)[0] == _NOWHERE)


def _link(data: bytes) -> tuple[str, int]:
    flags = data[1]
    at = 2
    if flags & 8:
        if data[at] != 0:
            raise _OtherFormError  # soft or external
        at += 1
    at += (8 if flags & 4 else 0) + (1 if flags & 16 else 0)
    width = 1 << (flags & 3)
    size = int.from_bytes(data[at : at + width], "little")
    at += width
    if at + size + 8 != len(data):
        raise _OtherFormError
    return data[at : at + size].decode(errors="replace"), int(struct.unpack_from("<Q", data, at + size)[0])


_WORD = 0xFFFFFFFF


def checksum(data: bytes) -> int:
    """lookup3's `hashlittle` with the initial value 0, the checksum of HDF5's metadata."""
    a = b = c = (0xDEADBEEF + len(data)) & _WORD
    whole = (len(data) - 1) // 12 * 12 if data else 0
    for x, y, z in struct.iter_unpack("<III", data[:whole]):
        a, b, c = (a + x) & _WORD, (b + y) & _WORD, (c + z) & _WORD
        a, c = (a - c & _WORD) ^ _turn(c, 4), c + b & _WORD
        b, a = (b - a & _WORD) ^ _turn(a, 6), a + c & _WORD
        c, b = (c - b & _WORD) ^ _turn(b, 8), b + a & _WORD
        a, c = (a - c & _WORD) ^ _turn(c, 16), c + b & _WORD
        b, a = (b - a & _WORD) ^ _turn(a, 19), a + c & _WORD
        c, b = (c - b & _WORD) ^ _turn(b, 4), b + a & _WORD
    if not data:
        return c
    x, y, z = struct.unpack("<III", data[whole:].ljust(12, b"\0"))
    a, b, c = (a + x) & _WORD, (b + y) & _WORD, (c + z) & _WORD
    c = (c ^ b) - _turn(b, 14) & _WORD
    a = (a ^ c) - _turn(c, 11) & _WORD
    b = (b ^ a) - _turn(a, 25) & _WORD
    c = (c ^ b) - _turn(b, 16) & _WORD
    a = (a ^ c) - _turn(c, 4) & _WORD
    b = (b ^ a) - _turn(a, 14) & _WORD
    return (c ^ b) - _turn(b, 24) & _WORD


def _turn(word: int, by: int) -> int:
    return (word << by | word >> 32 - by) & _WORD
