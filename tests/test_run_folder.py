"""The run folder: its contract, exact resume, refusals, and runs that start from another's plain model."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from caches import CLASSES, TEST_SPLIT, made_up_cache, permuted_test_labels
from safetensors import safe_open
from small_runs import epochs_of, interrupt

from harfeat.cache import open_cache
from harvib import methods
from harvib.errors import InputError
from harvib.evaluate import evaluate_run
from harvib.rundir import COLUMNS, RunFolder
from harvib.settings import TrainSettings

CPU = torch.device("cpu")
FIELDS: dict[str, Any] = {
    "hidden": 6, "plain_epochs": 3, "vib_epochs": 8, "finetune_epochs": 2, "batch": 4, "lr": 2e-2, "vib_lr": 2e-3,
    "mask_lr": 0.2, "beta": 0.05, "beta_input": 0.05, "distill": 0.3, "validation": 0.3,
}  # fmt: skip
WEIGHTS = ("plain.safetensors", "masked.safetensors", "model.safetensors")


def train(cache: Path, run_dir: Path, init: Path | None = None, **fields: Any) -> dict[str, Any]:
    return methods.train(cache, TEST_SPLIT, TrainSettings(**{**FIELDS, **fields}), run_dir, init, CPU)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up_cache(tmp_path_factory.mktemp("cache") / "c.h5")


@pytest.fixture(scope="module")
def finished(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with default flags of FIELDS; tests must not change it."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    train(cache, run_dir)
    return run_dir


def contents(run_dir: Path) -> dict[str, bytes]:
    return {name: (run_dir / name).read_bytes() for name in WEIGHTS}


def test_the_folder_holds_what_the_contract_names_and_nothing_else(finished: Path) -> None:
    names = sorted(path.name for path in finished.rglob("*"))
    assert names == sorted(["config.json", "metrics.csv", "report.json", *WEIGHTS])


def test_no_file_of_a_run_is_a_pickle(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch, "finetune", 2)
    with pytest.raises(KeyboardInterrupt):
        train(cache, tmp_path / "run")
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert tmp_path / "run" / "last" / "state.safetensors" in files
    for path in files:
        start = path.read_bytes()[:4]
        # Pickle protocol 2 and later, and the zip that torch.save writes.
        assert not start.startswith(b"\x80"), path
        assert not start.startswith(b"PK"), path
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                assert list(file.keys())
        else:
            assert path.suffix in (".json", ".csv")


def test_config_tells_all_settings_and_identities(finished: Path, cache: Path) -> None:
    config = json.loads((finished / "config.json").read_text())
    assert TrainSettings(**config["settings"]) == TrainSettings(**FIELDS)
    with open_cache(cache) as opened:
        assert config["fingerprint"] == opened.fingerprint
    assert (config["split"], config["classes"], config["features"]) == (TEST_SPLIT, list(CLASSES), "c.h5")


def test_metrics_have_one_row_an_epoch(finished: Path) -> None:
    rows = epochs_of(finished)
    expected = [
        (stage, str(n + 1)) for stage, count in (("plain", 3), ("vib", 8), ("finetune", 2)) for n in range(count)
    ]
    assert [(row["stage"], row["epoch"]) for row in rows] == expected
    with (finished / "metrics.csv").open(newline="") as stream:
        assert tuple(next(csv.reader(stream))) == COLUMNS


def test_report_has_the_figures_of_the_contract(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    for state in ("plain", "masked", "compact"):
        assert set(report[state]["accuracy"]) == {"validation", "test"}
        assert set(report[state]["parameters"]) == {"recurrent", "head", "total", "input_to_hidden"}
        inputs, units = report[state]["inputs"], report[state]["units"]
        size = (6, 6) if state != "compact" else (inputs, units)
        assert report[state]["parameters"]["recurrent"] == 4 * size[1] * (size[0] + size[1]) + 8 * size[1]
        assert report[state]["parameters"]["head"] == 3 * size[1] + 3
    assert (report["compact"]["inputs"], report["compact"]["units"]) == (
        report["masked"]["inputs"],
        report["masked"]["units"],
    )
    assert report["compact"]["parameters"]["total"] < report["plain"]["parameters"]["total"], "nothing was pruned"
    assert report["ratio"] == report["plain"]["parameters"]["total"] / report["compact"]["parameters"]["total"]
    assert 0 <= report["compaction"]["max_abs_difference"] <= 1e-5
    config = json.loads((finished / "config.json").read_text())
    for key in ("fingerprint", "split_hash", "versions"):
        assert report[key] == config[key]
    assert report["seed"] == 0
    assert set(report["seconds"]) == {"plain", "vib", "finetune"}
    assert all(seconds > 0 for seconds in report["seconds"].values())


@pytest.mark.parametrize(
    ("state", "file"),
    [
        ("plain", "plain.safetensors"),
        ("masked", "masked.safetensors"),
        ("compact", "model.safetensors"),
        ("compact", ""),
    ],
)
def test_reported_figures_can_be_had_again_from_the_files(
    finished: Path, cache: Path, state: str, file: str
) -> None:
    report = json.loads((finished / "report.json").read_text())[state]
    result = evaluate_run(finished / file, cache, TEST_SPLIT, "test", CPU)
    assert result["accuracy"] == report["accuracy"]["test"]
    assert result["loss"] == pytest.approx(report["loss"]["test"], rel=1e-6)
    assert result["parameters"] == report["parameters"]


def test_the_same_command_twice_gives_the_same_bytes(finished: Path, cache: Path, tmp_path: Path) -> None:
    train(cache, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(finished)
    assert epochs_of(tmp_path / "again") == epochs_of(finished)


def test_another_seed_gives_another_model(finished: Path, cache: Path, tmp_path: Path) -> None:
    train(cache, tmp_path / "run", seed=1)
    assert contents(tmp_path / "run")["plain.safetensors"] != contents(finished)["plain.safetensors"]


def test_test_labels_never_reach_the_model(finished: Path, tmp_path: Path) -> None:
    other = made_up_cache(tmp_path / "c.h5", change=permuted_test_labels)
    report = train(other, tmp_path / "run")
    assert contents(tmp_path / "run") == contents(finished)
    assert (
        report["plain"]["accuracy"]["test"]
        != json.loads((finished / "report.json").read_text())["plain"]["accuracy"]["test"]
    )


@pytest.mark.parametrize(
    ("stage", "epoch"), [("plain", 1), ("plain", 3), ("vib", 4), ("finetune", 1), ("finetune", 2)]
)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    finished: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, epoch: int
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, stage, epoch)
        with pytest.raises(KeyboardInterrupt):
            train(cache, tmp_path / "run")
        found = RunFolder(tmp_path / "run").checkpoint.position()
        assert epoch == 1 or found == (stage, epoch - 1)
    report = train(cache, tmp_path / "run")
    assert contents(tmp_path / "run") == contents(finished)
    assert epochs_of(tmp_path / "run") == epochs_of(finished)
    expected = json.loads((finished / "report.json").read_text())
    assert {**report, "seconds": None} == {**expected, "seconds": None}


def test_a_run_interrupted_between_checkpoints_repeats_the_epochs_since(
    finished: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, "vib", 5, interval=1e9)
        with pytest.raises(KeyboardInterrupt):
            train(cache, tmp_path / "run")
    assert not (tmp_path / "run" / "last").exists()
    train(cache, tmp_path / "run")
    assert contents(tmp_path / "run") == contents(finished)
    assert epochs_of(tmp_path / "run") == epochs_of(finished)


@pytest.mark.parametrize("torn", ["vi", "vib,3,0.12", "vib,3"])
def test_a_run_killed_while_it_wrote_a_row_resumes(
    finished: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: str
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, "vib", 3)
        with pytest.raises(KeyboardInterrupt):
            train(cache, tmp_path / "run")
    with (tmp_path / "run" / "metrics.csv").open("a") as stream:
        stream.write(torn)
    train(cache, tmp_path / "run")
    assert contents(tmp_path / "run") == contents(finished)
    assert epochs_of(tmp_path / "run") == epochs_of(finished)


def test_a_damaged_checkpoint_says_what_to_delete(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, "plain", 2)
        with pytest.raises(KeyboardInterrupt):
            train(cache, tmp_path / "run")
    state = tmp_path / "run" / "last" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-7])
    with pytest.raises(InputError, match=r"state\.safetensors: damaged; delete it"):
        train(cache, tmp_path / "run")


def test_a_finished_run_returns_at_once(finished: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harvib.stages.fit", None)
    assert train(cache, finished) == json.loads((finished / "report.json").read_text())


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"beta": 0.1}, "settings = beta: 0.05, not 0.1"),
        ({"seed": 5}, "seed"),
        ({"standardize": True}, "standardize"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused_by_name(
    finished: Path, cache: Path, fields: dict[str, Any], named: str
) -> None:
    before = contents(finished)
    with pytest.raises(InputError, match=named) as caught:
        train(cache, finished, **fields)
    assert "choose another --run-dir" in str(caught.value)
    assert contents(finished) == before


def test_another_cache_in_the_same_folder_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds a run with fingerprint"):
        train(made_up_cache(tmp_path / "c.h5", recipe="other"), finished)


def test_foreign_folders_and_files_are_left_alone(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    for run_dir in (tmp_path / "photos", tmp_path / "file"):
        with pytest.raises(InputError, match="in use by something else: choose another --run-dir"):
            train(cache, run_dir)
    with pytest.raises(InputError, match="cannot be written"):
        train(cache, tmp_path / "file" / "run")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["a.jpg"]


def test_an_empty_folder_is_taken(cache: Path, tmp_path: Path) -> None:
    report = train(cache, tmp_path, method="plain", plain_epochs=1)
    assert "compact" not in report
    assert "ratio" not in report
    assert not (tmp_path / "masked.safetensors").exists()
    result = evaluate_run(tmp_path, cache, TEST_SPLIT, "test", CPU)
    assert result["accuracy"] == report["plain"]["accuracy"]["test"]


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"settings": {}}'])
def test_a_damaged_config_is_refused(cache: Path, tmp_path: Path, damage: str) -> None:
    (tmp_path / "config.json").write_text(damage)
    with pytest.raises(InputError, match=r"config\.json|holds a run with"):
        train(cache, tmp_path)


def test_init_takes_over_the_plain_model(finished: Path, cache: Path, tmp_path: Path) -> None:
    report = train(cache, tmp_path / "run", finished, beta=0.0)
    assert contents(tmp_path / "run")["plain.safetensors"] == contents(finished)["plain.safetensors"]
    assert report["plain"] == json.loads((finished / "report.json").read_text())["plain"]
    assert {row["stage"] for row in epochs_of(tmp_path / "run")} == {"vib", "finetune"}


Change = Callable[[Path], Path]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"seed": 1}, "parts_hash"),
        ({"validation": 0.5}, "parts_hash"),
        ({"hidden": 7}, "--hidden .*; this run asks for --hidden 7$"),
        ({"readout": "last"}, "has --readout mean; this run asks for --readout last$"),
        ({"model": "mean"}, "has --model lstm; this run asks for --model mean$"),
        ({"project": 3, "layers": 2}, "has --project 0, --layers 1; this run asks for --project 3, --layers 2$"),
        ({"select_inputs": 3}, "select_inputs is 0, this run asks for 3"),
        ({"standardize": True}, "standardize is False, this run asks for True"),
    ],
)
def test_init_of_another_kind_is_refused(
    finished: Path, cache: Path, tmp_path: Path, fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(InputError, match=f"--init .*{named}"):
        train(cache, tmp_path / "run", finished, **fields)


def test_init_with_other_features_or_classes_or_no_run_is_refused(
    finished: Path, cache: Path, tmp_path: Path
) -> None:
    other = made_up_cache(tmp_path / "a.h5", recipe="other")
    with pytest.raises(InputError, match="fingerprint differs"):
        train(other, tmp_path / "a", finished)
    renamed = made_up_cache(tmp_path / "b.h5", classes=("run", "hop", "sit"))
    with pytest.raises(InputError, match="classes differs"):
        train(renamed, tmp_path / "b", finished)
    with pytest.raises(InputError, match="cannot be read"):
        train(cache, tmp_path / "c", tmp_path / "nowhere")


def test_a_moved_run_folder_still_evaluates(finished: Path, cache: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "moved")
    ours, theirs = (evaluate_run(path, cache, None, "test", CPU) for path in (finished, tmp_path / "moved"))
    assert ours == theirs
