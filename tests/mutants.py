"""Broken videos made from sound ones, each a function of its seed: what disks, networks and strangers do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

# Marks of AVI and MP4 that a size stands beside, and start codes of MPEG streams.
_MARKS = (
    *(b"RIFF", b"LIST", b"avih", b"strh", b"strf", b"movi", b"00dc", b"idx1", b"JUNK"),
    *(b"ftyp", b"moov", b"mvhd", b"trak", b"stsd", b"avcC", b"stts", b"ctts", b"stsc", b"stsz", b"stco", b"mdat"),
    *(b"\0\0\1\xba", b"\0\0\1\xb3", b"\0\0\1\xe0", b"\0\0\1\xb6", b"\xff\xd8", b"\xff\xc0", b"\x1aE\xdf\xa3"),
)
_SIZES = (0, 1, 7, 0x7F, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF)


def mutant(sound: Sequence[bytes], seed: int) -> bytes:
    """One of the `sound` files, broken in one to three ways."""
    random = Random(seed)
    data = bytearray(random.choice(sound))
    kinds = random.choices(MUTATIONS, k=random.choice((1, 1, 1, 2, 3)))
    for kind in kinds:
        data = kind(data, random.choice(sound), random)
    return bytes(data)


def _flipped_bits(data: bytearray, other: bytes, random: Random) -> bytearray:
    # Half of them near the start, where the headers are.
    reach = random.choice((min(len(data), 400), len(data)))
    for _ in range(random.choice((1, 3, 30, 300)) if reach else 0):
        data[random.randrange(reach)] ^= 1 << random.randrange(8)
    return data


def _cut(data: bytearray, other: bytes, random: Random) -> bytearray:
    return data[: random.randrange(len(data) + 1)]


def _headless(data: bytearray, other: bytes, random: Random) -> bytearray:
    return data[random.randrange(min(len(data), 5_000) + 1) :]


def _swapped_header(data: bytearray, other: bytes, random: Random) -> bytearray:
    length = random.choice((4, 12, 64, 300, 2_048, 6_000))
    return bytearray(other[:length]) + data[length:]


def _spliced(data: bytearray, other: bytes, random: Random) -> bytearray:
    return data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other)) :]


def _zeroed_block(data: bytearray, other: bytes, random: Random) -> bytearray:
    start, length = random.randrange(len(data) + 1), random.choice((4, 64, 512, 4_096, 40_000))
    end = min(start + length, len(data))
    data[start:end] = bytes(end - start)
    return data


def _random_block(data: bytearray, other: bytes, random: Random) -> bytearray:
    start, length = random.randrange(len(data) + 1), random.choice((4, 64, 512, 4_096))
    end = min(start + length, len(data))
    data[start:end] = random.randbytes(end - start)
    return data


def _lost_block(data: bytearray, other: bytes, random: Random) -> bytearray:
    start = random.randrange(len(data) + 1)
    return data[:start] + data[start + random.choice((1, 4, 512, 4_096)) :]


def _doubled_block(data: bytearray, other: bytes, random: Random) -> bytearray:
    start = random.randrange(len(data) + 1)
    return data[: start + random.choice((1, 4, 512, 4_096))] + data[start:]


def _wrong_sizes(data: bytearray, other: bytes, random: Random) -> bytearray:
    """Sizes and counts beside known marks, as either byte order writes them."""
    places = [at for mark in _MARKS if (at := data.find(mark)) >= 0]
    for _ in range(random.choice((1, 2, 4)) if places else 0):
        at = random.choice(places) + random.choice((-4, 4, 4, 8, 12, 16, 20, 24, 32))
        value = random.choice(_SIZES).to_bytes(4, random.choice(("big", "little")))
        if 0 <= at <= len(data) - 4:
            data[at : at + 4] = value
    return data


MUTATIONS: tuple[Callable[[bytearray, bytes, Random], bytearray], ...] = (
    _flipped_bits,
    _cut,
    _headless,
    _swapped_header,
    _spliced,
    _zeroed_block,
    _random_block,
    _lost_block,
    _doubled_block,
    _wrong_sizes,
)
