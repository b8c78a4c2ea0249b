"""Learning-rate schedules: what share of its peak a rate has at a step of a stage; pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

EXAMPLES = "examples"
"""The schedule whose rate falls by a factor each so many clips, however long its stage."""
MASKS = "masks"
"""What an optimiser's group of masks is called."""

SHARES: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
    "constant": lambda progress: 1.0,
    # As of the published ResNet schedules: a tenth at a half of the way, a hundredth at three quarters.
    "step": lambda progress: 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01,
}
"""Share of the peak by how much of the way after the warm-up lies behind, 0 to 1."""


SCHEDULES = (*SHARES, EXAMPLES)


@dataclass(frozen=True)
class Schedule:
    """A schedule by its name; `every` clips and `factor` are those of EXAMPLES, where a step has `batch` clips.

    x0.8 every 4,000,000 examples is what the published YouTube-8M baselines take.
    """

    name: str
    every: int = 4_000_000
    factor: float = 0.8
    batch: int = 1

    def share(self, step: int, steps: int, warm: int) -> float:
        """The share at `step` of `steps`, counted from 0, of which `warm` rise to the peak; see `share`."""
        if self.name == EXAMPLES and step >= warm:
            return self.factor ** ((step - warm) * self.batch // self.every)
        return share(SHARES.get(self.name, SHARES["constant"]), step, steps, warm)


def of_masks(progress: float) -> float:
    """The masks' share under a budget's controller, whatever the schedule of the weights.

    The full rate for seven tenths of the way and then a straight line to zero: while their rate fades, no strength
    moves the masks, and the controller would push in vain.
    """
    return min(1.0, (1 - progress) / 0.3)


def share(schedule: Callable[[float], float], step: int, steps: int, warm: int) -> float:
    """The share at `step` of `steps`, counted from 0, of which `warm` rise to the peak on a straight line.

    The first step of a warm-up already moves; the schedule starts from the peak at the end of it.
    """
    if step < warm:
        return (step + 1) / (warm + 1)
    return schedule((step - warm) / (steps - warm))


def set_rates(
    groups: list[dict[str, Any]], schedule: Schedule, step: int, steps: int, warm: int, steered: bool
) -> None:
    """Set `lr` of an optimiser's groups from their `peak`; of a group of masks `of` is MASKS."""
    for group in groups:
        by_itself = steered and group["of"] == MASKS
        group["lr"] = group["peak"] * (
            share(of_masks, step, steps, warm) if by_itself else schedule.share(step, steps, warm)
        )
