"""The order in which the inputs, units and weights of a masked model would be dropped: by log alpha.

Where the order is cut decides how many parameters are left; harvib/budget.py looks for the cut. What a cut leaves
is each family's own rule (harvib/stack_ranking.py, harvib/pooling/ranking.py).
"""

from __future__ import annotations

import bisect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harvib.classifier import Classifier
from harvib.masks import VIBMask

_SMALLEST_MU = 1e-3


@dataclass(frozen=True)
class Landing:
    """Where a landing ended: exact parameters of the compact model, its inputs and the units' threshold.

    `weights` is the threshold of masks on single weights, where it is another.
    """

    parameters: int
    inputs: int
    threshold: float
    weights: float | None = None


class Ranking(ABC):
    """The inputs and units of a masked model in the order in which they would be dropped, by log alpha.

    `gates` are the scores of all units, `units` these and those of ranks and single weights, ascending; one zero
    where the model has no units to drop. `has_weights`: whether some masks are on single weights.
    """

    has_weights = False

    def __init__(self, model: Classifier, gates: Sequence[Tensor], finer: Sequence[Tensor] = ()) -> None:
        assert model.input_mask is not None
        self._input_mask = model.input_mask
        self.inputs = finite(model.input_mask)
        self._sorted_inputs = self.inputs.sort().values
        self.gates = torch.cat([torch.zeros(0), *gates])
        units = torch.cat([self.gates, *finer])
        self._has_units = len(units) > 0
        self.units = units.sort().values if self._has_units else torch.zeros(1)

    @abstractmethod
    def parameters(self, inputs: int, threshold: float, factors: bool, weights: float | None = None) -> int:
        """Exact parameters of the compact model with the first so many inputs, and the units up to `threshold`."""

    @abstractmethod
    def impose_units(self, landing: Landing) -> None:
        """Make all masks but the input's keep what the landing keeps, and nothing else."""

    def weights_within(self, target: int, threshold: float, factors: bool) -> float | None:
        """Up to which score single weights fit into `target` beside the units up to `threshold`; None: not one."""
        raise TypeError("no masks on single weights")

    def border(self, target: int, factors: bool) -> float:
        """The largest log alpha at which dropping everything above it leaves at most `target` parameters."""
        scores = [self.inputs, self.units] if self._has_units else [self.inputs]
        values = torch.cat(scores).unique()

        def count(position: int) -> int:
            threshold = float(values[position])
            inputs = int((self._sorted_inputs <= threshold).sum())
            return self.parameters(max(1, inputs), threshold, factors)

        first_above = bisect.bisect_right(range(len(values)), target, key=count)
        return float(values[max(0, first_above - 1)])

    def inputs_within(self, target: int, threshold: float, factors: bool) -> int:
        """The largest number of inputs with which the model stays within `target`; 0: not even one."""
        sizes = range(1, len(self.inputs) + 1)
        return bisect.bisect_right(sizes, target, key=lambda k: self.parameters(k, threshold, factors))

    def first_inputs(self, count: int) -> Tensor:
        """The `count` inputs that would be dropped last, (K,) bool."""
        keep = torch.zeros_like(self.inputs, dtype=torch.bool)
        keep[self.inputs.argsort(stable=True)[:count]] = True
        return keep

    @torch.no_grad()
    def impose(self, landing: Landing) -> None:
        """Make the masks keep what the landing keeps, and nothing else."""
        impose(self._input_mask, self.first_inputs(landing.inputs))
        self.impose_units(landing)


def finite(mask: VIBMask) -> Tensor:
    """The log alpha of a mask as finite numbers, on the CPU."""
    return torch.nan_to_num(mask.log_alpha().detach().cpu(), posinf=1e30, neginf=-1e30)


def impose(mask: VIBMask, keep: Tensor) -> None:
    """Make a mask keep these, (size,) bool: variances move just across the border where it decides otherwise."""
    keep = keep.to(mask.mu.device)
    back = keep & ~mask.keep()
    # A mean of zero would keep nothing whatever its variance.
    tiny = back & (mask.mu.abs() < _SMALLEST_MU)
    mask.mu[tiny] = _SMALLEST_MU
    border = 2 * mask.mu.abs().log()
    mask.log_variance.copy_(torch.where(back, border - 1, mask.log_variance))
    away = ~keep & mask.keep()
    mask.log_variance.copy_(torch.where(away, border + 1, mask.log_variance))
