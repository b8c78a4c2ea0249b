"""Exact parameters of recurrent stacks from their sizes alone: any compact form, the smallest, the plain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harvib.cells import Factors, Shape
from harvib.cells.makers import makers
from harvib.cells.stack import width_read
from harvib.factorised import outline

if TYPE_CHECKING:
    from harvib.models import ModelSpec


def parameters_of(
    spec: ModelSpec,
    inputs: int,
    shape: Shape,
    reads: tuple[int, ...],
    factors: bool,
    matrices: Factors | None = None,
) -> int:
    """Exact parameters of the compact model of this size; `reads` as in ModelSpec, `factors` as in `size`.

    `matrices` are its structured ones where masks have left less of them than the spec has.
    """
    of_layers = makers(spec.kind, len(shape), spec.projected, matrices or spec.factors)
    cells = (
        each.size(below, width, factors)
        for each, below, widths in zip(of_layers, (inputs, *reads), shape, strict=True)
        for width in widths
        if width
    )
    return sum(cells) + (width_read(shape, spec.projected) + 1) * spec.classes


def smallest(spec: ModelSpec, factors: bool, units_stay: bool = False) -> int:
    """Parameters of the smallest compact model: one input, and one unit, read and rank wherever there are some.

    `units_stay`: all units and reads instead.
    """
    bare = Factors(*(factor and outline(factor).smallest() for factor in (spec.factor, spec.hidden_factor)))
    shape = spec.shape if units_stay else ((1,),) * len(spec.shape)
    return parameters_of(spec, 1, shape, tuple(map(sum, shape[:-1])), factors, bare)


def plain_size(spec: ModelSpec) -> int:
    """Parameters of the plain model."""
    if spec.cell == "mean":
        return parameters_of(spec, spec.inputs, ((spec.inputs,),), (), False)
    return parameters_of(spec, spec.inputs, spec.shape, tuple(map(sum, spec.shape[:-1])), False)
