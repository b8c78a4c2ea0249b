"""How the states of all steps become one vector a clip: pure functions (B, T, H), (B,) to (B, H)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def last(states: Tensor, lengths: Tensor) -> Tensor:
    """The state of each clip's last step (Srivastava et al.)."""
    return states[torch.arange(len(states), device=states.device), lengths - 1]


def mean(states: Tensor, lengths: Tensor) -> Tensor:
    """The mean over each clip's own steps."""
    steps = torch.arange(states.shape[1], device=states.device)
    inside = (steps < lengths[:, None]).to(states.dtype)
    return (states * inside[:, :, None]).sum(1) / lengths[:, None]


READOUTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": mean, "last": last}
