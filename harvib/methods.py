"""A run from a cache to a finished run folder: its stages (harvib/stages.py) one by one, and its report."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import torch

from harvib.budget import target_of
from harvib.classifier import Classifier
from harvib.compact import compact
from harvib.data import load_parts
from harvib.devices import best_device
from harvib.events import events, needs_tensorboard
from harvib.front import exported
from harvib.interrupt import Stopped
from harvib.manner import Manner
from harvib.maxdrop import within_drop
from harvib.metrics import evaluate
from harvib.outcome import agreement, report_of
from harvib.precision import dtype_of
from harvib.runconfig import Given, config_of, plain_spec
from harvib.rundir import RunFolder, write_json
from harvib.settings import TrainSettings
from harvib.source import Source, opened, require_complete, source_of
from harvib.stages import Stages
from harvib.teacher import targets_of
from harvib.unfinished import unfinished
from harvib.weights import card_of, save_model


def train(
    features: Path | Source,
    split: str,
    settings: TrainSettings,
    run_dir: Path,
    init: Path | Given | None = None,
    device: torch.device | None = None,
    allow_missing: bool = False,
    manner: Manner | None = None,
    teacher: Path | None = None,
) -> dict[str, Any]:
    """Run all stages of `settings.method`; the report, which also stands in the run folder.

    `features` is a cache, or `cache::stream` where it has several. `init` is a finished run whose plain model is
    taken over, or a model from elsewhere; `teacher` a finished run whose final model gives the soft targets,
    in place of the run's own plain model. The same call on the same folder resumes, and returns the report where
    the run is finished. Where `manner.stop` asks, the run ends early with a report that says `interrupted`, and
    the same call goes on from there. Raises InputError and CacheError.
    """
    device, manner = device or best_device(), manner or Manner()
    dtype_of(settings.precision, device)
    if manner.tensorboard:
        needs_tensorboard()
    source = source_of(features)
    with opened(source) as (cache, stream):
        require_complete(cache, allow_missing)
        common = (settings.validation, settings.seed, settings.views, stream, source.names, settings.halves)
        parts = load_parts(cache, split, *common)
        card = card_of(cache, stream)
        config = config_of(cache, stream, split, settings, parts, init, teacher)
        folder, targets = RunFolder(run_dir), None
        if teacher is not None and not folder.is_finished():
            targets = targets_of(teacher, cache, settings, config, source.names, device)
    target_of(settings, plain_spec(settings, parts.train.dim, card))
    folder.begin(config)
    if folder.is_finished():
        return reported(folder, manner)
    stages = Stages(folder, settings, parts, card, device, manner, targets=targets)
    return run_stages(stages, config, init)


def reported(folder: RunFolder, manner: Manner) -> dict[str, Any]:
    """The report of a run that is over, interrupted or finished, told to TensorBoard too where asked for."""
    if manner.tensorboard and manner.team.first:
        with events(folder.path, folder.rows()):
            pass
    return folder.report()


def run_stages(stages: Stages, config: dict[str, Any], init: Path | Given | None = None) -> dict[str, Any]:
    """Carry out, or go on with, the stages of a run whose folder has begun; its report. Raises InputError."""
    folder, manner = stages.folder, stages.manner
    folder.provisional.undo()
    with manner.stop or contextlib.nullcontext():
        try:
            _all(stages, init, config)
        except Stopped as stopped:
            unfinished(stages, config, stopped)
    return reported(folder, manner)


def _all(stages: Stages, init: Path | Given | None, config: dict[str, Any]) -> dict[str, Any]:
    plain = stages.plain(init, config)
    if stages.settings.max_drop >= 0:
        return _within_drop(stages, plain, config)
    return _finished(stages, plain, config)


def _finished(stages: Stages, plain: Classifier, config: dict[str, Any]) -> dict[str, Any]:
    """The report of a run, after all that follows its plain model."""
    folder, settings, parts, device = stages.folder, stages.settings, stages.parts, stages.device
    models, difference, final = {"plain": plain}, None, plain
    if settings.method != "plain":
        masked = stages.masked(plain)
        small = compact(masked)
        difference = agreement(masked, small, parts, device)
        try:
            final = stages.finetuned(small, plain)
        except Stopped as stopped:
            stopped.masked = masked
            raise
        models |= {"masked": masked, "compact": final}
    told = exported(stages.ahead, folder.path, final.front)
    save_model(folder.model, final, stages.card)
    report = report_of(folder, settings, parts, device, config, models, difference) | told
    write_json(folder.report_path, report)
    folder.checkpoint.clear()
    return report


def _within_drop(stages: Stages, plain: Classifier, config: dict[str, Any]) -> dict[str, Any]:
    settings = stages.settings
    found = evaluate(plain, stages.parts.validation, stages.device)
    least = plain.spec.smallest(settings.scales_stay, settings.units_stay)
    sizes = plain.parameter_counts()["total"], least

    def run(target: int, folder: RunFolder) -> None:
        chosen = dataclasses.replace(settings, max_drop=-1.0, target_params=target)
        ours = config | {"settings": dataclasses.asdict(chosen)}
        folder.begin(ours)
        if not folder.is_finished():
            _finished(dataclasses.replace(stages, folder=folder, settings=chosen), plain, ours)

    floor = found.score - settings.max_drop / 100
    return within_drop(stages.folder, floor, sizes, settings.max_drop, run, found.measure)
