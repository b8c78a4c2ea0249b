"""Runs of pooling models: trained, pruned, resumed, evaluated, and told in a report, on one stream and on two."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caches import TEST_SPLIT, made_up_cache, second_labels, with_streams
from click.testing import CliRunner
from pooling_models import masked_model
from safetensors.torch import load_file, save_file
from small_runs import (
    QUICK,
    assert_refused,
    assert_same_run,
    interrupted_and_resumed,
    report_of,
    train_command,
)
from test_compact import set_mask

from harfeat.cache import open_cache
from harvib import methods
from harvib.classifier import to_json
from harvib.cli import main
from harvib.compact import compact
from harvib.errors import InputError
from harvib.families import spec_from_json
from harvib.pooling.model import PoolingClassifier
from harvib.report.page import page
from harvib.settings import TrainSettings
from harvib.weights import ModelCard, load_model, read_tensors, save_model

CPU = torch.device("cpu")
SETTINGS: dict[str, dict[str, Any]] = {
    "dbof": {"model": "dbof", "clusters": "12", "bags": 3, "bag_frames": 2, "circulant": "fc"},
    "netvlad": {"model": "netvlad", "clusters": "5", "circulant": "fc,moe", "no_gating": True},
    "netfv": {"model": "netfv", "clusters": "4", "bags": None},
}


def settings_of(name: str, **changes: Any) -> TrainSettings:
    told = {
        **QUICK,
        "plain_epochs": 8,
        "vib_epochs": 12,
        "finetune_epochs": 8,
        "finetune_lr": 5e-3,
        **SETTINGS[name],
        **changes,
    }
    told = {key: value for key, value in told.items() if value is not None}
    told["gating"] = not told.pop("no_gating", False)
    if told["model"] != "dbof":
        told["standardize"] = False
    return TrainSettings(**told)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up_cache(tmp_path_factory.mktemp("cache") / "c.h5", dim=12, clips_a_group=6)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips with several labels: rgb of 6 values a row, audio of 4."""
    folder = tmp_path_factory.mktemp("two")
    source = made_up_cache(folder / "c.h5", clips_a_group=4, dim=10, change=second_labels)
    with open_cache(source) as made:
        rows = [made.read(clip).features for clip in range(len(made.clips))]
    streams = {"rgb": [values[:, :6] for values in rows], "audio": [values[:, 6:] for values in rows]}
    return with_streams(source, folder / "two.h5", streams)


@pytest.fixture(scope="module", params=list(SETTINGS))
def run(cache: Path, request: pytest.FixtureRequest) -> Path:
    folder = cache.parent / request.param
    methods.train(cache, TEST_SPLIT, settings_of(request.param), folder, device=CPU)
    return folder


def test_a_run_ends_with_a_smaller_model_that_evaluates_as_reported(run: Path, cache: Path) -> None:
    report = report_of(run)
    few, many = (report[state]["parameters"]["total"] for state in ("compact", "plain"))
    model, _ = load_model(run / "model.safetensors")
    assert isinstance(model, PoolingClassifier)
    assert model.parameter_counts()["total"] == few < many
    assert report["compaction"]["max_abs_difference"] < 1e-5
    assert report["compact"]["accuracy"]["test"] > 0.4
    arguments = ["--model", str(run), "--features", str(cache), "--split", TEST_SPLIT, "--device", "cpu", "--json"]
    told = json.loads(CliRunner().invoke(main, ["evaluate", *arguments]).stdout)
    assert told["accuracy"] == report["compact"]["accuracy"]["test"]
    text = page([run])
    assert "Clusters" in text
    assert "Units of the FC layer" in text
    assert "clusters and FC" in text
    assert "recurrent</th>" not in text


@pytest.mark.parametrize(("form", "name"), [("onnx", "x.onnx"), ("torchscript", "x.pt")])
@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_an_exported_file_evaluates_as_the_run(
    run: Path, cache: Path, tmp_path: Path, form: str, name: str, quantize: str
) -> None:
    out = tmp_path / name
    words = ["--model", str(run), "--out", str(out), "--format", form, "--quantize", quantize]
    told = CliRunner().invoke(main, ["export", *words])
    assert told.exit_code == 0, told.output
    arguments = ["--model", str(out), "--features", str(cache), "--split", TEST_SPLIT, "--device", "cpu", "--json"]
    theirs = json.loads(CliRunner().invoke(main, ["evaluate", *arguments]).stdout)
    accuracy = report_of(run)["compact"]["accuracy"]["test"]
    # In 8 bits one clip of the 18 may go another way.
    assert theirs["accuracy"] == pytest.approx(accuracy, abs=0.06 if quantize == "int8" else 1e-9)
    assert theirs["parameters"]["total"] == report_of(run)["compact"]["parameters"]["total"]


