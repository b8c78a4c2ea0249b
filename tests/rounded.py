"""Models with the values that the codes of fewer bits stand for, by the rules of harvib/quantize/numbers.py."""

from __future__ import annotations

import copy

import numpy as np
import torch

from harvib.models import SequenceClassifier
from harvib.quantize.numbers import by_groups, by_rows, in_rows


@torch.no_grad()
def rounded(small: SequenceClassifier, four: bool = False) -> SequenceClassifier:
    """A copy; matrices by rows, what structured matrices are made of by 32 that share a step."""
    found, quantise = copy.deepcopy(small), by_groups if four else by_rows
    inside = {id(weight) for matrix in found.recurrent.matrices().values() for weight in matrix.parameters()}
    for name, weight in found.named_parameters():
        if id(weight) in inside:
            # Of the diagonals between circulant factors each stands by itself.
            for part in weight if name.endswith(".inner") else [weight]:
                flat = quantise(in_rows(part.numpy()), alike=True).values().ravel()[: part.numel()]
                part.copy_(torch.from_numpy(np.ascontiguousarray(flat)).view(part.shape))
        elif weight.ndim == 2:
            weight.copy_(torch.from_numpy(quantise(weight.numpy()).values()))
    return found
