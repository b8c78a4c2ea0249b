"""From a masked model to the small one that computes the same: dropped inputs and units are gone.

With hard masks z_v on the input, an input reaches the cell as z_v * scale * (v - mean): a factor and a shift
that fold into the cell's input weights and bias. What may leave the cell, and how its readers change, is the
cell's own rule (harvib/cells, harvib/pooling). The result equals the masked model in evaluation up to rounding.
"""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import torch

from harvib.classifier import Classifier, NothingLeftError
from harvib.errors import InputError

Model = TypeVar("Model", bound=Classifier)


@torch.no_grad()
def compact(masked: Model) -> Model:
    """The compact model of a masked one.

    Raises InputError where a mask keeps nothing, since no model is left.
    """
    if masked.input_mask is None:
        raise TypeError("only a masked model can be compacted")
    inputs = masked.kept_inputs()
    if not len(inputs):
        raise _too_strong("input feature is left", "beta-input" if masked.spec.masks_inputs else "beta")
    # In float64: a feature whose mean is large against its spread must not lose digits in the fold too.
    scale = masked.input_mask.hard().double() * masked.input_scale.double()
    shift = -masked.input_mean.double() * scale
    try:
        small = masked.compacted(inputs, scale, shift)
    except NothingLeftError as error:
        raise _too_strong(str(error), "beta") from error
    selection = masked.selection[inputs]
    if masked.front is not None:
        # A front computes what is read and nothing else, so that the small model reads all of it.
        small.front = masked.front.shrunk(selection)
        small.spec = dataclasses.replace(small.spec, features=len(inputs))
        selection = torch.arange(len(inputs))
    small.selection.copy_(selection)
    return small.train(masked.training)


def _too_strong(gone: str, option: str) -> InputError:
    return InputError(f"no {gone} after VIB training: the penalty is too strong, lower --{option}")
