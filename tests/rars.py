"""RAR archives (version 4, stored without compression), written by hand: no free program makes them.

After the published description of the format (technote.txt of RAR 4).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

LINK = 0o120777
FILE = 0o100644


def rar(
    files: Mapping[str, bytes], modes: Mapping[str, int] | None = None, sizes: Mapping[str, int] | None = None
) -> bytes:
    """An archive of `files`; `modes` makes some of them links, `sizes` has the table lie about some."""
    out = [b"Rar!\x1a\x07\x00", _block(0x73, 0, b"\x00" * 6)]
    for name, content in files.items():
        raw = name.encode()
        fields = struct.pack(
            "<IIBIIBBHI",
            len(content),
            (sizes or {}).get(name, len(content)),
            3,  # Unix
            zlib.crc32(content),
            0x5A21_0000,
            29,
            0x30,  # stored
            len(raw),
            (modes or {}).get(name, FILE),
        )
        out += [_block(0x74, 0x8000, fields + raw), content]
    return b"".join([*out, _block(0x7B, 0x4000, b"")])


def _block(kind: int, flags: int, rest: bytes) -> bytes:
    body = struct.pack("<BHH", kind, flags, 7 + len(rest)) + rest
    return struct.pack("<H", zlib.crc32(body) & 0xFFFF) + body
