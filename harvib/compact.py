"""From a masked model to the small one that computes the same: dropped inputs and units are gone.

With hard masks z_v on the input, an input reaches the cell as z_v * scale * (v - mean): a factor and a shift
that fold into the cell's input weights and bias. What may leave the cell, and how its readers change, is the
cell's own rule (harvib/cells). The result equals the masked model in evaluation up to rounding.
"""

from __future__ import annotations

import dataclasses

import torch

from harvib.errors import InputError
from harvib.models import SequenceClassifier


@torch.no_grad()
def compact(masked: SequenceClassifier) -> SequenceClassifier:
    """The compact model of a masked one.

    Raises InputError where a mask keeps nothing, since no model is left.
    """
    if masked.input_mask is None:
        raise TypeError("only a masked model can be compacted")
    inputs, shape = masked.kept_inputs(), masked.kept_units()
    all_reads = masked.recurrent.kept_reads(inputs)
    dead = [number for number, widths in enumerate(shape, 1) if not sum(widths)]
    dead += [number for number, reads in enumerate(all_reads, 1) if not reads]
    if not len(inputs) or dead:
        gone = "input feature" if not len(inputs) else "hidden unit"
        where = ""
        if len(inputs) and len(shape) > 1:
            # As users count: the projection is no layer of cells.
            layer = dead[0] - masked.spec.projected
            where = f" in layer {layer}" if layer else " in the projection"
        option = "beta-input" if not len(inputs) and masked.spec.masks_inputs else "beta"
        raise InputError(
            f"no {gone} is left{where} after VIB training: the penalty is too strong, lower --{option}"
        )
    # In float64: a feature whose mean is large against its spread must not lose digits in the fold too.
    scale = masked.input_mask.hard().double() * masked.input_scale.double()
    shift = -masked.input_mean.double() * scale
    result = masked.recurrent.compacted(inputs, scale, shift)
    factors = result.stack.factors()
    spec = dataclasses.replace(
        masked.spec,
        state="compact",
        inputs=len(inputs),
        shape=shape,
        reads=all_reads[1:],
        factor=factors.inputs,
        hidden_factor=factors.hidden,
    )
    selection, front = masked.selection[inputs], None
    if masked.front is not None:
        # A front computes what is read and nothing else, so that the small model reads all of it.
        front = masked.front.shrunk(selection)
        spec, selection = dataclasses.replace(spec, features=len(inputs)), torch.arange(len(inputs))
    small = SequenceClassifier(spec).to(masked.head.weight)
    small.recurrent = result.stack
    small.front = front
    small.selection.copy_(selection)
    weight = masked.head.weight.double()
    small.head.weight.copy_((weight * result.scale)[:, result.units])
    small.head.bias.copy_(masked.head.bias + weight @ result.shift)
    return small.train(masked.training)
