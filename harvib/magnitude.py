"""Magnitude pruning of whole inputs and units: the groups of weights with the smallest norms leave.

The groups are those of the group lasso (harvib/lasso.py). A group's norm becomes the log alpha of the masks that
decide about it, relative to the median of its layer, so that landing on a budget, compaction and all that follows
are those of VIB: methods differ in the ranking, and in nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harvib.classifier import Classifier
from harvib.lasso import Groups, cells_with_units, squared_norms
from harvib.masks import VIBMask
from harvib.models import recurrent
from harvib.stack_ranking import deciding

_TINY = 1e-30


@torch.no_grad()
def rank_by_norm(model: Classifier) -> None:
    """Set the masks' log alpha to log(median / ||group||^2); their means stay.

    Of a model with a structured matrix only the masks of that matrix are ranked, by norms of its own.
    """
    model = recurrent(model, "--method magnitude")
    if model.spec.factor is None:
        rank_by(model, squared_norms(model), _log_alpha)
        return
    for matrix in model.recurrent.matrices().values():
        masks = matrix.of_masks()
        for name, squares in matrix.squares().items():
            _set([masks[name]], _log_alpha(squares))


def _log_alpha(squares: Tensor) -> Tensor:
    return (squares.median() + _TINY).log() - (squares + _TINY).log()


@torch.no_grad()
def rank_by(model: Classifier, values: Groups, log_alpha: Callable[[Tensor], Tensor]) -> None:
    """Set the masks' log alpha to that of their groups' values; their means stay.

    `log_alpha` takes all values of the inputs, or of the units of a layer, (N,) to (N,). Masks between layers,
    which share the groups of the layer below, stay open.
    """
    assert model.input_mask is not None
    _set([model.input_mask], log_alpha(values.inputs))
    for cells, parts in zip(cells_with_units(model), values.units, strict=True):
        found = log_alpha(torch.cat(parts)).split([len(part) for part in parts])
        for cell, part in zip(cells, found, strict=True):
            _set(deciding(cell), part)


def _set(masks: list[VIBMask], log_alpha: Tensor) -> None:
    for mask in masks:
        mask.log_variance.copy_(log_alpha + 2 * mask.mu.abs().clamp_min(_TINY).log())
