"""Networks without a recurrence: mean over time + MLP, and a temporal convolution."""

from __future__ import annotations

from dataclasses import replace

from harvib.rivals.base import TUNED, Rival, Task, fitted, pruned, scratch
from harvib.settings import TrainSettings

_MLP = tuple(replace(TUNED, model="mlp", hidden=hidden) for hidden in (16, 64, 256))
_CONV = tuple(
    replace(TUNED, model="conv", project=project, hidden=hidden)
    for project, hidden in ((16, 8), (32, 16), (64, 32), (128, 64), (256, 128))
)
"""The convolution behind a projection, as the LSTM of `vib`."""


def _mlp_small(task: Task) -> TrainSettings:
    hidden, lr = task.pick((8, 5e-3), (16, 5e-3), (4, 5e-3), (8, 2e-3))
    return fitted(task, replace(scratch(TUNED), model="mlp", hidden=hidden, lr=lr))


def _mlp_vib(task: Task) -> TrainSettings:
    mask_lr, beta_input = task.pick((0.03, 1e-4), (0.1, 1e-4), (0.03, 1e-3), (0.01, 1e-4))
    return replace(pruned(task, *_MLP), mask_lr=mask_lr, beta_input=beta_input)


def _mlp_lasso(task: Task) -> TrainSettings:
    lasso, lasso_input = task.pick((1e-3, 0.01), (1e-3, 0.003), (1e-3, 0.03), (1e-2, 0.01))
    return replace(pruned(task, *_MLP), method="lasso", lasso=lasso, lasso_input=lasso_input)


def _conv_small(task: Task) -> TrainSettings:
    hidden, lr = task.pick((4, 5e-3), (8, 5e-3), (2, 5e-3), (4, 2e-3))
    return fitted(task, replace(scratch(TUNED), model="conv", hidden=hidden, lr=lr))


def _conv_vib(task: Task) -> TrainSettings:
    mask_lr, beta_input = task.pick((0.03, 1e-4), (0.1, 1e-4), (0.03, 1e-3), (0.01, 1e-4))
    return replace(pruned(task, *_CONV), mask_lr=mask_lr, beta_input=beta_input)


def _conv_lasso(task: Task) -> TrainSettings:
    lasso, lasso_input = task.pick((1e-3, 0.01), (1e-3, 0.003), (1e-3, 0.03), (1e-2, 0.01))
    return replace(pruned(task, *_CONV), method="lasso", lasso=lasso, lasso_input=lasso_input)


_MLP_CANNOT = ("readout",)

FEEDFORWARD = {
    "mlp-small": Rival(
        "mean over time + MLP trained at the budget, inputs by F score", False, _mlp_small, _MLP_CANNOT
    ),
    "mlp-vib": Rival("mean over time + MLP pruned by VIB", True, _mlp_vib, _MLP_CANNOT),
    "mlp-lasso": Rival("mean over time + MLP pruned by group lasso", False, _mlp_lasso, _MLP_CANNOT),
    "conv-small": Rival("temporal convolution trained at the budget, inputs by F score", False, _conv_small),
    "conv-vib": Rival("projection + temporal convolution pruned by VIB", True, _conv_vib),
    "conv-lasso": Rival("projection + temporal convolution pruned by group lasso", False, _conv_lasso),
}
