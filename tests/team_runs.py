"""Runs of several settings in one process, or in each of torchrun's: a program, and the settings for its test."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from caches import TEST_SPLIT

from harvib import methods
from harvib.distributed import Team, joined
from harvib.manner import Manner
from harvib.settings import TrainSettings

CPU = torch.device("cpu")
_SHORT: dict[str, Any] = {
    "hidden": 6, "plain_epochs": 4, "vib_epochs": 4, "finetune_epochs": 4, "batch": 5, "lr": 2e-2, "vib_lr": 2e-3,
    "mask_lr": 0.2, "beta": 0.05, "beta_input": 0.05, "validation": 0.3,
}  # fmt: skip
RUNS: dict[str, dict[str, Any]] = {
    "plain": {"method": "plain", "dropout": 0.0},
    "noise": {"dropout": 0.4, "lasso": 1e-3, "lasso_input": 1e-3},
    "budget": {"target_ratio": 2.0, "patience": 2},
    "movement": {"method": "movement", "movement_epochs": 4, "movement_lr": 1e-2, "target_ratio": 2.0},
    "pooling": {"model": "dbof", "clusters": "8", "bags": 2, "bag_frames": 2, "circulant": "fc"},
    "a clip a step": {"batch": 1, "plain_epochs": 2, "vib_epochs": 2, "finetune_epochs": 1},
}


def run_all(cache: Path, out: Path, team: Team) -> None:
    """Do all RUNS into folders of `out`; each process but the first then leaves its final models beside them."""
    for name, fields in RUNS.items():
        with team.folder(out / name) as folder:
            settings = TrainSettings(**{**_SHORT, **fields})
            methods.train(cache, TEST_SPLIT, settings, folder, device=CPU, manner=Manner(team=team))
            if not team.first:
                (folder / "model.safetensors").rename(out / f"{name} {team.rank}.safetensors")


if __name__ == "__main__":
    with joined(CPU) as found:
        run_all(Path(sys.argv[1]), Path(sys.argv[2]), found)
        # Only the first process sees what is wrong here; the others wait for it at the first step.
        with found.folder(Path(sys.argv[3])) as folder:
            short, manner = TrainSettings(**_SHORT), Manner(team=found)
            methods.train(Path(sys.argv[1]), TEST_SPLIT, short, folder, device=CPU, manner=manner)
