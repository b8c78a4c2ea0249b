"""One safetensors file: numbers as tensors, texts as JSON in the metadata.

The format (https://huggingface.co/docs/safetensors, "Format"): the length of the header as 8 bytes, little-endian;
the header, a JSON object of name to {dtype, shape, data_offsets}; the tensors' bytes without a gap. The library's
own writer needs all tensors in memory.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

from harfeat.cache.writer import atomic_path
from harfeat.errors import InputError
from harfeat.exporters.tables import ROWS, Selection, key_of

_TYPES = {
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "uint8": "U8",
    "int8": "I8",
    "int32": "I32",
    "int64": "I64",
}
_LONGEST_HEADER = 100_000_000
"""Readers refuse more."""


def write_safetensors(selection: Selection, out: Path) -> None:
    """Write one file."""
    numbers = selection.numbers()
    shapes = {key: (values.shape, values.dtype) for key, values in numbers.items()}
    for stream in selection.streams:
        shapes |= {key_of(stream, what): selection.shape(stream, what) for what in ROWS}
    # The largest types first, so that every tensor begins at a multiple of its type's size.
    order = sorted(shapes, key=lambda key: (-shapes[key][1].itemsize, key))
    header = _header(selection, [(key, *shapes[key]) for key in order])
    sources = {key_of(stream, what): (stream, what) for stream in selection.streams for what in ROWS}
    with atomic_path(out) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for key in order:
            for values in selection.rows(*sources[key]) if key in sources else [numbers[key]]:
                file.write(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())


def _header(selection: Selection, tensors: list[tuple[str, tuple[int, ...], np.dtype[np.generic]]]) -> bytes:
    texts = {key: json.dumps(values, ensure_ascii=False) for key, values in selection.texts().items()}
    fields: dict[str, object] = {"__metadata__": {"format": "harfeat", **texts, **selection.facts()}}
    start = 0
    for key, shape, dtype in tensors:
        stop = start + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        fields[key] = {"dtype": _TYPES[dtype.name], "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    header = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    if len(header) > _LONGEST_HEADER:
        raise InputError(
            f"{selection.cache.path}: names and provenance take {len(header)} bytes, which safetensors refuses: "
            "export to npz"
        )
    return header + b" " * (-len(header) % 8)
