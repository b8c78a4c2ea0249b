"""What a method of `harvib compare` is: a recipe that makes, for a budget of parameters, the settings of a run."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from harvib.classifier import Spec
from harvib.errors import InputError
from harvib.runconfig import plain_spec
from harvib.settings import TrainSettings
from harvib.weights import ModelCard

TRIALS = 4
"""How many settings every recipe offers; the first is the one it would choose unseen."""

Value = TypeVar("Value")


class NoModelError(InputError):
    """A method has no model for a budget; the text says why."""


@dataclass(frozen=True)
class Task:
    """What a model is wanted for: at most `budget` parameters, on so many features a step and these classes.

    `trial` counts from 0 the settings that a recipe offers.
    """

    budget: int
    features: int
    card: ModelCard
    trial: int = 0

    def pick(self, *values: Value) -> Value:
        """The value of this trial, of as many as there are trials."""
        if len(values) != TRIALS:
            raise ValueError(f"a recipe offers {TRIALS} settings, not {len(values)}")
        return values[self.trial]

    def spec(self, settings: TrainSettings) -> Spec:
        """The plain model of these settings. NoModelError where there is no such model."""
        try:
            return plain_spec(settings, self.features, self.card)
        except InputError as error:
            raise NoModelError(str(error)) from error

    def size(self, settings: TrainSettings) -> int:
        """Parameters of the plain model of these settings. NoModelError where there is no such model."""
        try:
            return self.spec(settings).plain_size()
        except InputError as error:
            raise NoModelError(str(error)) from error


Recipe = Callable[[Task], TrainSettings]
"""Raises NoModelError where there is no model for the task."""


@dataclass(frozen=True)
class Rival:
    """A method; `ours` where it is this project's own, a VIB model or a hybrid with one.

    `cannot` names settings that the method cannot take: a user's wish for them is not passed on to it. `teacher`
    is the plain model whose soft targets it learns from, where that is not its own.
    """

    title: str
    ours: bool
    recipe: Recipe
    cannot: tuple[str, ...] = ()
    teacher: TrainSettings | None = None


def largest(task: Task, settings: Callable[[int], TrainSettings], highest: int) -> TrainSettings:
    """The settings, of those of 1 to `highest`, of the largest plain model within the budget; sizes must grow."""
    sizes = range(1, highest + 1)
    found = bisect.bisect_right(sizes, task.budget, key=lambda number: task.size(settings(number)))
    if not found:
        raise NoModelError(f"the smallest model has {task.size(settings(1)):,} parameters")
    return settings(found)


def fitted(task: Task, settings: TrainSettings) -> TrainSettings:
    """As many inputs, by F score, as the budget allows with these units; half of the units until one fits."""
    while settings.hidden > 1 and task.size(replace(settings, select_inputs=1)) > task.budget:
        settings = replace(settings, hidden=settings.hidden // 2)
    return largest(task, lambda inputs: replace(settings, select_inputs=inputs), task.features)


def scratch(settings: TrainSettings) -> TrainSettings:
    """Training only, as long and with the rate and dropout of fine-tuning."""
    return replace(
        settings,
        method="plain",
        target_params=0,
        target_ratio=0.0,
        plain_epochs=settings.finetune_epochs,
        lr=settings.finetune_lr,
        dropout=settings.finetune_dropout,
    )


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


def pruned(task: Task, *plain: TrainSettings) -> TrainSettings:
    """Prune to the budget the first of these plain models with at least twice as many parameters, or the last."""
    chosen = next((each for each in plain if task.size(each) >= 2 * task.budget), plain[-1])
    if task.size(chosen) <= task.budget:
        raise NoModelError(f"the plain model has only {task.size(chosen):,} parameters: nothing is to prune")
    return replace(chosen, target_params=task.budget)


def by_vib(*plain: TrainSettings) -> Recipe:
    """Pruned by VIB: how fast the masks learn, and what an input costs."""

    def recipe(task: Task) -> TrainSettings:
        mask_lr, beta_input = task.pick((0.03, 1e-4), (0.1, 1e-4), (0.03, 1e-3), (0.01, 1e-4))
        return replace(pruned(task, *plain), mask_lr=mask_lr, beta_input=beta_input)

    return recipe


def by_lasso(*plain: TrainSettings) -> Recipe:
    """Pruned by group lasso: what units and inputs cost."""

    def recipe(task: Task) -> TrainSettings:
        lasso, lasso_input = task.pick((1e-3, 0.01), (1e-3, 0.003), (1e-3, 0.03), (1e-2, 0.01))
        return replace(pruned(task, *plain), method="lasso", lasso=lasso, lasso_input=lasso_input)

    return recipe


def by_magnitude(*plain: TrainSettings) -> Recipe:
    """Pruned by magnitude: nothing steers that, so what is left to search is how the rest is trained."""

    def recipe(task: Task) -> TrainSettings:
        finetune_lr, distill = task.pick((5e-3, 0.5), (2e-3, 0.5), (1e-2, 0.5), (5e-3, 0.8))
        return replace(pruned(task, *plain), method="magnitude", finetune_lr=finetune_lr, distill=distill)

    return recipe
