"""Exact frame access: the frame with index i is the i-th that a full linear decode gives.

Frames come as the stream stores them: a rotation or mirror tag (display matrix) is not applied, as with
`ffmpeg -noautorotate`, and frames that an edit list hides are not counted, as with FFmpeg's decode.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import numpy as np

from harfeat.decode import linear, policy, seeking
from harfeat.decode.policy import POLICY_VERSION
from harfeat.decode.probe import open_video, read_head, read_packets
from harfeat.decode.records import Choose, ClipFrames, DecodeError, Keep, Kept, Pictures, chosen_indices

__all__ = ["POLICY_VERSION", "Choose", "ClipFrames", "DecodeError", "decode_clip", "decode_pictures", "recipe"]

_CREDIBLE = 100_000
"""Frames that a container may state to be believed for a start; a hostile one may state billions."""


def recipe() -> dict[str, Any]:
    """What decides the decoded pixels of a video, for the fingerprint of features made from them."""
    libraries = {name: ".".join(map(str, av.library_versions[name])) for name in ("libavcodec", "libswscale")}
    return {"policy": POLICY_VERSION, **libraries, "decord": version("decord")}


def decode_clip(path: Path, choose: Choose) -> ClipFrames:
    """The chosen frames of one clip, exactly; `decode_pictures` tells how and raises the same.

    Args:
        path: the video file.
        choose: maps the exact frame count N to the wanted indices, (T,) within [0, N), in any order and
            with repeats; for instance `lambda n: sampling.sample("uniform", n, 25)`.
    """
    pictures = decode_pictures(path, lambda count, _: choose(count), lambda _, frame: frame)
    indices = chosen_indices(choose, pictures.source_frames)
    frames = np.stack([pictures.kept[index] for index in indices.tolist()])
    return ClipFrames(frames, indices, pictures.source_frames, pictures.fps, pictures.decoder, pictures.damaged)


def decode_pictures(path: Path, choose: Callable[[int, float], np.ndarray], keep: Keep[Kept]) -> Pictures[Kept]:
    """What `keep` keeps of each chosen frame of one clip; no other frame is converted to RGB.

    PyAV decodes every clip once, from start to end. Where that is too long to keep, `policy` tells whether decord
    may fetch the chosen frames in place of a second pass; `Pictures.decoder` says which did. FFmpeg can hang on
    a hostile file: call this in a process that can be killed (`harfeat.decode.worker`).

    Args:
        path: the video file.
        choose: maps the exact frame count N and the frames a second (NaN where the container states none) to
            the wanted indices, (T,) within [0, N), in any order and with repeats. It may be asked before with
            what the container states, which need not be true; its last answer counts.
        keep: maps the index and the pixels of a frame, (H, W, 3) uint8 RGB, to what is kept of it.

    Raises:
        DecodeError: this clip cannot be decoded.
    """
    with open_video(path) as (container, stream):
        head = read_head(container, stream)
    likely = _likely(choose, head.stated_frames, head.fps)
    found = linear.survey(path, likely, strict=policy.decord_may_fit(head))
    indices = chosen_indices(lambda count: choose(count, head.fps), found.count)
    wanted = frozenset(indices.tolist())
    kept = None
    if not found.frames and found.flawless and found.in_order and policy.seeking_pays(len(wanted), found.count):
        kept = _by_seeking(path, found, wanted, keep)
    decoder = "pyav" if kept is None else "decord"
    if kept is None:
        kept = linear.pick(path, found, wanted, keep)
    return Pictures(kept, found.count, head.fps, decoder, not found.flawless)


def _likely(choose: Callable[[int, float], np.ndarray], stated: int, fps: float) -> frozenset[int] | None:
    """The frames that are wanted if the container counts right, or one too many as in HMDB51; None: any may be.

    It saves keeping the others. Where the count proves to be another, the frames are decoded a second time.
    """
    if not 1 < stated <= _CREDIBLE:
        return None
    try:
        guesses = [chosen_indices(lambda count: choose(count, fps), count) for count in (stated, stated - 1)]
    except (DecodeError, ValueError):  # what cannot be done with a count that may be wrong; no error yet
        return None
    return frozenset(np.concatenate(guesses).tolist())


def _by_seeking(
    path: Path, found: linear.Survey, wanted: frozenset[int], keep: Keep[Kept]
) -> dict[int, Kept] | None:
    """By decord, where the stream's structure shows it to be exact; None elsewhere."""
    with open_video(path) as (container, stream):
        head = read_head(container, stream)
        packets, first = read_packets(container, stream, head) if policy.decord_may_fit(head) else ((), None)
    if len(packets) != found.count or not policy.decord_is_exact(head, packets, first):
        return None
    video = seeking.rewrite(path, [packet.pts for packet in packets if packet.pts is not None])
    return seeking.pick(video, found.count, found.size, wanted, keep) if video is not None else None
