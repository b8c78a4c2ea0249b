"""LSTMs whose matrices are tensor networks or circulant: trained at the budget, or pruned to it by VIB.

The rank of a network ends where it would have as many weights as the dense matrix: a model that fits a large
budget only beyond that has the largest rank below, and fewer parameters than the budget allows.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import replace

from harvib.factorised import outline
from harvib.models import ModelSpec
from harvib.rivals.base import TUNED, NoModelError, Recipe, Rival, Task, by_vib, fitted, largest, pruned, scratch
from harvib.settings import TrainSettings


def _units(task: Task, share: float = 1.0) -> int:
    """8 units at 1,000 parameters, 16 at 10,000, 64 at 100,000: W_hh takes no more than a third."""
    return int(2 ** math.floor(math.log2(max(2.0, share * 8 * (task.budget / 1000) ** 0.5))))


def _saves(task: Task, settings: TrainSettings) -> bool:
    """Whether every network of these settings has fewer weights than the matrix that it stands for."""
    spec = task.spec(settings)
    assert isinstance(spec, ModelSpec)
    factors = (factor for factor in (spec.factor, spec.hidden_factor) if factor is not None)
    return all(outline(factor).parameter_count() < math.prod(factor.size) for factor in factors)


def _highest(task: Task, settings: TrainSettings, most: int = 256) -> int:
    """The highest rank, up to `most`, at which these settings save weights. NoModelError where none does."""
    ranks = range(1, most + 1)
    found = bisect.bisect_left(ranks, True, key=lambda rank: not _saves(task, replace(settings, rank=rank)))
    if not found:
        raise NoModelError("even a network of rank 1 has as many weights as the dense matrix")
    return found


def _direct(kind: str, model: str = "lstm", hidden: bool = False) -> Recipe:
    """The largest rank that fits and saves weights; `hidden`: W_hh in the same format."""

    def recipe(task: Task) -> TrainSettings:
        share, lr = task.pick((1.0, 5e-3), (2.0, 5e-3), (0.5, 5e-3), (1.0, 2e-3))
        base = replace(scratch(TUNED), model=model, factorize=kind, factorize_hidden=hidden, lr=lr)
        base = replace(base, hidden=_units(task, share))
        while base.hidden > 2 and task.size(replace(base, rank=1)) > task.budget:
            base = replace(base, hidden=base.hidden // 2)
        # W_hh is the smaller matrix: where its rank has to end, that of W_ih goes on alone.
        both = _highest(task, base)

        def of_rank(rank: int) -> TrainSettings:
            if rank <= both:
                return replace(base, rank=rank)
            spec = task.spec(base)
            assert isinstance(spec, ModelSpec)
            assert spec.factor is not None
            return replace(base, rank=both, ranks=",".join([str(rank)] * len(spec.factor.ranks)))

        return largest(task, of_rank, _highest(task, replace(base, factorize_hidden=False)))

    return recipe


def _lowrank(task: Task) -> TrainSettings:
    rank, lr = task.pick((2.0, 5e-3), (4.0, 5e-3), (1.0, 5e-3), (2.0, 2e-3))
    # Every input costs as much as the rank: at small budgets not all of them can be read.
    rank = max(1, round(rank * (task.budget / 1000) ** 0.5))
    base = replace(scratch(TUNED), factorize="lowrank", rank=rank, hidden=_units(task), lr=lr)
    if task.size(base) <= task.budget:
        return largest(task, lambda rank: replace(base, rank=rank), _highest(task, base))
    # The fewer inputs are read, the smaller is the dense matrix.
    while base.rank > 1 and not _saves(task, fitted(task, base)):
        base = replace(base, rank=base.rank - 1)
    return fitted(task, base)


def _circulant(task: Task) -> TrainSettings:
    share, lr = task.pick((1.0, 5e-3), (2.0, 5e-3), (0.5, 5e-3), (1.0, 2e-3))
    base = replace(scratch(TUNED), factorize="circulant", hidden=_units(task, share), lr=lr)
    # Where all inputs fit, what is left goes to units.
    while task.size(wider := replace(base, hidden=2 * base.hidden)) <= task.budget * min(1.0, share):
        base = wider
    return fitted(task, base)


def _vib(kind: str) -> Recipe:
    """Masks on ranks and units of a network that is larger than the budget."""

    def recipe(task: Task) -> TrainSettings:
        mask_lr, vib_lr = task.pick((0.03, 1e-3), (0.1, 1e-3), (0.01, 1e-3), (0.03, 3e-3))
        wide = ((replace(TUNED, factorize=kind, hidden=hidden), hidden // 4) for hidden in (32, 64, 128, 256))
        plain = (replace(each, rank=_highest(task, each, rank)) for each, rank in wide)
        return replace(pruned(task, *plain), mask_lr=mask_lr, vib_lr=vib_lr)

    return recipe


def _vib_circulant(task: Task) -> TrainSettings:
    # A block of N inputs costs N weights however few of them are left: so many, by F score, as a quarter pays for.
    inputs = min(task.features, max(2, task.budget // 4))
    plain = (
        replace(TUNED, factorize="circulant", project=project, hidden=hidden, select_inputs=inputs)
        for project, hidden in ((32, 16), (64, 32), (128, 64), (256, 128))
    )
    return by_vib(*plain)(task)


def _vib_sparse(task: Task) -> TrainSettings:
    """A mask on every weight of the projection before the LSTM, and on its rows and units."""
    mask_lr, distill = task.pick((0.03, 0.5), (0.1, 0.5), (0.01, 0.5), (0.03, 0.2))
    project, hidden = (8, 4) if task.budget < 3000 else (32, 24) if task.budget < 30_000 else (64, 64)
    base = replace(TUNED, factorize="sparse", project=project, hidden=hidden, input_init="fan-in")
    return replace(pruned(task, base), mask_lr=mask_lr, distill=distill)


_NETWORKS_CANNOT = ("standardize",)
"""A scale of the inputs does not fold into the cores."""


def _network(title: str, recipe: Recipe, ours: bool = False) -> Rival:
    return Rival(title, ours, recipe, _NETWORKS_CANNOT)


FACTORISED = {
    "tt-lstm": _network("LSTM, W_ih a tensor train (Yang 2017), at the budget", _direct("tt")),
    "tt-gru": _network("GRU, W_ih a tensor train, at the budget", _direct("tt", "gru")),
    "bt-gru": _network("GRU, W_ih of block terms, at the budget", _direct("bt", "gru")),
    "tr-gru": _network("GRU, W_ih a tensor ring, at the budget", _direct("tr", "gru")),
    "ht-gru": _network("GRU, W_ih hierarchical Tucker, at the budget", _direct("ht", "gru")),
    "bt-lstm": _network("LSTM, W_ih of block terms (Ye 2018), at the budget", _direct("bt")),
    "tr-lstm": _network("LSTM, W_ih a tensor ring (Pan 2019), at the budget", _direct("tr")),
    "ht-lstm": _network("LSTM, W_ih hierarchical Tucker (Yin 2020), at the budget", _direct("ht")),
    "lowrank-lstm": _network("LSTM, W_ih of low rank, at the budget, inputs by F score", _lowrank),
    "fdtt-lstm": _network("LSTM, W_ih and W_hh tensor trains, at the budget", _direct("tt", hidden=True)),
    "circulant-lstm": Rival("LSTM, W_ih circulant, at the budget, inputs by F score", False, _circulant),
    "vib-tt": _network("LSTM, W_ih a tensor train, ranks and units pruned by VIB", _vib("tt"), ours=True),
    "vib-bt": _network("LSTM, W_ih of block terms, ranks and units pruned by VIB", _vib("bt"), ours=True),
    "vib-ht": _network("LSTM, W_ih hierarchical Tucker, ranks and units pruned by VIB", _vib("ht"), ours=True),
    "vib-tr": _network("LSTM, W_ih a tensor ring, ranks and units pruned by VIB", _vib("tr"), ours=True),
    "vib-sparse": Rival("sparse projection + LSTM, weights, rows and units pruned by VIB", True, _vib_sparse),
    "vib-circulant": Rival("circulant projection + LSTM pruned by VIB", True, _vib_circulant),
}
