"""The training loop of one stage: seeded by epoch, so that a resumed run repeats an uninterrupted one exactly."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from harvib.budget import Controller
from harvib.checkpoint import Checkpoint
from harvib.data import Batch, Parts
from harvib.errors import InputError
from harvib.lasso import GroupLasso
from harvib.metrics import evaluate
from harvib.models import SequenceClassifier
from harvib.objectives import LossWeights, loss_terms
from harvib.settings import TrainSettings

_CONTROLLER = "controller"


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    `number` tells the stages' random streams apart. `select_best` keeps, of the last quarter of the epochs, the
    one with the best validation accuracy (of equals the lowest loss): at the high rate before, accuracy jumps from
    epoch to epoch and the best of many jumps is luck. Otherwise the last epoch is kept.
    `remedy` names the options to lower where the stage diverges.
    """

    name: str
    number: int
    epochs: int
    lr: float
    select_best: bool
    remedy: str

    def may_select(self, epoch: int) -> bool:
        """Whether an epoch, counted from 0, stands for selection."""
        return self.select_best and epoch >= self.epochs * 3 // 4


Row = dict[str, str | int | float]


def fit(
    model: SequenceClassifier,
    stage: Stage,
    parts: Parts,
    settings: TrainSettings,
    device: torch.device,
    checkpoint: Checkpoint,
    record: Callable[[Row], None],
    teacher: Tensor | None = None,
    controller: Controller | None = None,
    lasso: GroupLasso | None = None,
) -> None:
    """Train a model in place, from its checkpoint where there is one.

    `teacher` holds soft targets, (train clips, C) logits. `controller` scales the betas from epoch to epoch; it
    is taken up from the checkpoint too. `lasso` is the group lasso to apply. `record` gets one row an epoch.
    Raises InputError where loss, gradients or logits overflow.
    """
    optimizer = _optimizer(model, stage, settings)
    first, best = checkpoint.restore(stage.name, model, optimizer)
    if controller is not None and first:
        controller.load(_slots(model, optimizer)[_CONTROLLER])
    steps_per_epoch = math.ceil(len(parts.train) / settings.batch)
    bar = tqdm(range(first, stage.epochs), desc=f"{stage.name:8}", initial=first, total=stage.epochs, unit="epoch")
    for epoch in bar:
        started = time.perf_counter()
        # A pure function of (seed, stage, epoch): no generator state has to survive an interruption.
        torch.manual_seed(int(np.random.SeedSequence((settings.seed, stage.number, epoch)).generate_state(1)[0]))
        sums = _Sums()
        batches = parts.train.shuffled(settings.batch, device, settings.seed, stage.number * 100_000 + epoch)
        for step, batch in enumerate(batches, epoch * steps_per_epoch):
            _set_rates(optimizer, step / (steps_per_epoch * stage.epochs), steered=controller is not None)
            weights = _loss_weights(settings, step / (steps_per_epoch * stage.epochs))
            if controller is not None:
                weights = weights.scaled(controller.strength)
            sums.add(
                _step(model, optimizer, batch, teacher, weights, settings.clip_norm, stage, lasso),
                len(batch.labels),
            )
        validation = evaluate(model, parts.validation, device)
        if not math.isfinite(validation.loss):
            raise _diverged(stage, "the validation loss")
        score = (validation.accuracy, -validation.loss)
        if stage.may_select(epoch) and (best is None or score > best.score):
            best = checkpoint.remember(score, model)
        row: Row = {
            "stage": stage.name,
            "epoch": epoch + 1,
            **sums.means(),
            "val_accuracy": validation.accuracy,
            "val_loss": validation.loss,
            "inputs_kept": len(model.kept_inputs()),
            "units_kept": sum(map(sum, model.kept_units())),
            "seconds": time.perf_counter() - started,
        }
        record(row)
        if controller is not None:
            controller.after_epoch(model, epoch + 1, stage.epochs)
            _slots(model, optimizer)[_CONTROLLER] = controller.state()
        checkpoint.save(stage.name, epoch + 1, model, optimizer, best)
        bar.set_postfix_str(
            f"loss {row['loss']:.3f} val {validation.accuracy:.1%} "
            f"inputs {row['inputs_kept']} units {row['units_kept']}",
            refresh=False,
        )
    if best is not None:
        model.load_state_dict(best.weights)


