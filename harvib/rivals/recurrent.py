"""LSTMs: pruned to the budget by VIB, group lasso or magnitude, or trained directly at it."""

from __future__ import annotations

from dataclasses import replace

from harvib.rivals.base import TUNED, Rival, Task, by_lasso, by_magnitude, by_vib, fitted, pruned, scratch
from harvib.settings import TrainSettings

PROJECTED = tuple(
    replace(TUNED, project=project, hidden=hidden, input_init="fan-in")
    for project, hidden in ((16, 8), (32, 16), (64, 32), (128, 64), (256, 128))
)
"""A projection and an LSTM behind it; large budgets need larger ones."""


def _vib_lstm(task: Task) -> TrainSettings:
    vib_epochs, mask_lr = task.pick((40, 0.03), (80, 0.03), (40, 0.1), (40, 0.01))
    return pruned(task, TrainSettings(hidden=256, input_init="fan-in", vib_epochs=vib_epochs, mask_lr=mask_lr))


def _movement(task: Task) -> TrainSettings:
    movement_lr, epochs = task.pick((1e-3, 30), (3e-3, 30), (3e-4, 30), (1e-3, 60))
    plain = pruned(task, *PROJECTED)
    return replace(plain, method="movement", movement_lr=movement_lr, movement_epochs=epochs)


def _units(task: Task, share: float) -> int:
    """4 units at 1,000 parameters, 8 at 10,000, 16 at 100,000: with more, few inputs can be paid for."""
    return max(1, round(share * 4 * (task.budget / 1000) ** 0.3))


def _small(task: Task) -> TrainSettings:
    share, lr = task.pick((1.0, 5e-3), (2.0, 5e-3), (0.5, 5e-3), (1.0, 2e-3))
    return fitted(task, replace(scratch(TUNED), hidden=_units(task, share), input_init="fan-in", lr=lr))


def _taught(task: Task) -> TrainSettings:
    share, distill = task.pick((1.0, 0.5), (2.0, 0.5), (0.5, 0.5), (1.0, 0.8))
    return fitted(task, replace(scratch(TUNED), hidden=_units(task, share), input_init="fan-in", distill=distill))


def _vib_taught(task: Task) -> TrainSettings:
    distill, mask_lr = task.pick((0.5, 0.03), (0.8, 0.03), (0.5, 0.1), (0.8, 0.1))
    return replace(pruned(task, *PROJECTED), distill=distill, mask_lr=mask_lr)


_TEACHER = PROJECTED[2]

RECURRENT = {
    "vib-lstm": Rival("LSTM-256 pruned by VIB", True, _vib_lstm),
    "vib": Rival("projection + LSTM pruned by VIB", True, by_vib(*PROJECTED)),
    "iss": Rival("projection + LSTM pruned by group lasso (ISS)", False, by_lasso(*PROJECTED)),
    "magnitude": Rival("projection + LSTM pruned by magnitude", False, by_magnitude(*PROJECTED)),
    "movement": Rival("projection + LSTM pruned by movement", False, _movement),
    "lstm-small": Rival("small LSTM trained at the budget, inputs by F score", False, _small),
    "lstm-taught": Rival(
        "small LSTM taught by a large projection + LSTM, inputs by F score", False, _taught, teacher=_TEACHER
    ),
    "vib-taught": Rival("vib, taught by a large projection + LSTM", True, _vib_taught, teacher=_TEACHER),
}
