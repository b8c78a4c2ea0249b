"""`--teacher`: the soft targets are another run's logits, and only of a run that saw the same clips."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caches import TEST_SPLIT, made_up_cache
from small_runs import assert_refused, epochs_of, interrupt, train_command

from harfeat.cache import CacheHead, ClipFeatures, StreamLayout, open_cache, write_cache
from harvib import methods, stages
from harvib.data import load_parts
from harvib.errors import InputError
from harvib.report.page import page
from harvib.settings import TrainSettings
from harvib.source import Source
from harvib.weights import load_model

CPU = torch.device("cpu")
FIELDS: dict[str, Any] = {
    "hidden": 5, "plain_epochs": 4, "vib_epochs": 3, "finetune_epochs": 3, "batch": 8, "lr": 2e-2, "distill": 0.5,
    "beta": 1e-3, "beta_input": 1e-3, "validation": 0.3,
}  # fmt: skip


def train(cache: Path | Source, run_dir: Path, teacher: Path | None = None, **fields: Any) -> dict[str, Any]:
    settings = TrainSettings(**{**FIELDS, **fields})
    return methods.train(cache, TEST_SPLIT, settings, run_dir, device=CPU, teacher=teacher)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up_cache(tmp_path_factory.mktemp("cache") / "c.h5")


@pytest.fixture(scope="module")
def teacher(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of another cell; tests must not change it."""
    run_dir = tmp_path_factory.mktemp("teacher") / "run"
    train(cache, run_dir, model="gru", hidden=7, target_ratio=2.0)
    return run_dir


def logits_of(run: Path, cache: Path, stream: str = "") -> torch.Tensor:
    """The final model's logits on the train clips, one clip at a time."""
    model, _ = load_model(run / "model.safetensors")
    with open_cache(cache) as opened, torch.no_grad():
        clips = load_parts(opened, TEST_SPLIT, FIELDS["validation"], 0, stream=stream).train
    whole = list(clips.batches(1, CPU))
    with torch.no_grad():
        return torch.cat([model(batch.features, batch.lengths) for batch in whole])


def spy(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor | None]:
    """The soft targets of each stage."""
    seen: dict[str, torch.Tensor | None] = {}
    genuine = stages.fit

    def fit(model: Any, stage: Any, parts: Any, settings: Any, device: Any, *rest: Any) -> Any:
        seen[stage.name] = rest[2]
        return genuine(model, stage, parts, settings, device, *rest)

    monkeypatch.setattr(stages, "fit", fit)
    return seen


