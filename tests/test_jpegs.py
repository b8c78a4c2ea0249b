"""harvib.predict.jpegs: whole pictures out of any pieces of a stream, and what is broken costs itself alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from predict_models import jpeg
from videos import numbered_frame

from harvib.predict import jpegs
from harvib.predict.jpegs import JpegSplitter

BOUNDARY = b"\r\n--frame\r\nContent-Type: image/jpeg\r\nContent-Length: 123\r\n\r\n"


def pictures() -> list[bytes]:
    """Of several kinds: progressive, with restart markers, a thumbnail that is a JPEG itself, comments."""
    frames = [numbered_frame(index, 40 + index, 56) for index in range(6)]
    exif = Image.Exif()
    exif[0x010E] = "a description"
    inner = jpeg(frames[0][::4, ::4].copy())
    segment = b"\xff\xe5" + (len(inner) + 2).to_bytes(2, "big") + inner
    first = jpeg(frames[0])
    return [
        first,
        jpeg(frames[1], progressive=True),
        jpeg(frames[2], restart_marker_blocks=2),
        first[:2] + segment + first[2:],
        jpeg(frames[4], exif=exif, comment=b"\xff\xd8\xff"),
        first[:-2] + b"\xff\xff\xff" + first[-2:],  # fill bytes before the end
    ]


PICTURES = pictures()


def split(data: bytes, sizes: Sequence[int]) -> tuple[list[bytes], int]:
    """Fed in pieces of these sizes, which go round."""
    splitter, found, at, turn = JpegSplitter(), [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        found += list(splitter.feed(data[at : at + size]))
        at, turn = at + size, turn + 1
    found += list(splitter.close())
    return found, splitter.broken


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, len(PICTURES) - 1), max_size=6),
    st.lists(st.sampled_from([1, 2, 3, 7, 100, 4096, 100_000]), min_size=1, max_size=4),
    st.sampled_from([b"", b"\n", BOUNDARY, b"\xff", b"\xff\xff\xd9\x00"]),
)
def test_every_picture_comes_out_to_the_byte(which: list[int], sizes: list[int], between: bytes) -> None:
    wanted = [PICTURES[index] for index in which]
    data = between + b"".join(picture + between for picture in wanted)
    found, broken = split(data, sizes)
    assert found == wanted
    assert broken == 0


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1),
    st.floats(0.02, 0.98),
    st.lists(st.sampled_from([1, 64, 100_000]), min_size=1, max_size=3),
    st.sampled_from([b"", BOUNDARY]),
)
def test_a_picture_cut_short_costs_itself_alone(
    which: int, share: float, sizes: list[int], between: bytes
) -> None:
    hurt = PICTURES[which][: max(3, int(share * len(PICTURES[which])))]
    data = PICTURES[2] + between + hurt + between + PICTURES[0] + between + PICTURES[1]
    found, broken = split(data, sizes)
    assert found == [PICTURES[2], PICTURES[0], PICTURES[1]]
    assert broken == 1
    assert split(PICTURES[2] + between + hurt, sizes) == ([PICTURES[2]], 1)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_hurt_bytes_never_stop_the_stream(seed: int, changes: int) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(b"".join(PICTURES))
    for _ in range(changes):
        data[rng.integers(len(data))] = rng.integers(256)
    found, broken = split(bytes(data) + PICTURES[1] + PICTURES[0], [1000])
    assert found[-1] == PICTURES[0]
    assert len(found) + broken >= 3
    assert all(picture.startswith(b"\xff\xd8") and picture.endswith(b"\xff\xd9") for picture in found)


def test_what_is_no_picture_gives_none_and_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    splitter = JpegSplitter()
    for _ in range(100):
        assert not list(splitter.feed(b"no pictures here \xff\xd9 " * 1000))
        assert len(splitter._held) < 3
    monkeypatch.setattr(jpegs, "MOST_BYTES", 10_000)
    # A picture without an end.
    begun = PICTURES[0][:-2]
    assert not list(splitter.feed(begun))
    for _ in range(100):
        assert not list(splitter.feed(bytes(1000)))
        assert len(splitter._held) <= 11_000
    assert splitter.broken == 1
    assert list(splitter.feed(PICTURES[1])) == [PICTURES[1]]


def test_nothing_is_no_broken_picture() -> None:
    assert split(b"", [1]) == ([], 0)
    assert split(b"\xff\xd8", [1]) == ([], 0)
    assert split(b"\xff\xd8\xff", [1]) == ([], 1)
