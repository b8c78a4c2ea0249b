"""A saved model on any cache with the same classes and the same kind of features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from harfeat.cache import ROLES, open_cache
from harvib.data import load_clips
from harvib.errors import InputError
from harvib.metrics import evaluate
from harvib.rundir import RunFolder
from harvib.weights import load_model


def evaluate_run(
    model: Path, features: Path, split: str | None, subset: str, device: torch.device
) -> dict[str, Any]:
    """Accuracy, loss and confusion matrix of a run folder's final model, or of a model file.

    Without `split` all clips of the cache count. Raises InputError where classes or fingerprint differ.
    """
    network, card = load_model(RunFolder(model).model if model.is_dir() else model)
    network.to(device)
    with open_cache(features) as cache:
        if cache.classes != card.classes:
            raise InputError(
                f"{features}: classes differ from the model's: {len(cache.classes)} against {len(card.classes)}"
                f"{_first_difference(cache.classes, card.classes)}"
            )
        if cache.fingerprint != card.fingerprint:
            raise InputError(
                f"{features}: feature fingerprint {cache.fingerprint[:12]} is not the model's "
                f"{card.fingerprint[:12]}: extract with the settings of the cache it was trained on"
            )
        clips = load_clips(cache)
        if clips.dim != network.spec.features:
            raise InputError(
                f"{features}: {clips.dim} values a row, the model was made for {network.spec.features}"
            )
        if split is not None:
            clips = clips.subset(np.flatnonzero(cache.split(split).roles == ROLES[subset]))
        if not len(clips):
            where = "" if split is None else f" in the {subset} part of split {split}"
            raise InputError(f"{features}: no clips{where}")
    result = evaluate(network, clips, device)
    return {
        "accuracy": result.accuracy,
        "loss": result.loss,
        "clips": len(clips),
        "parameters": network.parameter_counts(),
        "classes": list(card.classes),
        "confusion": result.confusion().tolist(),
    }


def _first_difference(ours: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    for a, b in zip(ours, theirs, strict=False):
        if a != b:
            return f", first {a!r} against {b!r}"
    return ""
