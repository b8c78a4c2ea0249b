"""The stages of a run, each with what all of them need; their weights stay in the run folder.

    plain   train the plain model, or take it from another run
    vib     train its masked form, compact it, fine-tune what is left; lasso, movement: other ways to choose

A repeated command goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from harfeat.cache import DEFAULT_STREAM
from harvib.budget import Controller, gentle_start, land, target_of
from harvib.classifier import Classifier, Spec
from harvib.data import Parts
from harvib.errors import InputError
from harvib.events import events
from harvib.front import Ahead, features_of, fresh
from harvib.interrupt import Stopped
from harvib.lasso import GroupLasso, freeze_masks, lasso_of
from harvib.magnitude import rank_by_norm
from harvib.manner import Manner
from harvib.metrics import evaluate
from harvib.movement import Movement
from harvib.reduction import reduced
from harvib.runconfig import Given, plain_spec, require_same
from harvib.rundir import RunFolder, rounded, write_json
from harvib.selection import select_inputs
from harvib.settings import TrainSettings
from harvib.train import Row, Stage, fit, soft_targets
from harvib.weights import ModelCard, load_model, load_whole, save_whole


@dataclasses.dataclass(frozen=True, eq=False)
class Stages:
    """The stages, with what all of them need; `targets` are soft targets from another run, (train clips, C)."""

    folder: RunFolder
    settings: TrainSettings
    parts: Parts
    card: ModelCard
    device: torch.device
    manner: Manner
    ahead: Ahead | None = None
    targets: torch.Tensor | None = None

    def plain(self, init: Path | Given | None, config: dict[str, Any]) -> Classifier:
        """The trained plain model: from this folder, from `init`, or trained now."""
        path, settings = self.folder.plain, self.settings
        if path.is_file():
            return self._load(path)
        model = self._new_plain()
        if init is None:
            stage = Stage("plain", 1, settings.plain_epochs, settings.lr, True, "--lr", settings.patience)
            self._fit(model, stage, None)
        elif isinstance(init, Given):
            given = copy.deepcopy(init.model)
            given.spec = dataclasses.replace(given.spec, dropout=model.spec.dropout)
            require_same(init.origin, given.spec, model.spec)
            model = given.to(self.device)
        else:
            model = self._initial(init, model.spec, config)
        save_whole(path, model, self.card)
        return model.eval()

    def masked(self, plain: Classifier) -> Classifier:
        """The model with its masks after VIB training, group lasso, or both, or cut to a budget by a ranking.

        Its last epoch, not its best: while the penalty grows the best is the one that is pruned the least.
        """
        path, settings = self.folder.masked, self.settings
        if path.is_file():
            return self._load(path)
        lasso = lasso_of(settings)
        target = target_of(settings, plain.spec)
        if settings.ranks_groups:
            torch.manual_seed(settings.seed)
            model = plain.masked()
            freeze_masks(model, open_all=True)
        else:
            model = self._after_vib(plain, lasso if settings.lasso_time == "with-vib" else None)
        if lasso is not None and (settings.method == "lasso" or settings.lasso_time == "after-vib"):
            freeze_masks(model)
            stage = Stage("lasso", 4, settings.lasso_epochs, settings.lasso_lr, False, "--lasso-lr")
            self._fit(model, stage, plain, lasso=lasso)
            lasso.finish(model, landing=target is not None)
        movement = Movement(model) if settings.method == "movement" else None
        if movement is not None:
            stage = Stage("movement", 5, settings.movement_epochs, settings.movement_lr, False, "--movement-lr")
            self._fit(model, stage, plain, movement=movement)
        if settings.ranks_groups and target is not None:
            (rank_by_norm if movement is None else movement.rank)(model)
            self._land(model, target)
            freeze_masks(model)
        save_whole(path, model, self.card)
        return model.eval()

    def _after_vib(self, plain: Classifier, lasso: GroupLasso | None) -> Classifier:
        settings = self.settings
        # Where a lasso stage follows, the checkpoint becomes that stage's.
        path = self.folder.path / "last" / "vib.safetensors"
        if path.is_file():
            return self._load(path)
        torch.manual_seed(settings.seed)
        model = plain.masked()
        stage = Stage("vib", 2, settings.vib_epochs, settings.vib_lr, False, "--vib-lr, --mask-lr or the betas")
        target = target_of(settings, plain.spec)
        controller = None
        if target is not None:
            controller = Controller(target, settings.scales_stay, gentle_start(model, settings))
        self._fit(model, stage, plain, controller, lasso)
        if lasso is not None:
            lasso.finish(model, landing=target is not None)
        if controller is not None:
            self._land(model, controller.target, controller.strength)
        if settings.lasso_time == "after-vib" and lasso_of(settings) is not None:
            path.parent.mkdir(exist_ok=True)
            save_whole(path, model, self.card)
        return model

    def _land(self, model: Classifier, target: int, strength: float | None = None) -> None:
        """Bring the masks exactly to the target, and note what strength of the betas led there, if any."""
        before = {"inputs": len(model.kept_inputs()), "units": sum(map(sum, model.kept_units()))}
        with reduced(model, self.parts.validation) as (validation,):

            def score(masked: Classifier) -> tuple[float, float]:
                result = evaluate(masked, validation, self.device)
                found, loss = self.manner.team.of_first((result.score, result.loss))
                return found, -loss

            land(model, target, self.settings.scales_stay, score)
        found: dict[str, Any] = {"target": target, "before_landing": before}
        if strength is not None:
            betas = {"beta": self.settings.beta * strength, "beta_input": self.settings.beta_input * strength}
            found |= {"strength": strength, **betas}
        write_json(self.folder.budget, found)

    def finetuned(self, small: Classifier, plain: Classifier) -> Classifier:
        """The compact model, trained on."""
        settings = self.settings
        if settings.finetune_epochs == 0:
            return small
        if not settings.keep_scales:
            small.use_hard_scales()
        small.spec = dataclasses.replace(small.spec, dropout=settings.finetune_dropout)
        epochs, lr = settings.finetune_epochs, settings.finetune_lr
        stage = Stage("finetune", 3, epochs, lr, True, "--finetune-lr", settings.patience)
        self._fit(small, stage, plain)
        return small.eval()

    def _fit(
        self,
        model: Classifier,
        stage: Stage,
        teacher: Classifier | None,
        controller: Controller | None = None,
        lasso: GroupLasso | None = None,
        movement: Movement | None = None,
    ) -> None:
        checkpoint = self.folder.checkpoint
        position = checkpoint.position()
        self.folder.rewind(stage.name, position[1] if position and position[0] == stage.name else 0)
        targets, settings = self._soft_targets(teacher), self.settings
        if stage.name in ("lasso", "movement"):
            settings = dataclasses.replace(settings, beta=0.0, beta_input=0.0)
        stop, team, writes_events = self.manner.stop, self.manner.team, contextlib.ExitStack()
        reduction = reduced(model, self.parts.train, self.parts.validation)
        with writes_events, reduction as (train, validation):
            record: Callable[[Row], None] = self.folder.record
            if self.manner.tensorboard and team.first:
                record = _both(record, writes_events.enter_context(events(self.folder.path, self.folder.rows())))
            arguments = (checkpoint, record, targets, controller, lasso, stop, team, movement)
            parts = dataclasses.replace(self.parts, train=train, validation=validation)
            stopped = fit(model, stage, parts, settings, self.device, *arguments)
        if stopped is not None:
            reason = Stopped(stage.name, stopped, stage.epochs, model, self.settings)
            reason.rank = None if movement is None else movement.rank
            raise reason

    def _soft_targets(self, teacher: Classifier | None) -> torch.Tensor | None:
        """What a stage learns from beside labels; the plain model has a teacher only where it is all there is."""
        if self.settings.distill == 0 or (teacher is None and self.settings.method != "plain"):
            return None
        if self.targets is not None or teacher is None:
            return self.targets
        return soft_targets(teacher, self.parts, self.device)

    def _load(self, path: Path) -> Classifier:
        return load_whole(path, self.ahead).to(self.device)

    def _new_plain(self) -> Classifier:
        settings, front = self.settings, fresh(self.ahead)
        train = features_of(front, self.parts.train)
        selected = select_inputs(train, settings.select_inputs, settings.normalize)
        spec = plain_spec(settings, train.dim, self.card)
        torch.manual_seed(settings.seed)
        model = spec.build()
        if settings.input_init == "fan-in":
            model.draw_by_fan_in()
        model.front = front
        model.selection.copy_(selected)
        if settings.standardize:
            mean, std = train.statistics(settings.normalize)
            model.standardize_by(mean[selected], std[selected])
        return model.to(self.device)

    def _initial(self, init: Path, spec: Spec, config: dict[str, Any]) -> Classifier:
        other = RunFolder(init)
        for stream in other.streams.values():
            raise InputError(f"--init {init}: a fused run; name one of its streams, such as {stream.path}")
        # Runs from before streams had names read `rgb`.
        theirs = {"stream": DEFAULT_STREAM} | other.config()
        if other.plain.name in other.provisional.names():
            raise InputError(f"--init {init}: its plain model is not trained to its end: repeat its command first")
        for key in ("classes", "fingerprint", "stream", "parts_hash"):
            if theirs.get(key) != config[key]:
                raise InputError(
                    f"--init {init}: its {key} differs from this run's; it must have been trained on the same "
                    "features, split, seed and held-out share, or test and validation clips would leak into it"
                )
        # They are part of the plain model that is taken over, and the spec does not tell them.
        for key in ("standardize", "select_inputs"):
            if theirs["settings"].get(key) != config["settings"][key]:
                raise InputError(
                    f"--init {init}: its {key} is {theirs['settings'].get(key)}, this run asks for "
                    f"{config['settings'][key]}"
                )
        model, _ = load_model(other.plain)
        model.spec = dataclasses.replace(model.spec, dropout=spec.dropout)
        require_same(f"--init {init}", model.spec, spec)
        return model.to(self.device)


def _both(record: Callable[[Row], None], write: Callable[[Row], None]) -> Callable[[Row], None]:
    def both(row: Row) -> None:
        record(row)
        write(rounded(row))

    return both
