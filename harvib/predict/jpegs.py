"""An endless MJPEG stream cut into pictures: JPEG files one after another, with or without lines in between.

Cameras serve it as multipart/x-mixed-replace, `ffmpeg -f mjpeg` writes it bare. A picture ends at its EOI marker;
markers inside of segments (thumbnails) and stuffed bytes in the coded data are none. Source: ITU-T T.81, annex B.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MOST_BYTES = 32 * 2**20
"""A picture of more is broken: what is held of a stream is bounded."""

_BEGIN = b"\xff\xd8\xff"
_IN_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""In coded data: neither a stuffed byte nor a restart marker. Fill bytes (FF) may come before it."""
_BEGINS, _ENDS, _SCAN, _COMMENT = 0xD8, 0xD9, 0xDA, 0xFE
_APPLICATION = range(0xE0, 0xF0)
"""These and comments may hold anything, thumbnails that are JPEGs among them."""


class JpegSplitter:
    """Bytes in, whole pictures out; `broken` counts those that began and did not end as they must."""

    def __init__(self) -> None:
        self.broken = 0
        self._held = bytearray()
        self._at = 0  # of what is held, up to where it is understood; 0: no picture has begun
        self._scanning = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The pictures that end in these bytes."""
        self._held += data
        while (end := self._end()) is not None:
            picture = bytes(self._held[:end])
            self._forget(end)
            yield picture
        if len(self._held) > MOST_BYTES:
            self._give_up()

    def close(self) -> Iterator[bytes]:
        """Nothing follows: a picture that has begun is broken, and there may be some in what it held."""
        while self._at:
            self._give_up()
            yield from self.feed(b"")

    def _end(self) -> int | None:
        """Where the picture that begins first ends; None where more bytes are needed."""
        held = self._held
        while self._begun():
            if self._scanning:
                found = _IN_SCAN.search(held, self._at)
                if found is None:
                    # The last byte may be half a marker.
                    self._at = max(self._at, len(held) - 1)
                    return None
                self._at, self._scanning = found.start(), False
            while held[self._at : self._at + 2] == b"\xff\xff":
                self._at += 1
            if len(held) < self._at + 2:
                return None
            mark, kind = held[self._at], held[self._at + 1]
            if mark != 0xFF or kind in (0, _BEGINS):
                self._give_up()
            elif kind == _ENDS:
                return self._at + 2
            elif kind == 1 or 0xD0 <= kind <= 0xD7:
                self._at += 2
            elif len(held) < self._at + 4:
                return None
            else:
                end = self._at + 2 + int.from_bytes(held[self._at + 2 : self._at + 4], "big")
                if len(held) < end:
                    return None
                if end < self._at + 4 or self._swallows(kind, end):
                    self._give_up()
                else:
                    self._at, self._scanning = end, kind == _SCAN
        return None

    def _swallows(self, kind: int, end: int) -> bool:
        """Whether the segment that ends here was cut short, and the next picture begins in it."""
        own = kind == _COMMENT or kind in _APPLICATION
        return not own and self._held.find(_BEGIN, self._at, end) >= 0

    def _begun(self) -> bool:
        """Whether a picture has begun; what stands before it is forgotten."""
        if not self._at:
            start = self._held.find(_BEGIN)
            if start < 0:
                # The last two bytes may be the beginning of one.
                self._forget(max(0, len(self._held) - len(_BEGIN) + 1))
                return False
            self._forget(start)
            self._at = 2
        return True

    def _give_up(self) -> None:
        """The picture that has begun is broken: go on with the next that begins, in what is held of it too."""
        self.broken += 1
        self._forget(2)

    def _forget(self, count: int) -> None:
        del self._held[:count]
        self._at, self._scanning = 0, False
