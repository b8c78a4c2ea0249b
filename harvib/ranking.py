"""The order in which the inputs, units and weights of a masked model would be dropped: by log alpha.

Where the order is cut decides how many parameters are left; harvib/budget.py looks for the cut.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from harvib.cells import MaskedCell
from harvib.cells.makers import Factors
from harvib.cells.stack import Layer
from harvib.masks import VIBMask
from harvib.models import SequenceClassifier
from harvib.sizes import parameters_of

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


class Ranking:
    """The inputs and units of a masked model in the order in which they would be dropped, by log alpha.

    A unit's score is the largest log alpha of the masks that decide about it: the one that would drop it first.
    """

    def __init__(self, model: SequenceClassifier) -> None:
        assert model.input_mask is not None
        self._model = model
        self.inputs = _finite(model.input_mask)
        self._cells: list[list[MaskedCell]] = []
        for layer in model.recurrent.layers:
            assert isinstance(layer, Layer)
            self._cells.append([cell for _, cell in layer.directions() if isinstance(cell, MaskedCell)])
        self._scores = [[_unit_scores(cell) for cell in cells] for cells in self._cells]
        self._between = [mask for mask in model.recurrent.between if isinstance(mask, VIBMask)]
        self._between_scores = [_finite(mask) for mask in self._between]
        self._matrices = model.recurrent.matrices()
        self._bonds = {side: matrix.of_masks() for side, matrix in self._matrices.items()}
        self._bond_scores = {
            side: {bond: _finite(mask) for bond, mask in masks.items()} for side, masks in self._bonds.items()
        }
        self._flat = model.spec.cell == "mean"
        units = [scores for layer in self._scores for scores in layer] + self._between_scores
        self.gates = torch.cat(units)
        units += [scores for bonds in self._bond_scores.values() for scores in bonds.values()]
        self.units = torch.cat(units).sort().values if not self._flat else torch.zeros(1)
        self._sorted_inputs = self.inputs.sort().values

    def kept(self, threshold: float) -> tuple[list[list[Tensor]], list[Tensor]]:
        """Which units, and which reads between layers, have a score up to `threshold`: by layer, as bools.

        A layer's best unit and best read stay in any case: without them no model is left.
        """
        units: list[list[Tensor]] = []
        reads: list[Tensor] = []
        for number, scores in enumerate(self._scores):
            together = torch.cat(scores)
            keep = together <= threshold
            if not keep.any():
                keep[together.argmin()] = True
            units.append(list(keep.split([len(part) for part in scores])))
            if number < len(self._between):
                read = self._between_scores[number] <= threshold
                if not (read & keep).any():
                    read[torch.where(keep, self._between_scores[number], math.inf).argmin()] = True
                reads.append(read & keep)
        return units, reads

    def kept_ranks(self, threshold: float, weights: float | None = None) -> dict[str, dict[str, Tensor]]:
        """Which indices of the structured matrices' bonds have a score up to `threshold`: by matrix and bond.

        Single weights stay up to `weights` where that is given, and only where units that stay read them. The best
        of each bond stays in any case, as a layer's best unit does.
        """
        found: dict[str, dict[str, Tensor]] = {}
        for side, bonds in self._bond_scores.items():
            reached, found[side] = self._reached(side, threshold), {}
            for bond, scores in bonds.items():
                read = reached.get(bond, torch.ones_like(scores, dtype=torch.bool))
                limit = threshold if weights is None or bond not in reached else weights
                keep = (scores <= limit) & read
                if not keep.any():
                    keep[torch.where(read, scores, math.inf).argmin()] = True
                found[side][bond] = keep
        return found

    def _reached(self, side: str, threshold: float) -> dict[str, Tensor]:
        """Of masks on single weights of a matrix, those that units up to `threshold` read."""
        cell, keep = self._cells[0][0], self.kept(threshold)[0][0][0]
        matrix = self._matrices[side]
        rows = torch.zeros(matrix.rows, dtype=torch.bool)
        rows[cell.rows_of(keep.nonzero().squeeze(1))] = True
        return matrix.reached(rows, keep if side == "hh" else self._model.input_scale.cpu() != 0)

    def _left(self, threshold: float, weights: float | None) -> Factors:
        """The structured matrices that are left."""
        left = {
            side: self._matrices[side].left({bond: int(keep.sum()) for bond, keep in kept.items()})
            for side, kept in self.kept_ranks(threshold, weights).items()
        }
        return Factors(left.get("ih"), left.get("hh"))

    def parameters(self, inputs: int, threshold: float, factors: bool, weights: float | None = None) -> int:
        """Exact parameters of the compact model with so many inputs, and the units up to `threshold`."""
        if self._flat:
            return parameters_of(self._model.spec, inputs, ((inputs,),), (), factors)
        units, between = self.kept(threshold)
        shape = tuple(tuple(int(keep.sum()) for keep in layer) for layer in units)
        reads = tuple(int(read.sum()) for read in between)
        return parameters_of(self._model.spec, inputs, shape, reads, factors, self._left(threshold, weights))

    def border(self, target: int, factors: bool) -> float:
        """The largest log alpha at which dropping everything above it leaves at most `target` parameters."""
        scores = [self.inputs] if self._flat else [self.inputs, self.units]
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

    def weights_within(self, target: int, threshold: float, factors: bool) -> float | None:
        """Up to which score single weights fit into `target` beside the units up to `threshold`; None: not one."""
        values = torch.cat([
            self._bond_scores[side][bond] for side in self._matrices for bond in self._reached(side, threshold)
        ]).unique()  # fmt: skip

        def count(position: int) -> int:
            return self.parameters(len(self.inputs), threshold, factors, float(values[position]))

        first_above = bisect.bisect_right(range(len(values)), target, key=count)
        return float(values[first_above - 1]) if first_above else None

    @property
    def has_weights(self) -> bool:
        """Whether some masks are on single weights."""
        return any(self._reached(side, 0.0) for side in self._matrices)

    @torch.no_grad()
    def impose(self, landing: Landing) -> None:
        """Make the masks keep what the landing keeps, and nothing else."""
        assert self._model.input_mask is not None
        keep = torch.zeros_like(self.inputs, dtype=torch.bool)
        keep[self.inputs.argsort(stable=True)[: landing.inputs]] = True
        impose(self._model.input_mask, keep)
        if self._flat:
            return
        units, reads = self.kept(landing.threshold)
        for cells, keeps in zip(self._cells, units, strict=True):
            for cell, stay in zip(cells, keeps, strict=True):
                for mask in deciding(cell):
                    impose(mask, stay)
        for mask, stay in zip(self._between, reads, strict=True):
            impose(mask, stay)
        for side, kept in self.kept_ranks(landing.threshold, landing.weights).items():
            for bond, stay in kept.items():
                impose(self._bonds[side][bond], stay)


def deciding(cell: MaskedCell) -> list[VIBMask]:
    """The masks that must all keep a unit of the cell for it to stay."""
    return [mask for name in cell.DECIDING if isinstance(mask := cell.masks[name], VIBMask)]


def _unit_scores(cell: MaskedCell) -> Tensor:
    if not cell.DECIDING:
        return torch.zeros(0)
    return torch.stack([_finite(mask) for mask in deciding(cell)]).amax(0)


def _finite(mask: VIBMask) -> Tensor:
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
