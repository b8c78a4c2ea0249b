"""Parameter budgets: the strength of the penalty that meets one, and the exact landing on it.

Nobody knows which beta leaves how many parameters. During VIB training a `Controller` moves one factor on both
betas, after every epoch, so that the masks' own border, log alpha = 0, ends where the target count lies. What is
still missing at the end `land` corrects: it drops the weakest or takes back the strongest of the dropped, by log
alpha, until the count of the compact model is the largest that the target allows. How much of the target goes to
inputs and how much to units is decided by the accuracy on the validation part alone.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harvib.cells import MaskedCell
from harvib.cells.makers import Factors
from harvib.cells.stack import Layer
from harvib.errors import InputError
from harvib.masks import VIBMask
from harvib.models import ModelSpec, SequenceClassifier
from harvib.objectives import gate_kl, input_kl
from harvib.settings import TrainSettings
from harvib.sizes import parameters_of, plain_size, smallest

TOLERANCE = 0.05
"""A landing may stay so far, as a share, below its target."""

_GAIN = 0.6
_REACH = 2.0
_HORIZON = 2
_ARRIVAL = 0.4
_FARTHEST = 6.0
_START = 3.0
_SMALLEST_MU = 1e-3


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
        self._bonds = {side: matrix.of_masks() for side, matrix in model.recurrent.matrices().items()}
        self._bond_scores = {
            side: {bond: _finite(mask) for bond, mask in masks.items()} for side, masks in self._bonds.items()
        }
        self._flat = model.spec.cell == "mean"
        units = [scores for layer in self._scores for scores in layer] + self._between_scores
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

    def kept_ranks(self, threshold: float) -> dict[str, dict[str, Tensor]]:
        """Which indices of the structured matrices' bonds have a score up to `threshold`: by matrix and bond.

        The best of each bond stays in any case, as a layer's best unit does.
        """
        return {
            side: {bond: (scores <= threshold) | (scores == scores.min()) for bond, scores in bonds.items()}
            for side, bonds in self._bond_scores.items()
        }

    def _matrices(self, threshold: float) -> Factors:
        """The structured matrices that are left."""
        matrices = self._model.recurrent.matrices()
        left = {
            side: matrices[side].left({bond: int(keep.sum()) for bond, keep in kept.items()})
            for side, kept in self.kept_ranks(threshold).items()
        }
        return Factors(left.get("ih"), left.get("hh"))

    def parameters(self, inputs: int, threshold: float, factors: bool) -> int:
        """Exact parameters of the compact model with so many inputs, and the units up to `threshold`."""
        if self._flat:
            return parameters_of(self._model.spec, inputs, ((inputs,),), (), factors)
        units, between = self.kept(threshold)
        shape = tuple(tuple(int(keep.sum()) for keep in layer) for layer in units)
        reads = tuple(int(read.sum()) for read in between)
        return parameters_of(self._model.spec, inputs, shape, reads, factors, self._matrices(threshold))

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

    @torch.no_grad()
    def impose(self, inputs: int, threshold: float) -> None:
        """Make the masks keep the best `inputs` inputs and the units up to `threshold`, and nothing else."""
        assert self._model.input_mask is not None
        keep = torch.zeros_like(self.inputs, dtype=torch.bool)
        keep[self.inputs.argsort(stable=True)[:inputs]] = True
        impose(self._model.input_mask, keep)
        if self._flat:
            return
        units, reads = self.kept(threshold)
        for cells, keeps in zip(self._cells, units, strict=True):
            for cell, stay in zip(cells, keeps, strict=True):
                for mask in deciding(cell):
                    impose(mask, stay)
        for mask, stay in zip(self._between, reads, strict=True):
            impose(mask, stay)
        for side, kept in self.kept_ranks(threshold).items():
            for bond, stay in kept.items():
                impose(self._bonds[side][bond], stay)


class Controller:
    """Moves the factor on both betas during VIB training, by one rule after every epoch.

    The border of the target, the log alpha at which the ranking is cut there, must come to lie at 0, where the
    masks cut. It is led there on a straight line from where it was after the first epoch, over two fifths of the
    stage, and held. Where its last change, carried on for two epochs, ends below the line, too much would be kept
    and the factor grows; above it the factor shrinks. Nothing is drawn by chance; validation and test clips are
    not seen.
    """

    def __init__(self, target: int, factors: bool, log_strength: float = 0.0) -> None:
        self.target, self.factors, self._start = target, factors, log_strength
        self.log_strength, self._previous, self._first = log_strength, math.nan, math.nan

    @property
    def strength(self) -> float:
        """The factor."""
        return math.exp(self.log_strength)

    def after_epoch(self, model: SequenceClassifier, done: int, epochs: int) -> None:
        """Move the factor, `done` of `epochs` epochs being over."""
        border = Ranking(model).border(self.target, self.factors)
        if not math.isnan(self._previous) and done < epochs:
            horizon = min(_HORIZON, epochs - done)
            ahead = border + (border - self._previous) * horizon
            wanted = self._first * max(0.0, 1 - (done + horizon) / (_ARRIVAL * epochs))
            change = _GAIN * max(-1.0, min(1.0, (wanted - ahead) / _REACH))
            # Rounded as a checkpoint keeps it, so that a resumed run goes on with the very same number.
            moved = self.log_strength + change
            # Masks can only move so fast; a factor that grows meanwhile without end would crush them later.
            moved = max(self._start - _FARTHEST, min(self._start + _FARTHEST, moved))
            self.log_strength = float(torch.tensor(moved, dtype=torch.float32))
        self._previous = float(torch.tensor(border, dtype=torch.float32))
        if math.isnan(self._first):
            self._first = self._previous

    def state(self) -> Tensor:
        """What a checkpoint keeps."""
        return torch.tensor([self.log_strength, self._previous, self._first], dtype=torch.float32)

    def load(self, state: Tensor) -> None:
        """Take up from `state`."""
        self.log_strength, self._previous, self._first = (float(value) for value in state)


def gentle_start(model: SequenceClassifier, settings: TrainSettings) -> float:
    """The log of the factor at which the penalty of the untrained masks is three nats, whatever the betas' scale.

    From too strong a penalty masks do not come back: their means have died with them.
    """
    gates, inputs = float(gate_kl(model).detach()), float(input_kl(model).detach())
    penalty = settings.beta * gates + settings.beta_input * inputs
    return float(torch.tensor(math.log(_START / penalty), dtype=torch.float32)) if penalty > 0 else 0.0


@dataclass(frozen=True)
class Landing:
    """Where a landing ended: exact parameters of the compact model, its inputs and the units' threshold."""

    parameters: int
    inputs: int
    threshold: float


