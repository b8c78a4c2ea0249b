"""The figures of a run, of its models on its parts, as they stand in report.json."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from harvib.classifier import Classifier
from harvib.compact import compact
from harvib.data import Parts
from harvib.devices import machine
from harvib.metrics import by_part, evaluate
from harvib.precision import dtype_of
from harvib.rundir import RunFolder, read_json
from harvib.settings import TrainSettings

AGREEMENT = 1e-5
_FROM_CONFIG = ("split", "versions", "fingerprint", "split_hash", "parts_hash", "views")


def report_of(
    folder: RunFolder,
    settings: TrainSettings,
    parts: Parts,
    device: torch.device,
    config: Mapping[str, Any],
    models: Mapping[str, Classifier],
    difference: float | None = None,
) -> dict[str, Any]:
    """The report of `models` by state: plain, and masked and compact where something was pruned.

    The last is the final one. `difference` is what `agreement` found.
    """
    report: dict[str, Any] = {state: figures(model, parts, device) for state, model in models.items()}
    if difference is not None:
        report["compaction"] = {"max_abs_difference": difference, "allowed": AGREEMENT}
    if "compact" in models:
        few = report["compact"]["parameters"]["total"]
        report["ratio"] = report["plain"]["parameters"]["total"] / few
        if folder.budget.is_file():
            report["budget"] = read_json(folder.budget) | {"reached": few}
    final = evaluate(list(models.values())[-1], parts.test, device)
    report["measure"] = final.measure
    if not final.several:
        report["confusion"] = final.confusion().tolist()
    seconds = {stage: folder.seconds(stage) for stage in ("plain", "vib", "lasso", "movement", "finetune")}
    for stage in ("lasso", "movement"):
        if not seconds[stage]:
            del seconds[stage]
    report |= {
        "seed": settings.seed,
        "seconds": seconds,
        "epochs": folder.epochs(),
        "method": settings.method,
        "device": str(device),
        "precision": str(dtype_of(settings.precision, device)).removeprefix("torch."),
        "machine": machine(),
    }
    return report | {key: config[key] for key in _FROM_CONFIG}


def figures(model: Classifier, parts: Parts, device: torch.device) -> dict[str, Any]:
    """Accuracies and the like, exact parameter counts, and what the model keeps."""
    return {
        **by_part({part: evaluate(model, getattr(parts, part), device) for part in ("validation", "test")}),
        "parameters": model.parameter_counts(),
        "inputs": len(model.kept_inputs()),
        "units": sum(map(sum, model.kept_units())),
        "shape": [list(widths) for widths in model.kept_units()],
    }


def agreement(masked: Classifier, small: Classifier, parts: Parts, device: torch.device) -> float:
    """Largest difference of the two models' logits over the validation part, relative to the largest logit.

    Compaction is exact, so a difference beyond rounding is a defect of this program: RuntimeError. Beyond
    AGREEMENT float64 decides: where features have means far larger than their spread, float32 alone rounds
    W (v - m) and W v - W m so differently.
    """

    def between(ours: Classifier, theirs: Classifier) -> float:
        a, b = (evaluate(model, parts.validation, device).logits for model in (ours, theirs))
        return float(np.abs(a - b).max() / max(1.0, np.abs(a).max()))

    difference = between(masked, small)
    if not difference <= AGREEMENT:
        precise = copy.deepcopy(masked).double()
        if not (exact := between(precise, compact(precise))) <= 1e-9:
            raise RuntimeError(f"compact and masked model differ by {exact:.2e} in float64")
    return difference
