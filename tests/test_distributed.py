"""Training in several processes by torchrun: the same results as in one, one writer, and an end for all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from caches import TEST_SPLIT, made_up_cache
from team_runs import RUNS, run_all

from harvib.data import Batch
from harvib.distributed import ALONE, Team
from harvib.rundir import RunFolder
from harvib.weights import load_model

TESTS = Path(__file__).parent
FINAL = "model.safetensors"


def torchrun(*arguments: str | Path, processes: int = 2) -> subprocess.Popen[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    program = [sys.executable, *launcher]
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    return subprocess.Popen(
        [*program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up_cache(tmp_path_factory.mktemp("cache") / "c.h5")


@pytest.fixture(scope="module")
def outs(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """RUNS by one process, and by two; then a run that fails for the first of the two alone."""
    out = tmp_path_factory.mktemp("runs")
    (out / "two").mkdir()
    (out / "photos").mkdir()
    (out / "photos" / "a.jpg").write_bytes(b"x")
    started = torchrun(TESTS / "team_runs.py", cache, out / "two", out / "photos")
    run_all(cache, out / "one", ALONE)
    _, errors = started.communicate(timeout=300)
    (out / "errors.txt").write_text(errors)
    return out / "one", out / "two"


@pytest.mark.parametrize("name", list(RUNS))
def test_two_processes_train_what_one_does(outs: tuple[Path, Path], name: str) -> None:
    (ours, _), (theirs, _) = (load_model(out / name / FINAL) for out in outs)
    assert ours.spec == theirs.spec
    for key, value in ours.state_dict().items():
        # Adam divides by the size of the gradient: where that is nearly zero, rounding is no longer small.
        torch.testing.assert_close(theirs.state_dict()[key], value, rtol=0, atol=1e-5 if name == "plain" else 1e-3)
    one, two = (RunFolder(out / name) for out in outs)
    assert len(one.rows()) == len(two.rows())
    for mine, other in zip(one.rows(), two.rows(), strict=True):
        for column in ("stage", "epoch", "best_epoch", "inputs_kept", "units_kept"):
            assert mine[column] == other[column]
        for column in ("loss", "ce", "train_accuracy", "val_loss"):
            assert float(other[column]) == pytest.approx(float(mine[column]), rel=1e-3)
    assert (
        one.report()["compact" if name != "plain" else "plain"]["parameters"]
        == (two.report()["compact" if name != "plain" else "plain"]["parameters"])
    )


@pytest.mark.parametrize("name", list(RUNS))
def test_all_processes_end_with_the_same_bits_and_one_has_written(outs: tuple[Path, Path], name: str) -> None:
    _, two = outs
    first = (two / name / FINAL).read_bytes()
    assert (two / f"{name} 1.safetensors").read_bytes() == first
    names = {path.name for path in (outs[0] / name).iterdir()}
    assert {path.name for path in (two / name).iterdir()} == names


def test_an_error_of_one_process_ends_all(outs: tuple[Path, Path]) -> None:
    # That the launch came to an end at all is the point: the other process waits for the one that failed.
    errors = (outs[0].parent / "errors.txt").read_text()
    assert "is in use by something else: choose another --run-dir" in errors
    assert [path.name for path in (outs[0].parent / "photos").iterdir()] == ["a.jpg"]


def arguments(cache: Path, run_dir: Path, **fields: Any) -> list[str]:
    options = {f"--{name.replace('_', '-')}": str(value) for name, value in fields.items()}
    places = ["--features", str(cache), "--split", TEST_SPLIT, "--run-dir", str(run_dir), "--device", "cpu"]
    return ["-m", "harvib", "train", *places, *(word for option in options.items() for word in option)]


def test_ctrl_c_under_torchrun_ends_the_epoch_of_all_and_one_writes_the_report(
    cache: Path, tmp_path: Path
) -> None:
    fields = {"hidden": 6, "batch": 1, "plain_epochs": 3, "vib_epochs": 3000}
    started = torchrun(*arguments(cache, tmp_path / "run", **fields))
    end = time.monotonic() + 120
    while not any(row["stage"] == "vib" for row in RunFolder(tmp_path / "run").rows()):
        assert started.poll() is None, started.communicate()[1]
        assert time.monotonic() < end, "no epoch was recorded"
        time.sleep(0.05)
    started.send_signal(signal.SIGINT)
    printed, errors = started.communicate(timeout=120)
    assert started.returncode != 0
    report = RunFolder(tmp_path / "run").report()
    rows = RunFolder(tmp_path / "run").rows()
    assert report["interrupted"]["stage"] == "vib"
    assert str(report["interrupted"]["epoch"]) == rows[-1]["epoch"]
    assert errors.count("harvib: interrupted after epoch") == 1
    assert printed.count("run folder:") == 1
    assert RunFolder(tmp_path / "run").checkpoint.position() == ("vib", int(rows[-1]["epoch"]))


def test_shares_cover_a_batch_once_whatever_the_number_of_processes() -> None:
    for clips in (1, 2, 5, 8):
        batch = Batch(torch.rand(clips, 2, 3), torch.ones(clips), torch.zeros(clips), torch.arange(clips))
        for world in (1, 2, 3, 7):
            parts = [Team(rank, world).own(batch) for rank in range(world)]
            taken = [own.positions for own, share in parts if share.part]
            assert torch.cat(taken).tolist() == list(range(clips))
            assert sum(share.part for _, share in parts) == pytest.approx(1)
            for own, share in parts:
                assert len(own.labels) >= 1, "a forward pass needs a clip"
                assert (share.first, share.whole) == (int(own.positions[0]), clips)