def test_every_stage_after_the_plain_one_learns_from_the_teacher(
    cache: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = spy(monkeypatch)
    train(cache, tmp_path / "run", teacher)
    expected = logits_of(teacher, cache)
    assert seen["plain"] is None
    for stage in ("vib", "finetune"):
        found = seen[stage]
        assert found is not None
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["teacher"] == str(teacher.resolve())
    assert "--teacher" in page([tmp_path / "run"])


@pytest.mark.parametrize(
    ("stage", "fields"),
    [
        ("vib", {}),
        ("movement", {"method": "movement", "target_ratio": 2.0, "movement_epochs": 2}),
        ("lasso", {"method": "lasso", "lasso": 1e-3, "lasso_epochs": 2}),
    ],
)
def test_without_finetuning_the_stage_that_prunes_learns_from_the_teacher(
    cache: Path, teacher: Path, tmp_path: Path, stage: str, fields: dict[str, Any]
) -> None:
    train(cache, tmp_path / "run", teacher, finetune_epochs=0, **fields)
    stages_taught = {row["stage"] for row in epochs_of(tmp_path / "run") if row["distill"]}
    assert stages_taught == {stage}


def test_a_plain_run_is_distilled_as_a_whole(cache: Path, teacher: Path, tmp_path: Path) -> None:
    taught = train(cache, tmp_path / "taught", teacher, method="plain")
    alone = train(cache, tmp_path / "alone", method="plain")
    assert taught["plain"]["loss"] != alone["plain"]["loss"]
    assert all(float(row["distill"]) > 0 for row in epochs_of(tmp_path / "taught"))
    assert all(row["distill"] == "" for row in epochs_of(tmp_path / "alone"))


def test_an_interrupted_run_ends_as_an_uninterrupted_one_and_needs_its_teacher_no_more(
    cache: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = shutil.copytree(teacher, tmp_path / "teacher")
    whole = train(cache, tmp_path / "whole", ours)
    with monkeypatch.context() as patch:
        interrupt(patch, "finetune", 2)
        with pytest.raises(KeyboardInterrupt):
            train(cache, tmp_path / "cut", ours)
    with pytest.raises(InputError, match="holds a run with teacher = "):
        train(cache, tmp_path / "cut")
    assert train(cache, tmp_path / "cut", ours)["compact"] == whole["compact"]
    shutil.rmtree(ours)
    assert train(cache, tmp_path / "whole", ours) == whole


def test_a_teacher_may_read_another_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of two streams, the second of three values a step."""
    with open_cache(made_up_cache(tmp_path / "one.h5")) as one:
        head = CacheHead(one.recipe, one.classes, one.clips, [one.split(TEST_SPLIT)], (), {})
        rows = [one.read(clip).features for clip in range(len(one.clips))]
    layouts = {
        name: StreamLayout([len(values) for values in rows], width, np.dtype(np.float32))
        for name, width in (("rgb", 6), ("flow", 3))
    }
    clips = (
        {
            "rgb": ClipFeatures(values, np.arange(len(values))),
            "flow": ClipFeatures(values[:, :3] + 1, np.arange(len(values))),
        }
        for values in rows
    )
    cache = tmp_path / "two.h5"
    write_cache(cache, head, layouts, clips)
    train(Source(cache, "flow"), tmp_path / "teacher", method="plain")
    seen = spy(monkeypatch)
    train(Source(cache, "rgb"), tmp_path / "run", tmp_path / "teacher")
    found = seen["finetune"]
    assert found is not None
    torch.testing.assert_close(found, logits_of(tmp_path / "teacher", cache, "flow"), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"seed": 1}, "other parts_hash than this run's"),
        ({"validation": 0.5}, "other parts_hash than this run's"),
        ({"distill": 0.0}, "--distill 0 leaves its soft targets out"),
        (
            {"method": "magnitude", "target_ratio": 2.0, "finetune_epochs": 0},
            "--method magnitude with --finetune-epochs 0 trains nothing after the plain model",
        ),
    ],
)
def test_a_teacher_that_cannot_be_is_refused_before_anything_is_written(
    cache: Path, teacher: Path, tmp_path: Path, fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(InputError, match=f"--teacher .*{named}"):
        train(cache, tmp_path / "run", teacher, **fields)
    assert not (tmp_path / "run").exists()


def test_teachers_of_other_features_or_classes_or_unfinished_are_refused(
    cache: Path, teacher: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="other fingerprint than this run's"):
        train(made_up_cache(tmp_path / "a.h5", recipe="other"), tmp_path / "a", teacher)
    with pytest.raises(InputError, match="other classes than this run's"):
        train(made_up_cache(tmp_path / "b.h5", classes=("run", "hop", "sit")), tmp_path / "b", teacher)
    with pytest.raises(InputError, match="no such run folder"):
        train(cache, tmp_path / "c", tmp_path / "nowhere")
    cut = shutil.copytree(teacher, tmp_path / "cut")
    (cut / "report.json").unlink()
    with pytest.raises(InputError, match=r"not finished"):
        train(cache, tmp_path / "d", cut)
    (cut / "report.json").write_text('{"interrupted": {"stage": "vib", "epoch": 1, "of": 3}}')
    with pytest.raises(InputError, match="interrupted before its final model: repeat its command first"):
        train(cache, tmp_path / "e", cut)
    settings = TrainSettings(**{**FIELDS, "method": "plain"})
    with pytest.raises(InputError, match="--method plain with --init trains nothing"):
        methods.train(cache, TEST_SPLIT, settings, tmp_path / "f", teacher, CPU, teacher=teacher)


def test_the_command_line_takes_one(cache: Path, teacher: Path, tmp_path: Path) -> None:
    words = [f"--{name.replace('_', '-')}={value}" for name, value in FIELDS.items()]
    words += ["--device=cpu", f"--teacher={teacher}"]
    result = train_command(cache, tmp_path / "run", *words, "--method=plain", "--model=mlp")
    assert result.exit_code == 0, result.stderr
    assert all(float(row["distill"]) > 0 for row in epochs_of(tmp_path / "run"))
    two = train_command(cache, tmp_path / "two", *words, f"--features={cache}")
    assert_refused(two, "--teacher: goes with one --features")
