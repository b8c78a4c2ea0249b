"""Frames by seeking with decord, for the streams that `policy` admits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harfeat.decode.records import Choose, Keep, Kept, Pictures, chosen_indices

_BATCH = 16  # frames in memory at a time


def decode(path: Path, source_frames: int, fps: float, choose: Choose, keep: Keep[Kept]) -> Pictures[Kept] | None:
    """The chosen frames of a clip that has `source_frames` by its container.

    Returns None where decord cannot open the file or counts its frames differently: the caller then decodes
    linearly, and the decoder recorded with the clip says so.

    decord is imported here, late, because importing it before torch can hang the process: whoever needs
    torch in this process imports torch first.
    """
    import decord  # noqa: PLC0415
    from decord._ffi.base import DECORDError  # noqa: PLC0415

    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(str(path.resolve()), ctx=decord.cpu(0), num_threads=1)
        if len(reader) != source_frames:
            return None
        wanted = np.unique(chosen_indices(choose, source_frames))
        pictures: dict[int, Kept] = {}
        for start in range(0, len(wanted), _BATCH):
            indices = wanted[start : start + _BATCH]
            frames = reader.get_batch(indices).asnumpy()
            pictures |= {index: keep(frame) for index, frame in zip(indices.tolist(), frames, strict=True)}
    except (DECORDError, RuntimeError):  # the second where the file cannot be opened
        return None
    return Pictures(pictures, source_frames, fps, "decord")
