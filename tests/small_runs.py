"""A small run on a made-up cache, for tests of what is done with a finished run."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from caches import TEST_SPLIT, made_up_cache
from click.testing import CliRunner, Result

from harvib import methods
from harvib.checkpoint import Checkpoint
from harvib.cli import main
from harvib.rundir import RunFolder
from harvib.settings import TrainSettings

Made = TypeVar("Made")

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


def train_command(cache: Path, run_dir: Path, *arguments: str) -> Result:
    """`harvib train` on the test split of a cache, from the command line."""
    where = ["--features", str(cache), "--split", TEST_SPLIT, "--run-dir", str(run_dir)]
    return CliRunner().invoke(main, ["train", *where, *arguments])


def assert_refused(result: Result, message: str) -> None:
    """Exit code 2 and one line that holds the message."""
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def small_run(folder: Path, method: str = "vib", name: str = "run", **changes: Any) -> Path:
    """A finished run in `folder`, made by `harvib.methods.train`; runs in one folder share a small cache."""
    cache = folder / "cache.h5"
    if not cache.is_file():
        made_up_cache(cache, classes=ODD_CLASSES, dim=DIM)
    settings = TrainSettings(**{**QUICK, "method": method, **changes})
    methods.train(cache, TEST_SPLIT, settings, folder / name, device=torch.device("cpu"))
    return folder / name


def epochs_of(run_dir: Path) -> list[dict[str, str]]:
    """metrics.csv without the column that tells time."""
    with (run_dir / "metrics.csv").open(newline="") as stream:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(stream)]


def report_of(run_dir: Path) -> dict[str, Any]:
    """report.json."""
    value: dict[str, Any] = json.loads((run_dir / "report.json").read_text())
    return value


def interrupt(patch: pytest.MonkeyPatch, stage: str, epoch: int, interval: float = 0.0) -> None:
    """Interrupt a run when it records this epoch, before (odd) or after (even) the row is written."""
    genuine = RunFolder.record

    def record(self: RunFolder, row: dict[str, Any]) -> None:
        here = (row["stage"], row["epoch"]) == (stage, epoch)
        if not here or epoch % 2 == 0:
            genuine(self, row)
        if here:
            raise KeyboardInterrupt

    patch.setattr(RunFolder, "record", record)
    patch.setattr(RunFolder, "checkpoint", property(lambda self: Checkpoint(self.path / "last", interval)))


def interrupted_and_resumed(train: Callable[[], Made], stage: str, epoch: int, interval: float = 0.0) -> Made:
    """What `train` makes of a run after it was interrupted when it recorded this epoch."""
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, stage, epoch, interval)
        with pytest.raises(KeyboardInterrupt):
            train()
    return train()


def assert_same_run(run_dir: Path, other: Path) -> None:
    """The same models, to the byte, by the same epochs."""
    names = {path.name for path in other.glob("*.safetensors")}
    assert names == {path.name for path in run_dir.glob("*.safetensors")} != set()
    for name in sorted(names):
        assert (run_dir / name).read_bytes() == (other / name).read_bytes(), name
    assert epochs_of(run_dir) == epochs_of(other)
