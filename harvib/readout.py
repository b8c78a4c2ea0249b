"""How the states of all steps become one vector a clip: pure functions (B, T, H), (B,), int to (B, H).

The last argument says how many states, the last ones, belong to cells that run backwards in time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def last(states: Tensor, lengths: Tensor, backward: int = 0) -> Tensor:
    """The state after each clip's last step (Srivastava et al.); of a backward cell, that is at the first one."""
    ends = states[torch.arange(len(states), device=states.device), lengths - 1]
    if not backward:
        return ends
    return torch.cat([ends[:, :-backward], states[:, 0, -backward:]], dim=1)


def mean(states: Tensor, lengths: Tensor, backward: int = 0) -> Tensor:
    """The mean over each clip's own steps."""
    steps = torch.arange(states.shape[1], device=states.device)
    inside = (steps < lengths[:, None]).to(states.dtype)
    return (states * inside[:, :, None]).sum(1) / lengths[:, None]


READOUTS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {"mean": mean, "last": last}
