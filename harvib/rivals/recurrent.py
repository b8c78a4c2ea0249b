"""LSTMs: pruned to the budget by VIB, group lasso or magnitude, or trained directly at it."""

from __future__ import annotations

from dataclasses import replace

from harvib.rivals.base import Rival, Task, largest, pruned
from harvib.settings import TrainSettings

TUNED = TrainSettings(
    dropout=0.5,
    plain_epochs=25,
    lr=3e-3,
    vib_epochs=30,
    vib_lr=1e-3,
    finetune_epochs=80,
    finetune_dropout=0.2,
    distill=0.5,
)
"""The same for every method that prunes."""

PROJECTED = tuple(
    replace(TUNED, project=project, hidden=hidden, input_init="fan-in")
    for project, hidden in ((16, 8), (32, 16), (64, 32), (128, 64), (256, 128))
)
"""A projection and an LSTM behind it; large budgets need larger ones."""


def scratch(settings: TrainSettings) -> TrainSettings:
    """Training only, as long and with the rate and dropout of fine-tuning."""
    return replace(
        settings,
        method="plain",
        plain_epochs=settings.finetune_epochs,
        lr=settings.finetune_lr,
        dropout=settings.finetune_dropout,
    )


def _vib_lstm(task: Task) -> TrainSettings:
    vib_epochs, mask_lr = task.pick((40, 0.03), (80, 0.03), (40, 0.1), (40, 0.01))
    return pruned(task, TrainSettings(hidden=256, input_init="fan-in", vib_epochs=vib_epochs, mask_lr=mask_lr))


def _vib(task: Task) -> TrainSettings:
    mask_lr, beta_input = task.pick((0.03, 1e-4), (0.1, 1e-4), (0.03, 1e-3), (0.01, 1e-4))
    return replace(pruned(task, *PROJECTED), mask_lr=mask_lr, beta_input=beta_input)


def _iss(task: Task) -> TrainSettings:
    lasso, lasso_input = task.pick((1e-3, 0.01), (1e-3, 0.003), (1e-3, 0.03), (1e-2, 0.01))
    return replace(pruned(task, *PROJECTED), method="lasso", lasso=lasso, lasso_input=lasso_input)


def _magnitude(task: Task) -> TrainSettings:
    # Nothing steers what is pruned: what is left to search is how the rest is trained.
    finetune_lr, distill = task.pick((5e-3, 0.5), (2e-3, 0.5), (1e-2, 0.5), (5e-3, 0.8))
    return replace(pruned(task, *PROJECTED), method="magnitude", finetune_lr=finetune_lr, distill=distill)


def _small(task: Task) -> TrainSettings:
    share, lr = task.pick((1.0, 5e-3), (2.0, 5e-3), (0.5, 5e-3), (1.0, 2e-3))
    # 4 units at 1,000 parameters, 8 at 10,000, 16 at 100,000: with more, few inputs can be paid for.
    hidden = max(1, round(share * 4 * (task.budget / 1000) ** 0.3))
    base = replace(scratch(TUNED), hidden=hidden, input_init="fan-in", lr=lr)
    while base.hidden > 1 and task.size(replace(base, select_inputs=1)) > task.budget:
        base = replace(base, hidden=base.hidden // 2)
    return largest(task, lambda inputs: replace(base, select_inputs=inputs), task.features)


RECURRENT = {
    "vib-lstm": Rival("LSTM-256 pruned by VIB", True, _vib_lstm),
    "vib": Rival("projection + LSTM pruned by VIB", True, _vib),
    "iss": Rival("projection + LSTM pruned by group lasso (ISS)", False, _iss),
    "magnitude": Rival("projection + LSTM pruned by magnitude", False, _magnitude),
    "lstm-small": Rival("small LSTM trained at the budget, inputs by F score", False, _small),
}
