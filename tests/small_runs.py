"""A small run on a made-up cache, for tests of what is done with a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from caches import TEST_SPLIT, made_up_cache

from harvib import methods
from harvib.settings import TrainSettings

ODD_CLASSES = ("walk & <b>run</b>", 'jump "high" $x_1$ $y$', "golf;#1 'swing'", "öl {{ 7 * 7 }}")
DIM = 12

QUICK: dict[str, Any] = {
    "hidden": 8,
    "beta": 0.02,
    "beta_input": 0.02,
    "distill": 0.0,
    "standardize": True,
    "weight_decay": 0.0,
    "plain_epochs": 8,
    "vib_epochs": 20,
    "finetune_epochs": 4,
    "batch": 8,
    "lr": 2e-2,
    "vib_lr": 2e-3,
    "mask_lr": 0.2,
}
"""Enough for the masks to drop something, in about a second."""


def small_run(folder: Path, method: str = "vib") -> Path:
    """A finished run folder in `folder`, made by `harvib.methods.train` on a small cache."""
    cache = made_up_cache(folder / "cache.h5", classes=ODD_CLASSES, dim=DIM)
    settings = TrainSettings(**{**QUICK, "method": method})
    methods.train(cache, TEST_SPLIT, settings, folder / "run", device=torch.device("cpu"))
    return folder / "run"
