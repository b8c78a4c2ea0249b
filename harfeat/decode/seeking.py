"""Frames by seeking with decord, for the streams that `policy` admits."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from harfeat.decode.records import Keep, Kept

_BATCH = 16  # frames in memory at a time


def pick(path: Path, source_frames: int, wanted: Set[int], keep: Keep[Kept]) -> dict[int, Kept] | None:
    """What `keep` keeps of each wanted frame of a clip that has `source_frames`.

    Returns None where decord cannot open the file or counts its frames differently: the caller then decodes
    linearly, and the decoder recorded with the clip says so.

    decord is imported here, late, because importing it before torch can hang the process: whoever needs
    torch in this process imports torch first.
    """
    import decord  # noqa: PLC0415
    from decord._ffi.base import DECORDError  # noqa: PLC0415

    decord.logging.set_level(decord.logging.QUIET)
    kept: dict[int, Kept] = {}
    in_order = sorted(wanted)
    try:
        reader = decord.VideoReader(str(path.resolve()), ctx=decord.cpu(0), num_threads=1)
        if len(reader) != source_frames:
            return None
        for start in range(0, len(in_order), _BATCH):
            indices = in_order[start : start + _BATCH]
            frames = reader.get_batch(indices).asnumpy()
            kept |= {index: keep(index, frame) for index, frame in zip(indices, frames, strict=True)}
    except (DECORDError, RuntimeError):  # the second where the file cannot be opened
        return None
    return kept
