"""The stages of a run, from a cache to a finished run folder.

    plain   train the plain model, or take it from another run
    vib     train its masked form, compact it, fine-tune what is left

Every stage leaves its weights in the run folder, so that a repeated command goes on where it stopped.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harfeat.cache import DEFAULT_STREAM
from harvib.budget import Controller, gentle_start, land, smallest, target_of
from harvib.compact import compact
from harvib.data import Parts, load_parts
from harvib.devices import best_device, machine
from harvib.errors import InputError
from harvib.lasso import GroupLasso, freeze_masks, lasso_of
from harvib.maxdrop import within_drop
from harvib.metrics import evaluate
from harvib.models import ModelSpec, SequenceClassifier, masked_from
from harvib.runconfig import Given, config_of, plain_spec
from harvib.rundir import RunFolder, read_json, write_json
from harvib.selection import select_inputs
from harvib.settings import TrainSettings
from harvib.source import Source, opened, require_complete, source_of
from harvib.train import Stage, fit, soft_targets
from harvib.weights import ModelCard, load_model, save_model

AGREEMENT = 1e-5
BUDGET = "budget.json"
"""What the search for a parameter budget found, in the run folder."""


def train(
    features: Path | Source,
    split: str,
    settings: TrainSettings,
    run_dir: Path,
    init: Path | Given | None = None,
    device: torch.device | None = None,
    allow_missing: bool = False,
) -> dict[str, Any]:
    """Run all stages of `settings.method`; the report, which also stands in the run folder.

    `features` is a cache, or `cache::stream` where it has several. `init` is a finished run whose plain model is
    taken over, or a model from elsewhere. The same call on the same folder resumes, and returns the report where
    the run is finished. Raises InputError and CacheError.
    """
    device = device or best_device()
    source = source_of(features)
    with opened(source) as (cache, stream):
        require_complete(cache, allow_missing)
        parts = load_parts(cache, split, settings.validation, settings.seed, settings.views, stream, source.names)
        card = ModelCard(cache.classes, cache.fingerprint, stream)
        config = config_of(cache, stream, split, settings, parts, init)
    target_of(settings, plain_spec(settings, parts.train.dim, card))
    folder = RunFolder(run_dir)
    folder.begin(config)
    if folder.report_path.is_file():
        return folder.report()
    stages = _Stages(folder, settings, parts, card, device)
    plain = stages.plain(init, config)
    if settings.max_drop >= 0:
        return _within_drop(stages, plain, config)
    return _finished(stages, plain, config)


def _finished(stages: _Stages, plain: SequenceClassifier, config: dict[str, Any]) -> dict[str, Any]:
    """The report of a run, after all that follows its plain model."""
    folder, settings, parts, device = stages.folder, stages.settings, stages.parts, stages.device
    report: dict[str, Any] = {"plain": stages.figures(plain)}
    final = plain
    if settings.method != "plain":
        masked = stages.masked(plain)
        small = compact(masked)
        report["masked"] = stages.figures(masked)
        report["compaction"] = {"max_abs_difference": stages.agreement(masked, small), "allowed": AGREEMENT}
        final = stages.finetuned(small, plain)
        report["compact"] = stages.figures(final)
        counts = (report[state]["parameters"] for state in ("plain", "compact"))
        large, few = (count["total"] for count in counts)
        report["ratio"] = large / few
        if (folder.path / BUDGET).is_file():
            report["budget"] = read_json(folder.path / BUDGET) | {"reached": few}
    save_model(folder.model, final, stages.card)
    report["confusion"] = evaluate(final, parts.test, device).confusion().tolist()
    seconds = {stage: folder.seconds(stage) for stage in ("plain", "vib", "lasso", "finetune")}
    if not seconds["lasso"]:
        del seconds["lasso"]
    report |= {"seed": settings.seed, "seconds": seconds, "versions": config["versions"]}
    report |= {
        "method": settings.method,
        "split": config["split"],
        "device": str(device),
        "machine": machine(),
    }
    report |= {key: config[key] for key in ("fingerprint", "split_hash", "parts_hash", "views")}
    write_json(folder.report_path, report)
    folder.checkpoint.clear()
    return report


def _within_drop(stages: _Stages, plain: SequenceClassifier, config: dict[str, Any]) -> dict[str, Any]:
    settings = stages.settings
    accuracy = evaluate(plain, stages.parts.validation, stages.device).accuracy
    sizes = plain.parameter_counts()["total"], smallest(plain.spec, settings.scales_stay)

    def run(target: int, folder: RunFolder) -> None:
        chosen = dataclasses.replace(settings, max_drop=-1.0, target_params=target)
        ours = config | {"settings": dataclasses.asdict(chosen)}
        folder.begin(ours)
        if not folder.report_path.is_file():
            _finished(dataclasses.replace(stages, folder=folder, settings=chosen), plain, ours)

    floor = accuracy - settings.max_drop / 100
    return within_drop(stages.folder, floor, sizes, settings.max_drop, run)


@dataclasses.dataclass(frozen=True, eq=False)
class _Stages:
    """The stages, with what all of them need."""

    folder: RunFolder
    settings: TrainSettings
    parts: Parts
    card: ModelCard
    device: torch.device

    def plain(self, init: Path | Given | None, config: dict[str, Any]) -> SequenceClassifier:
        """The trained plain model: from this folder, from `init`, or trained now."""
        path, settings = self.folder.plain, self.settings
        if path.is_file():
            return self._load(path)
        model = self._new_plain()
        if init is None:
            stage = Stage("plain", 1, settings.plain_epochs, settings.lr, select_best=True, remedy="--lr")
            self._fit(model, stage, None)
        elif isinstance(init, Given):
            given = copy.deepcopy(init.model)
            given.spec = dataclasses.replace(given.spec, dropout=model.spec.dropout)
            if given.spec != model.spec:
                raise InputError(f"{init.origin} is {given.spec}, this run asks for {model.spec}")
            model = given.to(self.device)
        else:
            model = self._initial(init, model.spec, config)
        save_model(path, model, self.card)
        return model.eval()

    def masked(self, plain: SequenceClassifier) -> SequenceClassifier:
        """The model with its masks after VIB training, group lasso, or both.

        Its last epoch, not its best: while the penalty grows the best is the one that is pruned the least.
        """
        path, settings = self.folder.masked, self.settings
        if path.is_file():
            return self._load(path)
        lasso = lasso_of(settings)
        if settings.method == "lasso":
            torch.manual_seed(settings.seed)
            model = masked_from(plain)
            freeze_masks(model, open_all=True)
        else:
            model = self._after_vib(plain, lasso if settings.lasso_time == "with-vib" else None)
        if lasso is not None and (settings.method == "lasso" or settings.lasso_time == "after-vib"):
            freeze_masks(model)
            stage = Stage("lasso", 4, settings.lasso_epochs, settings.lasso_lr, False, "--lasso-lr")
            self._fit(model, stage, plain, lasso=lasso)
            lasso.finish(model)
        save_model(path, model, self.card)
        return model.eval()

    def _after_vib(self, plain: SequenceClassifier, lasso: GroupLasso | None) -> SequenceClassifier:
        settings = self.settings
        # Where a lasso stage follows, the checkpoint becomes that stage's.
        path = self.folder.path / "last" / "vib.safetensors"
        if path.is_file():
            return self._load(path)
        torch.manual_seed(settings.seed)
        model = masked_from(plain)
        stage = Stage("vib", 2, settings.vib_epochs, settings.vib_lr, False, "--vib-lr, --mask-lr or the betas")
        target = target_of(settings, plain.spec)
        controller = None
        if target is not None:
            controller = Controller(target, settings.scales_stay, gentle_start(model, settings))
        self._fit(model, stage, plain, controller, lasso)
        if lasso is not None:
            lasso.finish(model)
        if controller is not None:
            self._land(model, controller)
        if settings.lasso_time == "after-vib" and lasso_of(settings) is not None:
            path.parent.mkdir(exist_ok=True)
            save_model(path, model, self.card)
        return model

    def _land(self, model: SequenceClassifier, controller: Controller) -> None:
        """Bring the masks exactly to the target, and note what strength led there."""

        def score(masked: SequenceClassifier) -> tuple[float, float]:
            result = evaluate(masked, self.parts.validation, self.device)
            return result.accuracy, -result.loss

        before = {"inputs": len(model.kept_inputs()), "units": sum(map(sum, model.kept_units()))}
        land(model, controller.target, controller.factors, score)
        found = {
            "target": controller.target,
            "strength": controller.strength,
            "beta": self.settings.beta * controller.strength,
            "beta_input": self.settings.beta_input * controller.strength,
            "before_landing": before,
        }
        write_json(self.folder.path / BUDGET, found)

    def finetuned(self, small: SequenceClassifier, plain: SequenceClassifier) -> SequenceClassifier:
        """The compact model, trained on."""
        settings = self.settings
        if settings.finetune_epochs == 0:
            return small
        if not settings.keep_scales:
            small.recurrent.use_hard_scales()
        small.spec = dataclasses.replace(small.spec, dropout=settings.finetune_dropout)
        stage = Stage("finetune", 3, settings.finetune_epochs, settings.finetune_lr, True, "--finetune-lr")
        self._fit(small, stage, plain)
        return small.eval()

    def figures(self, model: SequenceClassifier) -> dict[str, Any]:
        """Accuracies, exact parameter counts, and what the model keeps."""
        validation = evaluate(model, self.parts.validation, self.device)
        test = evaluate(model, self.parts.test, self.device)
        return {
            "accuracy": {"validation": validation.accuracy, "test": test.accuracy},
            "loss": {"validation": validation.loss, "test": test.loss},
            "parameters": model.parameter_counts(),
            "inputs": len(model.kept_inputs()),
            "units": sum(map(sum, model.kept_units())),
            "shape": [list(widths) for widths in model.kept_units()],
        }

    def agreement(self, masked: SequenceClassifier, small: SequenceClassifier) -> float:
        """Largest difference of the two models' logits over the validation part, relative to the largest logit.

        Compaction is exact, so a difference beyond rounding is a defect of this program: RuntimeError. Beyond
        AGREEMENT float64 decides: where features have means far larger than their spread, float32 alone rounds
        W (v - m) and W v - W m so differently.
        """
        difference = self._difference(masked, small)
        if not difference <= AGREEMENT:
            precise = copy.deepcopy(masked).double()
            if not (exact := self._difference(precise, compact(precise))) <= 1e-9:
                raise RuntimeError(f"compact and masked model differ by {exact:.2e} in float64")
        return difference

    def _difference(self, masked: SequenceClassifier, small: SequenceClassifier) -> float:
        ours = evaluate(masked, self.parts.validation, self.device).logits
        theirs = evaluate(small, self.parts.validation, self.device).logits
        return float(np.abs(ours - theirs).max() / max(1.0, np.abs(ours).max()))

    def _fit(
        self,
        model: SequenceClassifier,
        stage: Stage,
        teacher: SequenceClassifier | None,
        controller: Controller | None = None,
        lasso: GroupLasso | None = None,
    ) -> None:
        checkpoint = self.folder.checkpoint
        position = checkpoint.position()
        self.folder.rewind(stage.name, position[1] if position and position[0] == stage.name else 0)
        targets = None
        if teacher is not None and self.settings.distill > 0:
            targets = soft_targets(teacher, self.parts, self.device)
        settings = self.settings
        if stage.name == "lasso":
            settings = dataclasses.replace(settings, beta=0.0, beta_input=0.0)
        record = self.folder.record
        fit(model, stage, self.parts, settings, self.device, checkpoint, record, targets, controller, lasso)

    def _load(self, path: Path) -> SequenceClassifier:
        return load_model(path)[0].to(self.device)

    def _new_plain(self) -> SequenceClassifier:
        settings, train = self.settings, self.parts.train
        selected = select_inputs(train, settings.select_inputs)
        spec = plain_spec(settings, train.dim, self.card)
        torch.manual_seed(settings.seed)
        model = SequenceClassifier(spec)
        model.selection.copy_(selected)
        if settings.standardize:
            mean, std = train.statistics()
            model.standardize_by(mean[selected], std[selected])
        return model.to(self.device)

    def _initial(self, init: Path, spec: ModelSpec, config: dict[str, Any]) -> SequenceClassifier:
        other = RunFolder(init)
        for stream in other.streams.values():
            raise InputError(f"--init {init}: a fused run; name one of its streams, such as {stream.path}")
        # Runs from before streams had names read `rgb`.
        theirs = {"stream": DEFAULT_STREAM} | other.config()
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
        if model.spec != spec:
            raise InputError(f"--init {init}: its plain model is {model.spec}, this run asks for {spec}")
        return model.to(self.device)
