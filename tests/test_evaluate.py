"""harvib.evaluate and harvib.metrics: figures against counting by hand, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caches import CLASSES, TEST_SPLIT, made_up_cache
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import save_file

from harfeat.cache import ClipRow, open_cache
from harvib import methods
from harvib.cli import main
from harvib.evaluate import evaluate_run
from harvib.metrics import Evaluation
from harvib.settings import TrainSettings
from harvib.weights import load_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up_cache(tmp_path_factory.mktemp("cache") / "c.h5")


@pytest.fixture(scope="module")
def run(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("run") / "run"
    chosen = TrainSettings(method="plain", hidden=4, plain_epochs=3, batch=4, lr=0.02)
    methods.train(cache, TEST_SPLIT, chosen, run_dir, device=CPU)
    return run_dir


def command(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output and the lines of standard error of `harvib evaluate`."""
    result = CliRunner().invoke(main, ["evaluate", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("split", "subset", "role"), [(None, "test", None), ("held", "test", 2), ("held", "train", 1)]
)
def test_figures_equal_a_loop_over_the_clips(
    run: Path, cache: Path, split: str | None, subset: str, role: int | None
) -> None:
    model, _ = load_model(run / "model.safetensors")
    confusion = np.zeros((3, 3), int)
    losses = []
    with open_cache(cache) as opened:
        roles = opened.split(TEST_SPLIT).roles
        for clip, row in enumerate(opened.clips):
            if role in (None, roles[clip]):
                x = torch.from_numpy(opened.read(clip).features)[None]
                logits = model(x, torch.tensor([x.shape[1]]))[0].detach().double().numpy()
                confusion[row.label, int(logits.argmax())] += 1
                losses.append(np.log(np.exp(logits).sum()) - logits[row.label])
    result = evaluate_run(run, cache, split, subset, CPU)
    assert result["confusion"] == confusion.tolist()
    assert result["clips"] == confusion.sum() == {None: 30, 1: 18, 2: 12}[role]
    assert result["accuracy"] == pytest.approx(np.trace(confusion) / confusion.sum())
    assert result["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert result["classes"] == list(CLASSES)


def test_of_equal_logits_the_lower_class_wins() -> None:
    found = Evaluation(np.zeros((3, 4), np.float32), np.array([0, 1, 0]))
    assert found.predictions.tolist() == [0, 0, 0]
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.loss == pytest.approx(np.log(4))
    assert found.confusion().tolist() == [[2, 0, 0, 0], [1, 0, 0, 0], [0] * 4, [0] * 4]


def test_command_prints_what_the_function_returns(run: Path, cache: Path) -> None:
    code, text, _ = command("--model", run, "--features", cache, "--split", "held", "--subset", "train", "--json")
    assert code == 0
    assert json.loads(text) == evaluate_run(run, cache, "held", "train", CPU)
    code, text, _ = command("--model", run / "plain.safetensors", "--features", cache)
    expected = evaluate_run(run, cache, None, "test", CPU)
    assert code == 0
    assert text.startswith(f"accuracy {expected['accuracy']:.2%} on 30 clips")
    assert f"{expected['parameters']['total']:,} parameters" in text


def test_another_cache_of_the_same_kind_is_taken(run: Path, tmp_path: Path) -> None:
    other = made_up_cache(tmp_path / "new.h5", seed=5, groups=2, lengths=(9, 1))
    assert evaluate_run(run, other, None, "test", CPU)["clips"] == 12


def refused(run: Path, *arguments: str | Path) -> str:
    code, text, errors = command("--model", run, *arguments)
    assert (code, text) == (2, "")
    assert errors.startswith("harvib: ")
    assert errors.count("\n") == 1
    return errors


def test_other_classes_and_other_features_are_refused(run: Path, cache: Path, tmp_path: Path) -> None:
    swapped = made_up_cache(tmp_path / "a.h5", classes=("run", "hop", "sit"))
    assert "classes differ from the model's: 3 against 3, first 'run' against 'hop'" in refused(
        run, "--features", swapped
    )
    more = made_up_cache(tmp_path / "b.h5", classes=(*CLASSES, "wave"))
    assert "4 against 3" in refused(run, "--features", more)
    other = made_up_cache(tmp_path / "c.h5", recipe="other")
    assert "feature fingerprint" in refused(run, "--features", other)
    wide = made_up_cache(tmp_path / "d.h5", dim=8)
    assert "8 values a row, the model was made for 6" in refused(run, "--features", wide)


def test_wrong_names_and_missing_files_are_told(run: Path, cache: Path, tmp_path: Path) -> None:
    assert "no split 'x'; this cache has: held" in refused(run, "--features", cache, "--split", "x")
    assert "no such file" in refused(run, "--features", tmp_path / "none.h5")
    assert "no such model file; is the run finished?" in refused(tmp_path, "--features", cache)
    assert "no such model file" in refused(tmp_path / "none", "--features", cache)
    assert "--device xpu9: cannot be used here" in refused(run, "--features", cache, "--device", "xpu9")
    assert "--device meta: cannot be used here" in refused(run, "--features", cache, "--device", "meta")


def test_an_empty_cache_or_part_is_refused(run: Path, tmp_path: Path) -> None:
    def nothing(rows: list[ClipRow], features: list[Any]) -> tuple[list[ClipRow], list[Any]]:
        return [], []

    def train_only(rows: list[ClipRow], features: list[Any]) -> tuple[list[ClipRow], list[Any]]:
        return rows[:6], features[:6]

    empty = made_up_cache(tmp_path / "a.h5", change=nothing)
    assert refused(run, "--features", empty).endswith("a.h5: no clips\n")
    partly = made_up_cache(tmp_path / "b.h5", change=train_only)
    assert "no clips in the test part of split held" in refused(run, "--features", partly, "--split", "held")


def test_damaged_and_newer_model_files_are_refused(run: Path, cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    raw = (run / "model.safetensors").read_bytes()
    path.write_bytes(raw[:-9])
    assert "not a readable safetensors file" in refused(path, "--features", cache)
    path.write_bytes(cache.read_bytes())
    assert "not a readable safetensors file" in refused(path, "--features", cache)
    path.write_bytes(raw)
    with safe_open(path, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    save_file(tensors, path, metadata | {"version": "2"})
    assert "model version 2; this program reads up to 1" in refused(path, "--features", cache)
    save_file(
        tensors, path, metadata | {"spec": metadata["spec"].replace('"last"', '"worst"').replace("mean", "worst")}
    )
    assert "no such model" in refused(path, "--features", cache)
