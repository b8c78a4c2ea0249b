"""Frames by seeking with decord, for the streams that `policy` admits."""

from __future__ import annotations

from pathlib import Path

from harfeat.decode.records import Choose, ClipFrames, chosen_indices


def decode(path: Path, source_frames: int, fps: float, choose: Choose) -> ClipFrames | None:
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
        indices = chosen_indices(choose, source_frames)
        frames = reader.get_batch(indices).asnumpy()
    except (DECORDError, RuntimeError):  # the second where the file cannot be opened
        return None
    return ClipFrames(frames, indices, source_frames, fps, "decord")
