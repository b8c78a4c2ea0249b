"""What an interrupted run leaves for a look at it, made in the cheapest valid way of the model at hand.

The plain model: that alone. The masked one: compacted, brought to the parameter budget where there is one, not
fine-tuned. The compact one: as far as it was fine-tuned. Nothing of it is taken for a finished stage; see
harvib/interrupt.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from harvib.budget import land, target_of
from harvib.classifier import Classifier
from harvib.compact import compact
from harvib.data import Parts
from harvib.errors import InputError
from harvib.front import exported
from harvib.interrupt import Stopped
from harvib.lasso import freeze_masks, lasso_of
from harvib.magnitude import rank_by_norm
from harvib.metrics import evaluate
from harvib.outcome import agreement, report_of
from harvib.rundir import write_json
from harvib.stages import Stages
from harvib.weights import front_file, load_whole, save_model, save_whole


def unfinished(stages: Stages, config: Mapping[str, Any], stopped: Stopped) -> dict[str, Any]:
    """The report of an interrupted run, written with its models; it says how far the run came, `interrupted`.

    Where nothing can be compacted yet the report is of the plain model alone and says why, `not_pruned`.
    KeyboardInterrupt where there is no model at all.
    """
    folder, settings, parts, card = stages.folder, stages.settings, stages.parts, stages.card
    device, ahead = stages.device, stages.ahead
    told: dict[str, Any] = dict(stopped.told)
    models: dict[str, Classifier] = {}
    difference: float | None = None
    files: list[Path] = []
    if stopped.stage == "plain":
        if stopped.epoch == 0:
            raise KeyboardInterrupt
        models["plain"] = stopped.model.eval()
        files.append(folder.plain)
    else:
        models["plain"] = load_whole(folder.plain, ahead).to(device)
        try:
            masked, small = _pruned(parts, device, stopped)
            difference = agreement(masked, compact(masked), parts, device)
            models |= {"masked": masked, "compact": small}
        except InputError as error:
            told["not_pruned"] = str(error)
    final = list(models.values())[-1]
    if "masked" in models and not folder.masked.is_file():
        files.append(folder.masked)
    made_of_it = [folder.path / name for name in ("bench.json", "report.html")]
    if ahead is not None:
        made_of_it += [*map(front_file, files), folder.backbone]
    folder.provisional.begin([*files, folder.model, folder.report_path, *made_of_it])
    for file in files:
        save_whole(file, models["plain" if file == folder.plain else "masked"], card)
    backbone = exported(ahead, folder.path, final.front)
    save_model(folder.model, final, card)
    report = report_of(folder, settings, parts, device, config, models, difference) | backbone
    report["interrupted"] = told
    write_json(folder.report_path, report)
    return report


def _pruned(parts: Parts, device: torch.device, stopped: Stopped) -> tuple[Classifier, Classifier]:
    """The masked and the compact model."""
    if stopped.masked is not None:
        return stopped.masked.to(device), stopped.model.to(device).eval()
    settings, masked = stopped.settings, stopped.model.eval()
    lasso, target = lasso_of(settings), target_of(settings, masked.spec)
    if lasso is not None and (stopped.stage == "lasso" or settings.lasso_time == "with-vib"):
        lasso.finish(masked, landing=target is not None)

    def score(model: Classifier) -> tuple[float, float]:
        result = evaluate(model, parts.validation, device)
        return result.score, -result.loss

    if target is not None:
        if settings.ranks_groups:
            (stopped.rank or rank_by_norm)(masked)
        land(masked, target, settings.scales_stay, score)
        if settings.ranks_groups:
            freeze_masks(masked)
    return masked, compact(masked)
