"""Mean over time and a linear classifier, through a bottleneck too: inputs by F score, or pruned to the budget."""

from __future__ import annotations

from dataclasses import replace

from harvib.rivals.base import TUNED, Rival, Task, by_lasso, by_magnitude, by_vib, largest, pruned, scratch
from harvib.settings import TrainSettings

_MEAN = replace(TUNED, model="mean")


def _mean(task: Task) -> TrainSettings:
    lr, dropout = task.pick((5e-3, 0.2), (2e-3, 0.2), (1e-2, 0.2), (5e-3, 0.5))
    base = replace(scratch(_MEAN), lr=lr, dropout=dropout)
    return largest(task, lambda inputs: replace(base, select_inputs=inputs), task.features)


def _vib(task: Task) -> TrainSettings:
    mask_lr, finetune_lr = task.pick((0.03, 5e-3), (0.1, 5e-3), (0.01, 5e-3), (0.03, 2e-3))
    return replace(pruned(task, _MEAN), mask_lr=mask_lr, finetune_lr=finetune_lr)


def _lasso(task: Task) -> TrainSettings:
    lasso_input, finetune_lr = task.pick((0.01, 5e-3), (0.003, 5e-3), (0.03, 5e-3), (0.01, 2e-3))
    return replace(pruned(task, _MEAN), method="lasso", lasso_input=lasso_input, finetune_lr=finetune_lr)


_LINEAR = tuple(replace(TUNED, model="linear", hidden=hidden) for hidden in (16, 64, 256))


def _sparse(task: Task) -> TrainSettings:
    # About as many values between as there are classes: more of them cost the head what inputs could use.
    values, mask_lr = task.pick((14, 0.03), (24, 0.03), (8, 0.03), (14, 0.1))
    base = replace(TUNED, model="linear", hidden=values, factorize="sparse", input_init="fan-in")
    return replace(pruned(task, base), mask_lr=mask_lr)


def _sparse_magnitude(task: Task) -> TrainSettings:
    values, finetune_lr = task.pick((14, 5e-3), (24, 5e-3), (8, 5e-3), (14, 2e-3))
    base = replace(TUNED, model="linear", hidden=values, factorize="sparse", input_init="fan-in")
    return replace(pruned(task, base), method="magnitude", finetune_lr=finetune_lr)


POOLED = {
    "mean": Rival("mean over time + linear, inputs by F score", False, _mean),
    "mean-vib": Rival("mean + linear, inputs pruned by VIB", True, _vib),
    "mean-lasso": Rival("mean + linear, inputs pruned by group lasso", False, _lasso),
    "linear-vib": Rival("mean + linear through a bottleneck, pruned by VIB", True, by_vib(*_LINEAR)),
    "linear-lasso": Rival("mean + linear through a bottleneck, pruned by group lasso", False, by_lasso(*_LINEAR)),
    "linear-sparse": Rival(
        "mean + linear through a bottleneck, every weight on the inputs pruned by VIB", True, _sparse
    ),
    "linear-sparse-magnitude": Rival(
        "mean + linear through a bottleneck, every weight pruned by magnitude", False, _sparse_magnitude
    ),
    "mean-magnitude": Rival("mean + linear, inputs pruned by magnitude", False, by_magnitude(_MEAN)),
}
