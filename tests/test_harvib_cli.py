"""`harvib train` as a user types it: what is printed, exit codes, and one line for everything that is wrong."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caches import TEST_SPLIT, made_up_cache
from click.testing import CliRunner

from harfeat.cache import ClipRow, Failure
from harvib.cli import main
from harvib.rundir import RunFolder
from harvib.settings import TrainSettings

QUICK = (
    "--hidden=4", "--plain-epochs=1", "--vib-epochs=1", "--finetune-epochs=1", "--batch=8", "--device=cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up_cache(tmp_path_factory.mktemp("cache") / "c.h5")


def train(cache: Path, *arguments: str | Path, split: str = TEST_SPLIT) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    given = ["train", "--features", str(cache), "--split", split, *QUICK, *map(str, arguments)]
    result = CliRunner().invoke(main, given)
    return result.exit_code, result.stdout, result.stderr


def refused(cache: Path, *arguments: str | Path, split: str = TEST_SPLIT) -> str:
    """The one line of a refusal."""
    code, text, errors = train(cache, *arguments, split=split)
    assert (code, text) == (2, ""), errors
    assert errors.startswith("harvib: ")
    assert errors.count("\n") == 1
    return errors


def test_train_prints_a_table_and_where_the_run_is(cache: Path, tmp_path: Path) -> None:
    code, text, _ = train(cache, "--run-dir", tmp_path / "run", "--no-standardize", "--keep-scales")
    assert code == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    for state in ("plain", "masked", "compact"):
        (line,) = [line for line in text.splitlines() if line.startswith(state)]
        assert f"{report[state]['parameters']['total']:,}" in line
        assert f"{report[state]['accuracy']['test']:.1%}" in line
    assert text.rstrip().endswith(f"run folder: {tmp_path / 'run'}")
    chosen = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    assert (chosen["standardize"], chosen["keep_scales"], chosen["hidden"]) == (False, True, 4)


def test_run_folder_has_a_name_by_default(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, text, errors = train(cache, "--method=plain", "--seed=3")
    assert code == 0, errors
    assert "run folder: runs/c-held-plain-lstm-s3" in text
    assert (tmp_path / "runs" / "c-held-plain-lstm-s3" / "report.json").is_file()


def test_every_setting_is_an_option_with_its_default(tmp_path: Path) -> None:
    text = " ".join(CliRunner().invoke(main, ["train", "--help"], terminal_width=200).output.split())
    for item in dataclasses.fields(TrainSettings):
        name = item.name.replace("_", "-")
        assert (f"--{name} / --no-{name}" if isinstance(item.default, bool) else f"--{name} ") in text


WRONG = {
    "hidden": ["0", "-1"], "select_inputs": ["-1", "7"], "dropout": ["-0.1", "0.96", "nan", "inf"],
    "label_smoothing": ["0.6"], "beta": ["-1e-9", "nan", "inf"], "beta_input": ["-1"], "warmup": ["1.1"],
    "distill": ["2"], "temperature": ["0", "inf"], "plain_epochs": ["0"], "vib_epochs": ["0"],
    "finetune_epochs": ["-1"], "batch": ["0"], "lr": ["-1", "inf", "1e30"], "vib_lr": ["-1"], "mask_lr": ["nan"],
    "finetune_lr": ["-1"], "weight_decay": ["-1"], "clip_norm": ["0", "-1"], "validation": ["0", "0.6"],
    "seed": ["-1", "4294967296"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_value_out_of_range_is_refused_in_one_line(cache: Path, tmp_path: Path, name: str, value: str) -> None:
    option = f"--{name.replace('_', '-')}"
    message = refused(cache, f"{option}={value}", "--run-dir", tmp_path / "run")
    assert message.startswith(f"harvib: {option} ")


@pytest.mark.parametrize(
    "argument",
    ["--hidden=x", "--hidden=2.5", "--method=magic", "--model=transformer", "--readout=max", "--nothing=1"],
)
def test_a_value_of_the_wrong_kind_names_its_option(cache: Path, argument: str) -> None:
    code, _, errors = train(cache, argument)
    assert code == 2
    assert errors.startswith("harvib: ")
    assert errors.count("\n") == 1
    assert argument.partition("=")[0] in errors


def test_an_unknown_split_lists_those_that_exist(cache: Path, tmp_path: Path) -> None:
    message = refused(cache, "--run-dir", tmp_path / "run", split="testlist09")
    assert message.endswith("no split 'testlist09'; this cache has: held\n")
    assert not (tmp_path / "run").exists()


def test_missing_damaged_and_empty_caches_are_told(cache: Path, tmp_path: Path) -> None:
    def nothing(rows: list[ClipRow], features: list[np.ndarray]) -> tuple[list[ClipRow], list[np.ndarray]]:
        return [], []

    assert "none.h5: no such file" in refused(tmp_path / "none.h5")
    (tmp_path / "cut.h5").write_bytes(cache.read_bytes()[:3000])
    assert "cut.h5: " in refused(tmp_path / "cut.h5")
    assert "0 train and 0 test clips" in refused(made_up_cache(tmp_path / "empty.h5", change=nothing))


def test_a_cache_that_lacks_clips_is_refused_unless_that_is_allowed(tmp_path: Path) -> None:
    failures = [Failure("v_0_9_9", "no video stream"), Failure("v_1_9_9", "cut short")]
    path = made_up_cache(tmp_path / "c.h5", failures=failures)
    message = refused(path, "--run-dir", tmp_path / "run")
    assert "lacks 2 clips (first: v_0_9_9: no video stream)" in message
    assert "--allow-missing" in message
    code, _, errors = train(path, "--run-dir", tmp_path / "run", "--allow-missing", "--method=plain")
    assert code == 0, errors


def test_a_training_that_diverges_is_one_line_and_exit_code_2(cache: Path, tmp_path: Path) -> None:
    arguments = ("--run-dir", tmp_path / "run", "--lr=1e6", "--weight-decay=1e6", "--plain-epochs=4")
    code, _, errors = train(cache, *arguments)
    assert code == 2
    assert "harvib: training diverged in the plain stage" in errors.splitlines()[-1]
    assert errors.splitlines()[-1].endswith("lower --lr")


def test_what_starts_over_does_not_say_that_it_resumes(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("harvib.commands.evaluate.evaluate_run", stop)
    done = CliRunner().invoke(main, ["evaluate", "--model", str(cache.parent), "--features", str(cache)])
    assert (done.exit_code, done.stderr) == (130, "harvib: interrupted\n")


def test_an_interruption_ends_with_130_and_the_same_command_resumes(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: RunFolder, row: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "record", stop)
        code, _, errors = train(cache, "--run-dir", tmp_path / "run")
    assert code == 130
    assert errors.splitlines()[-1] == "harvib: interrupted; the same command resumes"
    code, _, errors = train(cache, "--run-dir", tmp_path / "run")
    assert code == 0, errors


def test_the_installed_command_works_from_any_folder(cache: Path, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("harvib")), "train", "--features", str(cache), "--split", "nope"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("harvib: ")
    assert "Traceback" not in done.stderr


def test_a_full_disk_ends_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "run" / "metrics.csv"))

    monkeypatch.setattr(RunFolder, "record", full)
    cache = made_up_cache(tmp_path / "cache.h5")
    result = CliRunner().invoke(
        main, ["train", "--features", str(cache), "--split", TEST_SPLIT, "--run-dir", str(tmp_path / "run")]
    )
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == f"harvib: {tmp_path / 'run' / 'metrics.csv'}: No space left on device"
