"""Exact frame access: the frame with index i is the i-th that a full linear decode gives.

Frames come as the stream stores them: a rotation or mirror tag (display matrix) is not applied, as with
`ffmpeg -noautorotate`, and frames that an edit list hides are not counted, as with FFmpeg's decode.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from harfeat.decode import linear, policy, seeking
from harfeat.decode.policy import POLICY_VERSION
from harfeat.decode.probe import open_video, read_head, read_packets
from harfeat.decode.records import Choose, ClipFrames, DecodeError, Keep, Kept, Pictures, chosen_indices

__all__ = ["POLICY_VERSION", "Choose", "ClipFrames", "DecodeError", "decode_clip", "decode_pictures"]


def decode_clip(path: Path, choose: Choose) -> ClipFrames:
    """The chosen frames of one clip, exactly; `decode_pictures` tells how and raises the same.

    Args:
        path: the video file.
        choose: maps the exact frame count N to the wanted indices, (T,) within [0, N), in any order and
            with repeats; for instance `lambda n: sampling.sample("uniform", n, 25)`.
    """
    pictures = decode_pictures(path, lambda count, _: choose(count), lambda frame: frame)
    indices = chosen_indices(choose, pictures.source_frames)
    frames = np.stack([pictures.kept[index] for index in indices.tolist()])
    return ClipFrames(frames, indices, pictures.source_frames, pictures.fps, pictures.decoder)


def decode_pictures(path: Path, choose: Callable[[int, float], np.ndarray], keep: Keep[Kept]) -> Pictures[Kept]:
    """What `keep` keeps of each chosen frame of one clip; each is decoded once, and no other stays in memory.

    decord decodes where `policy` shows it to be exact and it agrees on the frame count, PyAV everywhere
    else; `ClipFrames.decoder` says which did. FFmpeg can hang on a hostile file: call this in a process that
    can be killed (`harfeat.decode.worker`).

    Args:
        path: the video file.
        choose: maps the exact frame count N and the frames a second (NaN where the container states none) to
            the wanted indices, (T,) within [0, N), in any order and with repeats.
        keep: maps a frame, (H, W, 3) uint8 RGB, to what is kept of it.

    Raises:
        DecodeError: this clip cannot be decoded.
    """
    with open_video(path) as (container, stream):
        head = read_head(container, stream)
        packets, first = read_packets(container, stream, head) if policy.decord_may_fit(head) else ((), None)
    pictures = None
    if policy.decord_is_exact(head, packets, first):
        pictures = seeking.decode(path, len(packets), head.fps, lambda count: choose(count, head.fps), keep)
    return pictures or linear.decode(path, head.fps, lambda count: choose(count, head.fps), keep)