def _slots(model: SequenceClassifier, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's memory of the input mask's means.

    The controller's two numbers lie there as one slot more, which Adam does not look at: so they are in every
    checkpoint, and never in a model's file.
    """
    assert model.input_mask is not None
    return optimizer.state[model.input_mask.mu]


def _step(
    model: SequenceClassifier,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    teacher: Tensor | None,
    weights: LossWeights,
    clip_norm: float,
    stage: Stage,
    lasso: GroupLasso | None,
) -> dict[str, float]:
    model.train()
    logits = model(batch.features, batch.lengths)
    targets = None if teacher is None else teacher[batch.positions]
    loss, terms = loss_terms(model, logits, batch.labels, targets, weights)
    if lasso is not None:
        loss = loss + lasso.penalty(model)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if not torch.isfinite(nn.utils.clip_grad_norm_(model.parameters(), clip_norm)):
        raise _diverged(stage, "the gradient")
    optimizer.step()
    if lasso is not None:
        lasso.after_step(model, optimizer)
    accuracy = (logits.argmax(1) == batch.labels).float().mean()
    values = {"loss": loss, **terms, "train_accuracy": accuracy}
    return {name: float(value.detach()) for name, value in values.items()}


def _diverged(stage: Stage, what: str) -> InputError:
    return InputError(f"training diverged in the {stage.name} stage: {what} is not finite; lower {stage.remedy}")


class _Sums:
    """Means over the clips of an epoch."""

    def __init__(self) -> None:
        self.totals: dict[str, float] = {}
        self.count = 0

    def add(self, values: dict[str, float], clips: int) -> None:
        for name, value in values.items():
            self.totals[name] = self.totals.get(name, 0.0) + value * clips
        self.count += clips

    def means(self) -> dict[str, float]:
        return {name: total / self.count for name, total in self.totals.items()}


def _optimizer(model: SequenceClassifier, stage: Stage, settings: TrainSettings) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay; masks have their own rate and never decay.

    (Decay would pull mu to zero and log variance up or down: it would decide what is pruned.)
    """
    mask_parameters = [weight for mask in model.masks().values() for weight in mask.parameters()]
    ours = {id(weight) for weight in mask_parameters}
    weights = [weight for weight in model.parameters() if id(weight) not in ours]
    groups = [{"params": weights, "lr": stage.lr, "weight_decay": settings.weight_decay}]
    if mask_parameters:
        groups.append({"params": mask_parameters, "lr": settings.mask_lr, "weight_decay": 0.0})
    for group in groups:
        group["peak"] = group["lr"]
    return torch.optim.AdamW(groups)


def _set_rates(optimizer: torch.optim.Optimizer, progress: float, steered: bool = False) -> None:
    """Half a cosine from the peak to zero over the stage.

    Under a controller the masks keep their rate for seven tenths of the stage and then fall to zero on a straight
    line: while their rate fades, no strength moves them, and the controller would push in vain.
    """
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    for number, group in enumerate(optimizer.param_groups):
        of_masks = number > 0
        group["lr"] = group["peak"] * (min(1.0, (1 - progress) / 0.3) if steered and of_masks else cosine)


def _loss_weights(settings: TrainSettings, progress: float) -> LossWeights:
    warm = 1.0 if settings.warmup == 0 else min(1.0, progress / settings.warmup)
    return LossWeights(
        beta=settings.beta * warm,
        beta_input=settings.beta_input * warm,
        distill=settings.distill,
        temperature=settings.temperature,
        label_smoothing=settings.label_smoothing,
    )


def soft_targets(model: SequenceClassifier, parts: Parts, device: torch.device) -> Tensor:
    """Logits of a trained model on the train part, (train clips, C), in the order of its clips."""
    return torch.from_numpy(evaluate(model, parts.train, device).logits).to(device)
