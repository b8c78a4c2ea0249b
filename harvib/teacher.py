"""The teacher of a run where it is not its own plain model: the final model of another finished run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harfeat.cache import DEFAULT_STREAM, Cache
from harvib.data import load_parts
from harvib.errors import InputError
from harvib.joined import joined
from harvib.rundir import RunFolder
from harvib.settings import TrainSettings
from harvib.train import soft_targets
from harvib.weights import load_model


def targets_of(
    teacher: Path,
    cache: Cache,
    settings: TrainSettings,
    config: Mapping[str, Any],
    names: Sequence[str] | None,
    device: torch.device,
) -> Tensor:
    """Soft targets of the run `teacher`, (train clips, C) logits, for the run of this config on this cache.

    It may have read any stream of the cache, and be of any cells and size. Raises InputError where it is not
    finished, or was trained on other features or other clips.
    """
    option, other = f"--teacher {teacher}", RunFolder(teacher)
    if settings.distill == 0:
        raise InputError(f"{option}: --distill 0 leaves its soft targets out; give it a weight")
    if settings.method == "plain" and config["init"] is not None:
        raise InputError(f"{option}: --method plain with --init trains nothing; leave one out")
    if settings.method == "magnitude" and settings.finetune_epochs == 0:
        raise InputError(
            f"{option}: --method magnitude with --finetune-epochs 0 trains nothing after the plain model; "
            "leave one out"
        )
    for stream in other.streams.values():
        raise InputError(f"{option}: a fused run; name one of its streams, such as {stream.path}")
    if "interrupted" in other.report():
        raise InputError(f"{option}: interrupted before its final model: repeat its command first")
    if other.backbone.is_file():
        raise InputError(f"{option}: a run on videos, whose features no cache holds; name a run on --features")
    # Runs from before streams had names read `rgb`.
    theirs = {"stream": DEFAULT_STREAM} | other.config()
    for key in ("classes", "fingerprint", "parts_hash"):
        if theirs.get(key) != config[key]:
            raise InputError(
                f"{option}: other {key} than this run's; it must have been trained on the same features "
                "(any stream), split, seed and held-out share, or test and validation clips would leak into it"
            )
    model, _ = load_model(other.model)
    cache = joined(cache, theirs["stream"])
    if (dim := cache.dim(theirs["stream"])) != model.spec.features:
        raise InputError(f"{option}: reads {model.spec.features} values a step; {cache.path} has {dim}")
    parts = load_parts(
        cache, config["split"], settings.validation, settings.seed, stream=theirs["stream"], names=names
    )
    return soft_targets(model.to(device), parts, device)
