"""Clusters of frames, pooled: DBoF, NetVLAD and NetFV, dense or circulant, trained at a budget or pruned to it."""

from __future__ import annotations

from dataclasses import replace

from harvib.rivals.base import TUNED, Recipe, Rival, Task, by_vib, fitted, largest, pruned, scratch
from harvib.settings import TrainSettings

_BARE = replace(TUNED, model="dbof", experts=0, gating=False)
"""Experts and gating cost more parameters than budgets of thousands have."""

_MOST_CLUSTERS = 4096


def _dbof(*sizes: int) -> tuple[TrainSettings, ...]:
    """With so many clusters, and as many units."""
    return tuple(replace(_BARE, clusters=str(size), hidden=size) for size in sizes)


def _inputs(task: Task, count: int) -> int:
    """So many by F score, two at least; 0, which is all, of joined streams: each is pooled by itself, whole."""
    return 0 if len(task.card.widths) > 1 else min(task.features, max(2, count))


def _vib_circulant(task: Task) -> TrainSettings:
    # A block of N inputs costs N weights however few of them are left: so many, by F score, as a quarter pays for.
    inputs = _inputs(task, task.budget // 4)
    plain = (
        replace(each, circulant="clusters,fc", select_inputs=inputs) for each in _dbof(64, 128, 256, 512, 1024)
    )
    return by_vib(*plain)(task)


def _small(task: Task) -> TrainSettings:
    clusters, lr = task.pick((8, 5e-3), (16, 5e-3), (4, 5e-3), (8, 2e-3))
    base = replace(scratch(_BARE), clusters=str(clusters), hidden=clusters, lr=lr)
    if len(task.card.widths) > 1:
        return largest(task, lambda size: replace(base, clusters=str(size), hidden=size), _MOST_CLUSTERS)
    return fitted(task, base)


def _vectors(model: str) -> Recipe:
    """NetVLAD or NetFV: no mask decides about their inputs, so these are chosen by F score."""

    def recipe(task: Task) -> TrainSettings:
        share, mask_lr = task.pick((16, 0.03), (16, 0.1), (32, 0.03), (8, 0.03))
        inputs = _inputs(task, task.budget // (8 * share))
        base = replace(_BARE, model=model, normalize=True, select_inputs=inputs)
        plain = (replace(base, clusters=str(size), hidden=size) for size in (16, 32, 64, 128))
        return replace(pruned(task, *plain), mask_lr=mask_lr)

    return recipe


CLUSTERS = {
    "dbof-small": Rival(
        "DBoF trained at the budget, inputs of one stream by F score", False, _small, ("readout",)
    ),
    "dbof-vib": Rival("DBoF pruned by VIB", True, by_vib(*_dbof(32, 64, 128, 256)), ("readout",)),
    "dbof-circulant-vib": Rival("circulant DBoF pruned by VIB", True, _vib_circulant, ("readout",)),
    "netvlad-vib": Rival(
        "NetVLAD pruned by VIB, inputs of one stream by F score",
        True,
        _vectors("netvlad"),
        ("readout", "standardize"),
    ),
    "netfv-vib": Rival(
        "NetFV pruned by VIB, inputs of one stream by F score", True, _vectors("netfv"), ("readout", "standardize")
    ),
}