def test_what_cannot_be_exported_says_what_can(run: Path, cache: Path, tmp_path: Path) -> None:
    where = ["--model", str(run), "--out", str(tmp_path / "x.c")]
    told = CliRunner().invoke(main, ["export", *where, "--format", "c"])
    assert_refused(told, "not for a pooling model, only for lstm, gru, rnn")
    assert "say --format onnx" in told.output
    told = CliRunner().invoke(main, ["quantize", *where, "--features", str(cache)])
    assert_refused(told, "quantising: not for a pooling model, only for lstm")
    assert "`harvib export --quantize int8` rounds its weights" in told.output
    assert not (tmp_path / "x.c").exists()


@pytest.mark.parametrize("stage", ["plain", "vib", "finetune"])
def test_a_resumed_run_is_an_uninterrupted_one(stage: str, run: Path, cache: Path, tmp_path: Path) -> None:
    asked = settings_of(run.name)
    interrupted_and_resumed(
        lambda: methods.train(cache, TEST_SPLIT, asked, tmp_path / "run", device=CPU), stage, 2
    )
    assert_same_run(tmp_path / "run", run)


@pytest.mark.parametrize("name", list(SETTINGS))
def test_a_budget_is_met(name: str, cache: Path, tmp_path: Path) -> None:
    asked = settings_of(name, clusters="24", hidden=16, circulant="moe", no_gating=True, target_ratio=2.0)
    methods.train(cache, TEST_SPLIT, asked, tmp_path / "run", device=CPU)
    budget = report_of(tmp_path / "run")["budget"]
    assert 0.95 * budget["target"] <= budget["reached"] <= budget["target"]


@pytest.mark.parametrize("kind", list(SETTINGS))
def test_joined_streams_with_several_labels_are_pooled_each_by_itself(
    kind: str, two: Path, tmp_path: Path
) -> None:
    common = [f"--{key.replace('_', '-')}={value}" for key, value in QUICK.items() if not isinstance(value, bool)]
    sizes = ["--model", kind, "--clusters", "6,4", "--plain-epochs", "3", "--vib-epochs", "4", "--device", "cpu"]
    result = train_command(Path(f"{two}::rgb+audio"), tmp_path / "run", *common, *sizes)
    assert result.exit_code == 0, result.stderr
    report = report_of(tmp_path / "run")
    assert report["measure"] == "GAP@20"
    assert report["plain"]["shape"] == [[6, 4], [8, 8]]
    plain, _ = load_model(tmp_path / "run" / "plain.safetensors")
    assert isinstance(plain, PoolingClassifier)
    assert plain.spec.widths == (6, 4)


def test_settings_that_have_no_such_model_are_refused_in_one_line(cache: Path, tmp_path: Path) -> None:
    result = train_command(cache, tmp_path / "run", "--model", "dbof", "--clusters", "4,4", "--device", "cpu")
    assert_refused(result, "--clusters 4,4: 2 numbers for 1 stream")
    many = str(10**14)  # of 12 values each are more bytes than there are addresses
    result = train_command(cache, tmp_path / "run", "--model", "dbof", "--clusters", many, "--device", "cpu")
    assert_refused(result, "not enough memory: choose a smaller model")


VALUES: tuple[Any, ...] = (
    None,
    -1,
    0,
    2,
    10**30,
    1.5,
    "x",
    True,
    [],
    {},
    [[1]],
    "circulant",
    "compact",
    "netvlad",
)


def places(told: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of everything in a JSON value, as the keys and indices that lead there."""
    inner = told.items() if isinstance(told, dict) else enumerate(told) if isinstance(told, list) else ()
    return [before, *(place for key, value in inner for place in places(value, (*before, key)))]


@pytest.mark.parametrize("kind", list(SETTINGS))
def test_a_forged_spec_is_refused_or_can_be_built(kind: str) -> None:
    model = masked_model(kind, 1, layers={"clusters": "circulant", "fc": "circulant-signs"})
    for mask in model.masks().values():
        set_mask(mask, (torch.rand(mask.mu.numel()) < 0.7).tolist())
    told = json.loads(to_json(compact(model).spec))
    for place, value in itertools.product(places(told)[1:], VALUES):
        forged = json.loads(json.dumps(told))
        inner = forged
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        try:
            spec = spec_from_json(json.dumps(forged))
        except (ValueError, TypeError):
            continue
        with torch.device("meta"):
            assert spec.build().parameter_counts()["total"] > 0


def test_indices_that_point_outside_are_refused(tmp_path: Path) -> None:
    model = masked_model("netvlad", 2, layers={"clusters": "circulant", "fc": "circulant"})
    for mask in model.masks().values():
        set_mask(mask, (np.arange(mask.mu.numel()) % 3 > 0).tolist())
    path, card = tmp_path / "model.safetensors", ModelCard(tuple("abcd"), "f" * 64)
    save_model(path, compact(model).float(), card)
    metadata, _ = read_tensors(path)
    indices = [name for name, value in load_file(path).items() if not value.is_floating_point()]
    assert any(name.endswith("described") for name in indices)
    assert any(name.endswith("positions") for name in indices)
    for name in indices:
        tensors = load_file(path)
        tensors[name][-1] += 1000
        save_file(tensors, tmp_path / "forged.safetensors", metadata)
        with pytest.raises(InputError, match="points outside"):
            load_model(tmp_path / "forged.safetensors")
