"""From a masked model to the small one that computes the same: dropped inputs and units are gone.

With hard masks z_v on the input, an input reaches the cell as z_v * scale * (v - mean): a factor and a shift
that fold into the cell's input weights and bias. What may leave the cell, and how its readers change, is the
cell's own rule (harvib/cells). The result equals the masked model in evaluation up to rounding.
"""

from __future__ import annotations

import dataclasses

import torch

from harvib.cells import MaskedCell
from harvib.errors import InputError
from harvib.models import SequenceClassifier


@torch.no_grad()
def compact(masked: SequenceClassifier) -> SequenceClassifier:
    """The compact model of a masked one.

    Raises InputError where a mask keeps nothing, since no model is left.
    """
    if masked.input_mask is None or not isinstance(masked.recurrent, MaskedCell):
        raise TypeError("only a masked model can be compacted")
    inputs, units = masked.kept_inputs(), masked.kept_units()
    if not len(inputs) or not len(units):
        gone = "input feature" if not len(inputs) else "hidden unit"
        option = "beta-input" if not len(inputs) else "beta"
        raise InputError(f"no {gone} is left after VIB training: the penalty is too strong, lower --{option}")
    # In float64: a feature whose mean is large against its spread must not lose digits in the fold too.
    scale = masked.input_mask.hard().double() * masked.input_scale.double()
    shift = -masked.input_mean.double() * scale
    result = masked.recurrent.compacted(inputs, scale, shift)
    spec = dataclasses.replace(masked.spec, state="compact", inputs=len(inputs), hidden=len(units))
    small = SequenceClassifier(spec).to(masked.head.weight)
    small.recurrent = result.cell
    small.selection.copy_(masked.selection[inputs])
    weight = masked.head.weight.double()
    small.head.weight.copy_((weight * result.scale)[:, result.units])
    small.head.bias.copy_(masked.head.bias + weight @ result.shift)
    return small.train(masked.training)