def land(
    model: SequenceClassifier,
    target: int,
    factors: bool,
    score: Callable[[SequenceClassifier], tuple[float, float]],
) -> Landing:
    """Change the masks so that the compact model has at most `target` parameters, and 95 % of it where possible.

    Of up to a dozen numbers of units, from an eighth to eight times what the masks keep, each with all the inputs
    that then fit, the one with the highest `score` stays. `target` must allow the smallest model.
    """
    ranking = Ranking(model)
    if not model.spec.masks_inputs:
        # No inputs to fill up with: all there is to choose is where the ranking is cut.
        only = _landing(ranking, target, ranking.border(target, factors), factors)
        ranking.impose(only.inputs, only.threshold)
        return only
    options = [option for option in _thresholds(ranking) if ranking.inputs_within(target, option, factors)]
    every = [float(value) for value in ranking.units.unique()]
    found = [_landing(ranking, target, option, factors) for option in options]
    near = [landing for landing in found if landing.parameters >= (1 - TOLERANCE) * target]
    if not near:
        all_of_them = [
            _landing(ranking, target, o, factors) for o in every if ranking.inputs_within(target, o, factors)
        ]
        near = [max(all_of_them, key=lambda landing: landing.parameters)]
    masks = [
        (mask, mask.mu.detach().clone(), mask.log_variance.detach().clone()) for mask in model.masks().values()
    ]

    def tried(landing: Landing) -> tuple[float, float]:
        ranking.impose(landing.inputs, landing.threshold)
        result = score(model)
        with torch.no_grad():
            for mask, mu, log_variance in masks:
                mask.mu.copy_(mu)
                mask.log_variance.copy_(log_variance)
        return result

    best = max(near, key=tried) if len(near) > 1 else near[0]
    ranking.impose(best.inputs, best.threshold)
    return best


def target_of(settings: TrainSettings, spec: ModelSpec) -> int | None:
    """The number of parameters to end with; None without such a budget. InputError where no model can meet it."""
    if not settings.target_params and not settings.target_ratio:
        return None
    plain, least = plain_size(spec), smallest(spec, settings.scales_stay)
    if settings.target_params:
        target, option = settings.target_params, f"--target-params {settings.target_params}"
    else:
        target, option = int(plain / settings.target_ratio), f"--target-ratio {settings.target_ratio:g}"
    if not least <= target < plain:
        raise InputError(f"{option}: {target:,} parameters; it must be from {least:,} to {plain - 1:,} here")
    return target


def smallest_within(passes: Callable[[int], bool], plain: int, least: int) -> int | None:
    """The smallest target that `passes`: by fours down from the plain model's size, then between the last two.

    Ends where what passes and what does not differ by at most a quarter; None where nothing was found to pass.
    """
    good, bad = float(plain), None
    while (bad is None and good / 4 >= least) or (bad is not None and good / bad > 1.25):
        tried = good / 4 if bad is None else math.sqrt(good * bad)
        if passes(round(tried)):
            good = tried
        else:
            bad = tried
    return None if good == plain else round(good)


def _landing(ranking: Ranking, target: int, threshold: float, factors: bool) -> Landing:
    inputs = ranking.inputs_within(target, threshold, factors)
    return Landing(ranking.parameters(inputs, threshold, factors), inputs, threshold)


def _thresholds(ranking: Ranking) -> list[float]:
    units = ranking.units
    natural = max(1, int((units < 0).sum()))
    numbers = [natural, *(round(natural * 2 ** (step / 2)) for step in range(-6, 7))]
    return list(dict.fromkeys(float(units[max(1, min(len(units), number)) - 1]) for number in numbers))


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
