"""What a cut through the ranking leaves of a recurrent stack; see harvib/ranking.py."""

from __future__ import annotations

import bisect
import math

import torch
from torch import Tensor

from harvib.cells import MaskedCell
from harvib.cells.makers import Factors
from harvib.cells.stack import Layer
from harvib.masks import VIBMask
from harvib.models import SequenceClassifier
from harvib.ranking import Landing, Ranking, finite, impose
from harvib.sizes import parameters_of


class StackRanking(Ranking):
    """A unit's score is the largest log alpha of the masks that decide about it: which would drop it first."""

    def __init__(self, model: SequenceClassifier) -> None:
        self._model = model
        self._cells: list[list[MaskedCell]] = []
        for layer in model.recurrent.layers:
            assert isinstance(layer, Layer)
            self._cells.append([cell for _, cell in layer.directions() if isinstance(cell, MaskedCell)])
        self._scores = [[_unit_scores(cell) for cell in cells] for cells in self._cells]
        self._between = [mask for mask in model.recurrent.between if isinstance(mask, VIBMask)]
        self._between_scores = [finite(mask) for mask in self._between]
        self._matrices = model.recurrent.matrices()
        self._bonds = {side: matrix.of_masks() for side, matrix in self._matrices.items()}
        self._bond_scores = {
            side: {bond: finite(mask) for bond, mask in masks.items()} for side, masks in self._bonds.items()
        }
        self._flat = model.spec.cell == "mean"
        gates = [scores for layer in self._scores for scores in layer] + self._between_scores
        super().__init__(model, gates, [each for bonds in self._bond_scores.values() for each in bonds.values()])
        self.has_weights = any(self._reached(side, 0.0) for side in self._matrices)

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

    def weights_within(self, target: int, threshold: float, factors: bool) -> float | None:
        """Up to which score single weights fit into `target` beside the units up to `threshold`; None: not one."""
        values = torch.cat([
            self._bond_scores[side][bond] for side in self._matrices for bond in self._reached(side, threshold)
        ]).unique()  # fmt: skip

        def count(position: int) -> int:
            return self.parameters(len(self.inputs), threshold, factors, float(values[position]))

        first_above = bisect.bisect_right(range(len(values)), target, key=count)
        return float(values[first_above - 1]) if first_above else None

    def impose_units(self, landing: Landing) -> None:
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
    return torch.stack([finite(mask) for mask in deciding(cell)]).amax(0)
