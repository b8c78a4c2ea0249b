"""Runs with structured matrices and with the cell linear, from a cache to a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from caches import TEST_SPLIT
from click.testing import CliRunner
from small_runs import QUICK, assert_refused, assert_same_run, interrupt, small_run, train_command

from harvib import methods
from harvib.bench import BenchSettings, bench_run
from harvib.cli import main
from harvib.evaluate import evaluate_run
from harvib.settings import TrainSettings
from harvib.weights import load_model

TT: dict[str, Any] = {"factorize": "tt", "rank": 3, "standardize": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("factorised")


def test_a_plain_tensor_train_run_learns_and_is_reported(folder: Path) -> None:
    run = small_run(folder, "plain", "tt-plain", **TT, plain_epochs=25)
    report = json.loads((run / "report.json").read_text())
    # 12 = 3x4 inputs, 8 = 2x4 units: cores 8 x 3 x 3 and 3 x 4 x 4.
    assert report["plain"]["parameters"]["input_to_hidden"] == 8 * 3 * 3 + 3 * 4 * 4
    assert report["plain"]["accuracy"]["test"] >= 0.6, "a quarter would be chance"
    assert (
        report["plain"]["accuracy"]["test"]
        == evaluate_run(run, folder / "cache.h5", TEST_SPLIT, "test", torch.device("cpu"))["accuracy"]
    )


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("tt", TT),
        ("tt-hidden", {**TT, "factorize_hidden": True}),
        ("projected", {**TT, "project": 4}),
        ("linear-tt", {**TT, "model": "linear"}),
    ],
)
def test_a_budget_is_met_by_dropping_ranks_and_units(folder: Path, name: str, changes: dict[str, Any]) -> None:
    with_target = {**changes, "target_ratio": 1.5}
    report = json.loads((small_run(folder, "vib", name, **with_target) / "report.json").read_text())
    assert report["compact"]["parameters"]["total"] <= report["budget"]["target"]
    assert report["compact"]["inputs"] == 12
    assert report["compaction"]["max_abs_difference"] <= 1e-5
    final = load_model(folder / name / "model.safetensors")[0]
    assert final.parameter_counts() == report["compact"]["parameters"]
    assert bench_run(folder / name, BenchSettings(repeats=2), memory=False)["compact"]["median_ms"] > 0


def test_a_resumed_run_equals_an_uninterrupted_one(folder: Path, tmp_path: Path) -> None:
    whole = small_run(folder, "vib", "whole", **TT, beta=0.005)
    settings = TrainSettings(**{**QUICK, **TT, "method": "vib", "beta": 0.005})
    other = tmp_path / "interrupted"
    for stage, epoch in (("plain", 3), ("vib", 6), ("finetune", 3)):
        with pytest.MonkeyPatch.context() as patch:
            interrupt(patch, stage, epoch)
            with pytest.raises(KeyboardInterrupt):
                methods.train(folder / "cache.h5", TEST_SPLIT, settings, other, device=torch.device("cpu"))
    methods.train(folder / "cache.h5", TEST_SPLIT, settings, other, device=torch.device("cpu"))
    assert_same_run(other, whole)


@pytest.mark.parametrize("method", ["vib", "lasso", "magnitude", "movement", "plain"])
def test_linear_runs_with_every_method(folder: Path, method: str) -> None:
    changes: dict[str, Any] = {"lasso": {"lasso": 0.003, "lasso_input": 0.003}}.get(method, {})
    changes |= {} if method == "plain" else {"target_params": 60}
    run = small_run(folder, method, f"linear-{method}", model="linear", **changes)
    report = json.loads((run / "report.json").read_text())
    final = report["plain" if method == "plain" else "compact"]
    assert final["accuracy"]["test"] >= 0.5
    if method == "plain":
        assert final["parameters"] == {"recurrent": 104, "head": 36, "total": 140, "input_to_hidden": 96}
    else:
        assert final["parameters"]["total"] <= 60


def test_a_linear_model_is_exported_and_a_factorised_one_refused(folder: Path, tmp_path: Path) -> None:
    run = small_run(folder, "vib", "linear-out", model="linear")
    out = tmp_path / "torch.safetensors"
    result = CliRunner().invoke(main, ["export", "--model", str(run), "--format", "torch", "--out", str(out)])
    assert result.exit_code == 0, result.output
    tt = small_run(folder, "plain", "tt-out", **TT)
    result = CliRunner().invoke(
        main, ["export", "--model", str(tt), "--format", "torch", "--out", str(tmp_path / "no")]
    )
    assert_refused(result, "no form in torch's modules")


def test_the_page_of_a_factorised_run_names_its_bonds(folder: Path) -> None:
    run = small_run(folder, "vib", "page", **TT, factorize_hidden=True, beta=0.005)
    result = CliRunner().invoke(main, ["report", str(run)])
    assert result.exit_code == 0, result.output
    page = (run / "report.html").read_text()
    assert "Bond 1 of W_ih" in page
    assert "Bond 1 of W_hh" in page
    assert "from inputs to hidden" in page


def test_the_command_line_has_the_options(folder: Path, tmp_path: Path) -> None:
    small_run(folder, "plain", "any", **TT)
    words = ["--factorize", "tt", "--input-modes", "5x3", "--hidden", "8"]
    assert_refused(train_command(folder / "cache.h5", tmp_path / "no", *words), "gives 15, not 12 inputs")
