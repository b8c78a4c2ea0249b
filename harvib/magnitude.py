"""Magnitude pruning of whole inputs and units: the groups of weights with the smallest norms leave.

The groups are those of the group lasso (harvib/lasso.py). A group's norm becomes the log alpha of the masks that
decide about it, relative to the median of its layer, so that landing on a budget, compaction and all that follows
are those of VIB: methods differ in the ranking, and in nothing else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harvib.budget import deciding
from harvib.lasso import cells_with_units, squared_norms
from harvib.masks import VIBMask
from harvib.models import SequenceClassifier

_TINY = 1e-30


@torch.no_grad()
def rank_by_norm(model: SequenceClassifier) -> None:
    """Set the masks' log alpha to log(median / ||group||^2); their means stay.

    Masks between layers, which share the groups of the layer below, stay open.
    """
    assert model.input_mask is not None
    norms = squared_norms(model)
    _rank([model.input_mask], norms.inputs, norms.inputs.median())
    for cells, parts in zip(cells_with_units(model), norms.units, strict=True):
        median = torch.cat(parts).median()
        for cell, part in zip(cells, parts, strict=True):
            _rank(deciding(cell), part, median)


def _rank(masks: list[VIBMask], squares: Tensor, median: Tensor) -> None:
    log_alpha = (median + _TINY).log() - (squares + _TINY).log()
    for mask in masks:
        mask.log_variance.copy_(log_alpha + 2 * mask.mu.abs().clamp_min(_TINY).log())
