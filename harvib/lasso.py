"""Group lasso over hidden units and inputs: whole groups of weights become exactly zero and can leave.

The group of hidden unit j (intrinsic sparse structures, Wen et al., ICLR 2018): row j of each gate's block of W_ih
and W_hh, column j of W_hh, and every weight that reads h_j in the next layer or the head. The group of input k:
column k of W_ih in each direction of the first layer; without a recurrence, column k of the head. Biases are in no
group. R = sum over groups of sqrt(||group||^2 + 1e-8).

Weights count as they act: a mask's mean that multiplies what they read (the input mask, the mask on the states,
the mask between layers) is part of them. Else a mean could grow while its weights shrink, and the penalty would
vanish without any effect.

What may leave, exactly, in every cell: a unit whose readers are all zero, since nobody sees its state, and an
input whose column is zero. A group that is zero holds all of these. `drop_zero_groups` closes the masks of such
units and inputs, which changes no logit, and the compaction of the masked model (harvib/compact.py) removes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harvib.cells import MaskedCell
from harvib.cells.stack import Layer
from harvib.classifier import Classifier
from harvib.errors import InputError
from harvib.masks import VIBMask
from harvib.models import recurrent
from harvib.ranking import impose
from harvib.settings import TrainSettings
from harvib.stack_ranking import deciding

EPSILON = 1e-8

Value = Callable[[Tensor, Tensor], Tensor]
"""A weight (R, C) and the factors (C,) of what its columns read, to a value of each of its entries (R, C)."""


@dataclass(frozen=True, eq=False)
class Groups:
    """One number a group: of the inputs (K,), and of the units (H,) by layer and direction."""

    inputs: Tensor
    units: list[list[Tensor]]

    def map(self, change: Callable[..., Tensor], *others: Groups) -> Groups:
        """`change` of these numbers and those of others."""
        units = [
            [change(*parts) for parts in zip(*layers, strict=True)]
            for layers in zip(self.units, *(other.units for other in others), strict=True)
        ]
        return Groups(change(self.inputs, *(other.inputs for other in others)), units)


@dataclass(frozen=True)
class GroupLasso:
    """Strengths of the penalty on units and inputs; with a `threshold` above 0 it is part of the loss.

    Else it acts after each step of the optimiser, as its proximal step.
    """

    units: float
    inputs: float
    threshold: float = 0.0

    def penalty(self, model: Classifier) -> Tensor:
        """What is to be added to the loss: `value`, or zero where the proximal step is used."""
        return self.value(model) if self.threshold > 0 else model.selection.new_zeros((), dtype=model.dtype)

    def value(self, model: Classifier) -> Tensor:
        """Strength times R."""
        norms = squared_norms(model).map(lambda squares: torch.sqrt(squares + EPSILON))
        units = [part.sum() for layer in norms.units for part in layer]
        of_units = torch.stack(units).sum() if units else norms.inputs.new_zeros(())
        return self.units * of_units + self.inputs * norms.inputs.sum()

    @torch.no_grad()
    def after_step(self, model: Classifier, optimizer: torch.optim.Optimizer) -> None:
        """The proximal step: each group towards zero by its threshold, and to zero where it is below.

        The threshold is lambda times Adam's step: its rate over the root of the group's mean second moment. So a
        group rests at zero iff its gradient is below lambda, whatever the scale of the weights. A weight of two
        groups is shrunk for both. Nothing in the threshold form.
        """
        model = recurrent(model, "group lasso")
        if self.threshold > 0:
            return
        rates = {id(weight): group for group in optimizer.param_groups for weight in group["params"]}

        def moment(weight: Tensor, factors: Tensor) -> Tensor:
            state = optimizer.state[weight]
            beta = rates[id(weight)]["betas"][1]
            corrected: Tensor = state["exp_avg_sq"] / (1 - beta ** float(state["step"]))
            return corrected

        counts = sums(model, lambda weight, factors: torch.ones_like(weight))
        moments = sums(model, moment)
        factors = sums(model, lambda weight, factors: factors.square().expand_as(weight))
        rate = rates[id(model.head.weight)]["lr"]

        def shares(strength: float) -> Callable[..., Tensor]:
            def share(squares: Tensor, count: Tensor, second: Tensor, scale: Tensor) -> Tensor:
                step = rate * (scale / count) / ((second / count).sqrt() + EPSILON)
                # Without the epsilon of the penalty, or nothing small would ever be zero at a small rate.
                threshold, norm = strength * step, squares.sqrt()
                return torch.where(norm > threshold, 1 - threshold / norm, torch.zeros_like(norm))

            return share

        arguments = (counts, moments, factors)
        squares = squared_norms(model)
        inputs = squares.map(shares(self.inputs), *arguments).inputs
        units = squares.map(shares(self.units), *arguments).units
        _scale(model, Groups(inputs, units))

    @torch.no_grad()
    def finish(self, model: Classifier, landing: bool = False) -> None:
        """Put groups below the threshold to zero, and close the masks of all that are zero.

        InputError where nothing would be left, unless a `landing` on a budget follows, which takes the best back.
        """
        model = recurrent(model, "group lasso")
        if self.threshold > 0:
            alive = squared_norms(model).map(lambda squares: (squares.sqrt() >= self.threshold).to(squares.dtype))
            ones = alive.map(torch.ones_like)
            _scale(
                model,
                Groups(
                    alive.inputs if self.inputs else ones.inputs,
                    alive.units if self.units else ones.units,
                ),
            )
        drop_zero_groups(model)
        if landing:
            return
        kept = model.kept_inputs()
        if not len(kept):
            raise InputError("no input feature is left after the group lasso: lower --lasso-input or --lasso")
        if not all(map(sum, model.kept_units())) or not all(model.recurrent.kept_reads(kept)):
            raise InputError("no hidden unit is left after the group lasso: lower --lasso or --lasso-input")


def lasso_of(settings: TrainSettings) -> GroupLasso | None:
    """The group lasso that is asked for; None without one."""
    if settings.lasso == settings.lasso_input == 0:
        return None
    return GroupLasso(settings.lasso, settings.lasso_input, settings.lasso_threshold)


def squared_norms(model: Classifier) -> Groups:
    """||group||^2 of each group of a masked model, with the means of the masks in them."""
    return sums(model, lambda weight, factors: (weight * factors).square())


@torch.no_grad()
def drop_zero_groups(model: Classifier) -> None:
    """Close the masks of the units and inputs whose groups are zero; the model computes the same as before."""
    # Not squares: those of small numbers are zero.
    sizes = sums(model, lambda weight, factors: weight.abs())
    assert model.input_mask is not None
    impose(model.input_mask, model.input_mask.keep() & (sizes.inputs != 0))
    for cells, parts in zip(cells_with_units(model), sizes.units, strict=True):
        for cell, part in zip(cells, parts, strict=True):
            for mask in deciding(cell):
                impose(mask, mask.keep() & (part != 0))


def freeze_masks(model: Classifier, open_all: bool = False) -> None:
    """Make the masks constants: their hard factors without noise, or one where all are to be open."""
    for mask in model.masks().values():
        mask.freeze(open_all)


def sums(model: Classifier, value: Value) -> Groups:
    """The sum of `value` over the weights of each group of a masked model, each weight once."""
    model = recurrent(model, "group lasso")
    assert model.input_mask is not None
    factors: Tensor = model.input_mask.mu
    inputs: Tensor | None = None
    units: list[list[Tensor]] = []
    first = factors
    for number, cells in enumerate(cells_with_units(model)):
        read: list[Tensor] = []
        own: list[Tensor] = []
        for cell in cells:
            weight_ih, weight_hh = _weights(cell)
            output, size = _output(cell), cell.hidden_size
            of_ih = value(weight_ih, factors)
            read.append(of_ih.sum(0))
            if weight_hh is None:
                own.append(of_ih.sum(1).view(-1, size).sum(0))
                continue
            of_hh = value(weight_hh, output)
            rows = (of_ih.sum(1) + of_hh.sum(1)).view(-1, size).sum(0)
            twice = of_hh.view(-1, size, size).diagonal(dim1=1, dim2=2).sum(0)
            own.append(rows + of_hh.sum(0) - twice)
        readers = torch.stack(read).sum(0)
        if inputs is None:
            inputs = readers
        else:
            _add_readers(units[-1], readers)
        units.append(own)
        factors = torch.cat([_output(cell) for cell in cells])
        first = factors if number == 0 else first
        if number < len(model.recurrent.between):
            mask = model.recurrent.between[number]
            assert isinstance(mask, VIBMask)
            factors = factors * mask.mu
    if model.spec.projected:
        factors = torch.cat([first, factors])
    readers = value(model.head.weight, factors).sum(0)
    if inputs is None:
        return Groups(readers, units)
    if model.spec.projected:
        of_rows = len(units[0][0])
        _add_readers(units[0], readers[:of_rows])
        readers = readers[of_rows:]
    _add_readers(units[-1], readers)
    return Groups(inputs, units)


@torch.no_grad()
def _scale(model: Classifier, shares: Groups) -> None:
    """Multiply every weight by the shares of all groups that it is in, in place."""
    model = recurrent(model, "group lasso")
    columns = shares.inputs
    for cells, layer in zip(cells_with_units(model), shares.units, strict=True):
        for cell, own in zip(cells, layer, strict=True):
            weight_ih, weight_hh = _weights(cell)
            rows = own.repeat(len(weight_ih) // cell.hidden_size)[:, None]
            weight_ih.mul_(rows * columns)
            if weight_hh is None:
                continue
            # What a unit reads of itself is in its group once.
            both = rows * own
            itself = torch.eye(cell.hidden_size, dtype=torch.bool, device=own.device)
            itself = itself.repeat(len(rows) // cell.hidden_size, 1)
            weight_hh.mul_(torch.where(itself, rows.expand_as(both), both))
        columns = torch.cat(layer)
    if model.spec.projected:
        columns = torch.cat([*shares.units[0], columns])
    model.head.weight.mul_(columns)


def _add_readers(units: list[Tensor], readers: Tensor) -> None:
    for number, part in enumerate(readers.split([len(unit) for unit in units])):
        units[number] = units[number] + part


def cells_with_units(model: Classifier) -> list[list[MaskedCell]]:
    """The cells that have units, by layer and direction; none without a recurrence."""
    model = recurrent(model, "group lasso")
    if model.spec.cell == "mean":
        return []
    found: list[list[MaskedCell]] = []
    for layer in model.recurrent.layers:
        assert isinstance(layer, Layer)
        found.append([cell for _, cell in layer.directions() if isinstance(cell, MaskedCell)])
    return found


def _weights(cell: MaskedCell) -> tuple[Tensor, Tensor | None]:
    """W_ih, and W_hh where the cell has one."""
    weight_ih, weight_hh = cell.weight_ih, getattr(cell, "weight_hh", None)
    assert isinstance(weight_ih, Tensor)
    return weight_ih, weight_hh


def _output(cell: MaskedCell) -> Tensor:
    """The means of the mask that multiplies the states."""
    mask = cell.masks[cell.OUTPUT]
    assert isinstance(mask, VIBMask)
    return mask.mu
