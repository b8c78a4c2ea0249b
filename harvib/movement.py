"""Movement pruning of whole inputs and units: the groups of weights that training drives towards zero leave.

Sanh, Wolf and Rush, "Movement Pruning: Adaptive Sparsity by Fine-Tuning", NeurIPS 2020: a weight's score is
S = -sum over steps of rate * w * dL/dw, which grows while gradient descent moves the weight away from zero and
falls while it moves towards it, whatever its size. Here the score of a group, one of the group lasso's
(harvib/lasso.py), is the sum of its weights' scores, gathered over a stage in which the model trains with open
masks; the gradient is that before clipping. Then groups are ranked as magnitude pruning ranks them by their norms.
(In the paper the mask acts while the scores are learned.)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from harvib.classifier import Classifier
from harvib.lasso import Groups, sums
from harvib.magnitude import rank_by

_TINY = 1e-30


class Movement:
    """The scores of all groups of a masked model, gathered step by step."""

    def __init__(self, model: Classifier) -> None:
        self.scores = sums(model, lambda weight, factors: torch.zeros_like(weight))

    @torch.no_grad()
    def of_step(self, model: Classifier, rate: float, scale: float) -> Groups:
        """What a step adds: called with its gradients, of the loss times `scale`, and before the weights move."""

        def value(weight: Tensor, factors: Tensor) -> Tensor:
            # A mask's mean that multiplies the weight divides its gradient: it cancels.
            assert weight.grad is not None
            return weight.grad * weight * (-rate / scale)

        return sums(model, value)

    def add(self, step: Groups) -> None:
        """Add what a step adds, once the weights have moved by it."""
        self.scores = self.scores.map(torch.add, step)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {"movement": torch.cat(self._parts())}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up from `state`."""
        found = state["movement"].to(self.scores.inputs)
        inputs, *units = found.split([len(part) for part in self._parts()])
        following = iter(units)
        self.scores = Groups(inputs, [[next(following) for _ in layer] for layer in self.scores.units])

    @torch.no_grad()
    def rank(self, model: Classifier) -> None:
        """Set the masks' log alpha to how far below the mean of its layer a score is, in mean deviations."""

        def log_alpha(scores: Tensor) -> Tensor:
            below = scores.mean() - scores
            return below / (below.abs().mean() + _TINY)

        rank_by(model, self.scores, log_alpha)

    def _parts(self) -> list[Tensor]:
        return [self.scores.inputs, *(part for layer in self.scores.units for part in layer)]
