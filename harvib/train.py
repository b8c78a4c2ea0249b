"""The training loop of one stage: seeded by epoch, so that a resumed run repeats an uninterrupted one exactly."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from harvib.budget import Controller
from harvib.checkpoint import Best, Checkpoint, Progress
from harvib.classifier import Classifier
from harvib.data import Batch, Parts
from harvib.distributed import ALONE, Team
from harvib.errors import InputError
from harvib.interrupt import Stop
from harvib.lasso import GroupLasso
from harvib.metrics import evaluate
from harvib.movement import Movement
from harvib.noise import sharing
from harvib.objectives import LossWeights, loss_terms, right
from harvib.precision import Arithmetic, dtype_of
from harvib.schedule import MASKS, set_rates
from harvib.settings import TrainSettings


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    `number` tells the stages' random streams apart. `select_best` keeps, of the last quarter of the epochs, the
    one with the best validation accuracy, or GAP@20 of several labels (of equals the lowest loss): at the high
    rate before, it jumps from epoch to epoch and the best of many jumps is luck. Otherwise the last epoch is kept.
    With `patience` above 0 such a stage ends once so many epochs in a row have not been better, and then all
    epochs stand for selection: a best of the last quarter alone could only end what is about to end.
    `remedy` names the options to lower where the stage diverges.
    """

    name: str
    number: int
    epochs: int
    lr: float
    select_best: bool
    remedy: str
    patience: int = 0

    def may_select(self, epoch: int) -> bool:
        """Whether an epoch, counted from 0, stands for selection."""
        return self.select_best and (self.patience > 0 or epoch >= self.epochs * 3 // 4)

    def is_better(self, score: tuple[float, float], epoch: int, best: Best | None) -> bool:
        """Whether an epoch is the one to keep so far: before any stands for selection, should the run end now."""
        if not self.select_best:
            return False
        first_to_count = self.may_select(epoch) and not self.may_select(epoch - 1)
        return best is None or first_to_count or score > best.score

    def is_over(self, progress: Progress) -> bool:
        """Whether patience has run out."""
        best = progress.best
        return self.patience > 0 and best is not None and progress.epoch - best.epoch >= self.patience


Row = dict[str, str | int | float]

_RATES = {"weights": "lr", MASKS: "mask_lr"}
"""Columns of metrics.csv for the rates of an optimiser's groups."""


def fit(
    model: Classifier,
    stage: Stage,
    parts: Parts,
    settings: TrainSettings,
    device: torch.device,
    checkpoint: Checkpoint,
    record: Callable[[Row], None],
    teacher: Tensor | None = None,
    controller: Controller | None = None,
    lasso: GroupLasso | None = None,
    stop: Stop | None = None,
    team: Team = ALONE,
    movement: Movement | None = None,
) -> int | None:
    """Train a model in place, from its checkpoint where there is one.

    `teacher` holds soft targets, (train clips, C) logits. `controller` scales the betas from epoch to epoch; it
    is taken up from the checkpoint too, and so are the scores that `movement` gathers. `lasso` is the group lasso
    to apply. `record` gets one row an epoch.
    Where `stop` asks, the stage ends early after the running epoch, its state saved; then the number of epochs
    done is returned, else None. All processes of a `team` must call it alike. Raises InputError where loss,
    gradients or logits overflow, and where the settings do not fit stage or device.
    """
    if settings.warmup_epochs >= stage.epochs:
        raise InputError(
            f"--warmup-epochs {settings.warmup_epochs}: the {stage.name} stage has only {stage.epochs} epochs"
        )
    optimizer = _optimizer(model, stage, settings)
    arithmetic = Arithmetic(dtype_of(settings.precision, device), device)
    step = _Step(model, optimizer, arithmetic, stage, settings.clip_norm, teacher, lasso, movement, team)
    progress = checkpoint.restore(stage.name, model, optimizer)
    arithmetic.load(progress.memory)
    if controller is not None and progress.epoch:
        controller.load(progress.memory["controller"])
    if movement is not None and progress.epoch:
        movement.load(progress.memory)
    steps_per_epoch = math.ceil(len(parts.train) / settings.batch)
    steps, warm = steps_per_epoch * stage.epochs, steps_per_epoch * settings.warmup_epochs
    bar = tqdm(
        range(progress.epoch, stage.epochs),
        desc=f"{stage.name:8}",
        initial=progress.epoch,
        total=stage.epochs,
        unit="epoch",
        disable=not team.first,
    )
    stopped = False
    for epoch in bar:
        if stage.is_over(progress):
            break
        stopped = team.any(stop is not None and stop.asked)
        if stopped:
            break
        started = time.perf_counter()
        # A pure function of (seed, stage, epoch): no generator state has to survive an interruption.
        torch.manual_seed(int(np.random.SeedSequence((settings.seed, stage.number, epoch)).generate_state(1)[0]))
        sums = _Sums()
        batches = parts.train.shuffled(settings.batch, device, settings.seed, stage.number * 100_000 + epoch)
        for number, batch in enumerate(batches, epoch * steps_per_epoch):
            set_rates(optimizer.param_groups, settings.rates, number, steps, warm, controller is not None)
            weights = _loss_weights(settings, number / steps)
            if controller is not None:
                weights = weights.scaled(controller.strength)
            sums.add(step(batch, weights), len(batch.labels))
        validation = evaluate(model, parts.validation, device)
        (loss,) = team.of_first((validation.loss,))
        if not math.isfinite(loss):
            raise _diverged(stage, "the validation loss")
        score, accuracy = team.of_first((validation.score, validation.accuracy))
        best = progress.best
        if stage.is_better((score, -loss), epoch, best):
            best = Best((score, -loss), {name: v.clone() for name, v in model.state_dict().items()}, epoch + 1)
        row: Row = {
            "stage": stage.name,
            "epoch": epoch + 1,
            **sums.means(),
            "val_accuracy": accuracy,
            **({"val_gap": score} if validation.several else {}),
            "val_loss": loss,
            "inputs_kept": len(model.kept_inputs()),
            "units_kept": sum(map(sum, model.kept_units())),
            **_steering(optimizer, model, controller, lasso),
            "seconds": time.perf_counter() - started,
        }
        if best is not None:
            row["best_epoch"] = best.epoch
        record(row)
        memory = arithmetic.state()
        if controller is not None:
            controller.after_epoch(model, epoch + 1, stage.epochs)
            memory["controller"] = controller.state()
        if movement is not None:
            memory |= movement.state()
        progress = Progress(epoch + 1, best, memory)
        checkpoint.save(stage.name, progress, model, optimizer)
        bar.set_postfix_str(
            f"loss {row['loss']:.3f} val {score:.1%} inputs {row['inputs_kept']} units {row['units_kept']}",
            refresh=False,
        )
    bar.close()
    if stopped and progress.epoch:
        checkpoint.save(stage.name, progress, model, optimizer, now=True)
    if progress.best is not None:
        model.load_state_dict(progress.best.weights)
    return progress.epoch if stopped else None


@dataclass(frozen=True, eq=False)
class _Step:
    """One step of the optimiser, on this process's share of a batch; the figures are of the whole batch."""

    model: Classifier
    optimizer: torch.optim.Optimizer
    arithmetic: Arithmetic
    stage: Stage
    clip_norm: float
    teacher: Tensor | None
    lasso: GroupLasso | None
    movement: Movement | None
    team: Team

    def __call__(self, batch: Batch, weights: LossWeights) -> dict[str, float]:
        model, lasso, team = self.model, self.lasso, self.team
        own, share = team.own(batch)
        model.train()
        with sharing(share), self.arithmetic.forward():
            logits = model(own.features, own.lengths)
        # The loss in float32, the masks' KL above all: half precision cannot tell its small changes.
        logits = logits.to(model.dtype)
        targets = None if self.teacher is None else self.teacher[own.positions]
        loss, terms = loss_terms(model, logits, own.labels, targets, weights)
        if lasso is not None:
            loss = loss + lasso.penalty(model)
        self.optimizer.zero_grad(set_to_none=True)
        self.arithmetic.backward(loss)
        team.sum_gradients(model.parameters(), share.part)
        scores = None
        if self.movement is not None:
            rate = self.optimizer.param_groups[0]["lr"]
            scores = self.movement.of_step(model, rate, self.arithmetic.scale)
        moved = self.arithmetic.step(model, self.optimizer, self.clip_norm)
        if moved is None:
            raise _diverged(self.stage, "the gradient")
        if lasso is not None and moved:
            lasso.after_step(model, self.optimizer)
        if self.movement is not None and scores is not None and moved:
            self.movement.add(scores)
        accuracy = right(logits, own.labels).float().mean()
        values = {"loss": loss, **terms, "train_accuracy": accuracy}
        return team.sum_values({name: float(value.detach()) for name, value in values.items()}, share.part)


def _steering(
    optimizer: torch.optim.Optimizer,
    model: Classifier,
    controller: Controller | None,
    lasso: GroupLasso | None,
) -> Row:
    """What moved the weights at the end of an epoch: rates, group lasso, strength of the budget."""
    row: Row = {_RATES[group["of"]]: group["lr"] for group in optimizer.param_groups if group["of"] in _RATES}
    if lasso is not None:
        with torch.no_grad():
            row["lasso"] = float(lasso.value(model))
    if controller is not None:
        row["strength"] = controller.strength
    return row


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


def _optimizer(model: Classifier, stage: Stage, settings: TrainSettings) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay; masks and a front have their own rates and never decay.

    (Decay would pull mu to zero and log variance up or down: it would decide what is pruned.)
    """
    mask_parameters = [weight for mask in model.masks().values() for weight in mask.parameters()]
    ours = {id(weight) for weight in mask_parameters}
    front = [] if model.front is None else list(model.front.parameters())
    ours |= {id(weight) for weight in front}
    weights = [weight for weight in model.parameters() if id(weight) not in ours]
    groups = [{"of": "weights", "params": weights, "lr": stage.lr, "weight_decay": settings.weight_decay}]
    if mask_parameters:
        groups.append({"of": MASKS, "params": mask_parameters, "lr": settings.mask_lr, "weight_decay": 0.0})
    if model.front is not None and model.front.lr > 0:
        # No decay either: what was learned elsewhere is a better centre than zero.
        groups.append({"of": "front", "params": front, "lr": model.front.lr, "weight_decay": 0.0})
    for group in groups:
        group["peak"] = group["lr"]
    # Fused: one pass over the weights, a fifth of the time of the default on a CPU.
    return torch.optim.AdamW(groups, fused=True)


def _loss_weights(settings: TrainSettings, progress: float) -> LossWeights:
    warm = 1.0 if settings.warmup == 0 else min(1.0, progress / settings.warmup)
    return LossWeights(
        beta=settings.beta * warm,
        beta_input=settings.beta_input * warm,
        distill=settings.distill,
        temperature=settings.temperature,
        label_smoothing=settings.label_smoothing,
    )


def soft_targets(model: Classifier, parts: Parts, device: torch.device) -> Tensor:
    """Logits of a trained model on the train part, (train clips, C), in the order of its clips."""
    return torch.from_numpy(evaluate(model, parts.train, device).logits).to(device)
