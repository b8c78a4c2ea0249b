"""Exact frame access: the frame with index i is the i-th that a full linear decode gives.

Frames come as the stream stores them: a rotation or mirror tag (display matrix) is not applied, as with
`ffmpeg -noautorotate`, and frames that an edit list hides are not counted, as with FFmpeg's decode.
"""

from __future__ import annotations

from pathlib import Path

from harfeat.decode import linear, policy, seeking
from harfeat.decode.policy import POLICY_VERSION
from harfeat.decode.probe import open_video, read_head, read_packets
from harfeat.decode.records import Choose, ClipFrames, DecodeError

__all__ = ["POLICY_VERSION", "Choose", "ClipFrames", "DecodeError", "decode_clip"]


def decode_clip(path: Path, choose: Choose) -> ClipFrames:
    """The chosen frames of one clip, exactly.

    decord decodes where `policy` shows it to be exact and it agrees on the frame count, PyAV everywhere
    else; `ClipFrames.decoder` says which did. FFmpeg can hang on a hostile file: call this in a process that
    can be killed (`harfeat.decode.worker`).

    Args:
        path: the video file.
        choose: maps the exact frame count N to the wanted indices, (T,) within [0, N), in any order and
            with repeats; for instance `lambda n: sampling.sample("uniform", n, 25)`.

    Raises:
        DecodeError: this clip cannot be decoded.
    """
    with open_video(path) as (container, stream):
        head = read_head(container, stream)
        packets, first = read_packets(container, stream, head) if policy.decord_may_fit(head) else ((), None)
    clip = None
    if policy.decord_is_exact(head, packets, first):
        clip = seeking.decode(path, len(packets), head.fps, choose)
    return clip or linear.decode(path, head.fps, choose)
