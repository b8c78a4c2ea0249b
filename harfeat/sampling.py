"""Which source frames of a clip are used: pure index arithmetic, no pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from harfeat.errors import InputError

Sampler = Callable[[int, int], np.ndarray]


def sample(rule: str, source_frames: int, frames: int) -> np.ndarray:
    """The indices that `rule` takes from a clip.

    Args:
        rule: a name in `SAMPLERS`.
        source_frames: N, the exact number of frames in the clip.
        frames: K, how many are wanted.

    Returns:
        (K,) int64, non-decreasing, each in [0, N). A clip with N < K repeats indices.

    Raises:
        InputError: an unknown rule, K < 1, or a clip without frames.
    """
    if rule not in SAMPLERS:
        raise InputError(f"unknown sampling rule {rule!r}: choose one of {', '.join(sorted(SAMPLERS))}")
    if frames < 1:
        raise InputError(f"cannot sample {frames} frames a clip: ask for 1 or more")
    if source_frames < 1:
        raise InputError(f"cannot sample from a clip of {source_frames} frames: remove the clip")
    return SAMPLERS[rule](source_frames, frames)


def uniform(source_frames: int, frames: int) -> np.ndarray:
    """The middle frame of each of K equal segments: index k is floor((k + 1/2) N / K).

    Source: test-time segment sampling of TSN (Wang et al., ECCV 2016, arXiv:1608.00859). Computed in whole
    numbers, as (2k + 1) N // 2K, so that no rounding of floats can move an index.
    """
    segment = np.arange(frames, dtype=np.int64)
    return (2 * segment + 1) * source_frames // (2 * frames)


SAMPLERS: dict[str, Sampler] = {
    "uniform": uniform,
}
