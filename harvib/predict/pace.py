"""Which frames of a stream without end a model sees: those that its cache's rule takes at the start of a clip.

Rules that look at a whole clip (uniform, random) have no meaning there; the user names a step in their place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from harvib.errors import InputError

if TYPE_CHECKING:
    from harfeat.extractor import SamplingSettings

_DENOMINATOR = 1_000_000


class Pace:
    """Every `step`-th frame, which need not be a whole number: frame floor(k * step) for k = 0, 1, ..."""

    def __init__(self, step: Fraction) -> None:
        self.step = step

    def due(self, frame: int) -> int:
        """How many times the model sees this frame; below a step of one that is more than once."""
        return math.ceil((frame + 1) / self.step) - math.ceil(frame / self.step)


def pace_of(samplings: Sequence[SamplingSettings], interval: int, fps: float) -> Pace:
    """Of a stream of `fps` frames a second, for a model whose streams were sampled so.

    `interval` is what the user asks for, 0 for nothing. Raises InputError where it is needed, or would change what
    the model was trained on, or where the streams of the model differ.
    """
    steps = {_step(sampling, interval, fps) for sampling in samplings}
    if len(steps) > 1:
        raise InputError("--stream: the model's streams were sampled at different steps; predict whole clips")
    return Pace(steps.pop())


def _step(sampling: SamplingSettings, interval: int, fps: float) -> Fraction:
    if sampling.stream != "rgb":
        raise InputError(
            f"--stream: the model sees {sampling.stream}, which takes the next frame too; leave --stream out, and "
            "the clip is predicted at its end"
        )
    own = {
        "first": Fraction(sampling.interval),
        "dense": Fraction(sampling.interval),
        "all": Fraction(1),
        "fps": Fraction(fps).limit_denominator(_DENOMINATOR)
        / (Fraction(sampling.fps).limit_denominator(_DENOMINATOR) or 1),
    }
    if sampling.rule not in own:
        if not interval:
            raise InputError(
                f"--stream: the model was trained on {sampling.fixed_frames} {sampling.rule} frames of whole "
                "clips, and a live stream has no end to spread them over; say --interval N to see every N-th frame"
            )
        return Fraction(interval)
    if interval:
        raise InputError(
            f"--interval {interval}: the model has a step of its own (--sampling {sampling.rule}); leave it out"
        )
    return own[sampling.rule]
