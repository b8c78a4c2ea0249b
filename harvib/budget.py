"""Parameter budgets: the strength of the penalty that meets one, and the exact landing on it.

Nobody knows which beta leaves how many parameters. During VIB training a `Controller` moves one factor on both
betas, after every epoch, so that the masks' own border, log alpha = 0, ends where the target count lies. What is
still missing at the end `land` corrects: it drops the weakest or takes back the strongest of the dropped, by log
alpha, until the count of the compact model is the largest that the target allows. How much of the target goes to
inputs and how much to units is decided by the accuracy on the validation part alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from harvib.classifier import Classifier, Spec
from harvib.errors import InputError
from harvib.families import ranking_of
from harvib.objectives import gate_kl, input_kl
from harvib.ranking import Landing, Ranking
from harvib.settings import TrainSettings

TOLERANCE = 0.05
"""A landing may stay so far, as a share, below its target."""

_GAIN = 0.6
_REACH = 2.0
_HORIZON = 2
_ARRIVAL = 0.4
_FARTHEST = 6.0
_START = 3.0


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

    def after_epoch(self, model: Classifier, done: int, epochs: int) -> None:
        """Move the factor, `done` of `epochs` epochs being over."""
        border = ranking_of(model).border(self.target, self.factors)
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


def gentle_start(model: Classifier, settings: TrainSettings) -> float:
    """The log of the factor at which the penalty of the untrained masks is three nats, whatever the betas' scale.

    From too strong a penalty masks do not come back: their means have died with them.
    """
    gates, inputs = float(gate_kl(model).detach()), float(input_kl(model).detach())
    penalty = settings.beta * gates + settings.beta_input * inputs
    return float(torch.tensor(math.log(_START / penalty), dtype=torch.float32)) if penalty > 0 else 0.0


def land(
    model: Classifier,
    target: int,
    factors: bool,
    score: Callable[[Classifier], tuple[float, float]],
) -> Landing:
    """Change the masks so that the compact model has at most `target` parameters, and 95 % of it where possible.

    Of up to a dozen numbers of units, from an eighth to eight times what the masks keep, each with all the inputs
    that then fit, the one with the highest `score` stays. `target` must allow the smallest model.
    """
    ranking = ranking_of(model)
    if not model.spec.masks_inputs:
        # No inputs to fill up with: all there is to choose is where the ranking is cut.
        only = _landing(ranking, target, ranking.border(target, factors), factors)
        if ranking.has_weights:
            only = _filled(ranking, only, target, factors)
        ranking.impose(only)
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
        ranking.impose(landing)
        result = score(model)
        with torch.no_grad():
            for mask, mu, log_variance in masks:
                mask.mu.copy_(mu)
                mask.log_variance.copy_(log_variance)
        return result

    best = max(near, key=tried) if len(near) > 1 else near[0]
    ranking.impose(best)
    return best


def target_of(settings: TrainSettings, spec: Spec) -> int | None:
    """The number of parameters to end with; None without such a budget. InputError where no model can meet it."""
    if not settings.target_params and not settings.target_ratio:
        return None
    plain, least = spec.plain_size(), spec.smallest(settings.scales_stay, settings.units_stay)
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


def _filled(ranking: Ranking, cut: Landing, target: int, factors: bool) -> Landing:
    """With as many single weights as fit; with more units than `cut` has where these have too few weights."""
    best = cut
    more = ranking.gates[ranking.gates > cut.threshold].unique().tolist()
    for threshold in [cut.threshold, *more]:
        weights = ranking.weights_within(target, threshold, factors)
        if weights is not None:
            found = ranking.parameters(cut.inputs, threshold, factors, weights)
            best = max(best, Landing(found, cut.inputs, threshold, weights), key=lambda each: each.parameters)
        if weights is None or best.parameters >= (1 - TOLERANCE) * target:
            break
    return best


def _thresholds(ranking: Ranking) -> list[float]:
    units = ranking.units
    natural = max(1, int((units < 0).sum()))
    numbers = [natural, *(round(natural * 2 ** (step / 2)) for step in range(-6, 7))]
    return list(dict.fromkeys(float(units[max(1, min(len(units), number)) - 1]) for number in numbers))
