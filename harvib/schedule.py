"""Learning-rate schedules: what share of its peak a rate has at a step of a stage; pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

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


def set_rates(groups: list[dict[str, Any]], name: str, step: int, steps: int, warm: int, steered: bool) -> None:
    """Set `lr` of an optimiser's groups from their `peak`; of a group of masks `of` is MASKS."""
    for group in groups:
        schedule = of_masks if steered and group["of"] == MASKS else SHARES[name]
        group["lr"] = group["peak"] * share(schedule, step, steps, warm)
