"""Networks without a recurrence: mean over time + MLP, and a temporal convolution."""

from __future__ import annotations

from dataclasses import replace

from harvib.rivals.base import TUNED, Rival, Task, by_lasso, by_vib, fitted, scratch
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


def _conv_small(task: Task) -> TrainSettings:
    hidden, lr = task.pick((4, 5e-3), (8, 5e-3), (2, 5e-3), (4, 2e-3))
    return fitted(task, replace(scratch(TUNED), model="conv", hidden=hidden, lr=lr))


_MLP_CANNOT = ("readout",)

FEEDFORWARD = {
    "mlp-small": Rival(
        "mean over time + MLP trained at the budget, inputs by F score", False, _mlp_small, _MLP_CANNOT
    ),
    "mlp-vib": Rival("mean over time + MLP pruned by VIB", True, by_vib(*_MLP), _MLP_CANNOT),
    "mlp-lasso": Rival("mean over time + MLP pruned by group lasso", False, by_lasso(*_MLP), _MLP_CANNOT),
    "conv-small": Rival("temporal convolution trained at the budget, inputs by F score", False, _conv_small),
    "conv-vib": Rival("projection + temporal convolution pruned by VIB", True, by_vib(*_CONV)),
    "conv-lasso": Rival("projection + temporal convolution pruned by group lasso", False, by_lasso(*_CONV)),
}
