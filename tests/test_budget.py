"""harvib.budget: targets are met, by masks alone, with validation alone, the same every time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from caches import TEST_SPLIT, made_up_cache, permuted_test_labels
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import assert_refused, train_command
from test_compact import ALONE, difference, masked_model

from harvib import methods
from harvib.budget import Controller, land, smallest_within
from harvib.checkpoint import Checkpoint
from harvib.classifier import Classifier
from harvib.compact import compact
from harvib.families import ranking_of
from harvib.models import SequenceClassifier
from harvib.rundir import RunFolder
from harvib.settings import TrainSettings
from harvib.sizes import plain_size, smallest
from harvib.weights import load_model

CPU = torch.device("cpu")
FIELDS: dict[str, Any] = {
    "hidden": 8, "plain_epochs": 4, "vib_epochs": 10, "finetune_epochs": 4, "batch": 8, "lr": 2e-2, "vib_lr": 2e-3,
    "mask_lr": 0.2, "beta": 0.01, "beta_input": 0.01, "distill": 0.0, "standardize": True, "validation": 0.3,
}  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up_cache(tmp_path_factory.mktemp("cache") / "c.h5", dim=24)


def train(cache: Path, folder: Path, **fields: Any) -> dict[str, Any]:
    return methods.train(cache, TEST_SPLIT, TrainSettings(**{**FIELDS, **fields}), folder, device=CPU)


def no_score(model: Classifier) -> tuple[float, float]:
    return 0.0, 0.0


def scattered(model: SequenceClassifier, spread: float, seed: int) -> None:
    """Masks with log alpha anywhere, of means that may be zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for mask in model.masks().values():
            mask.mu.copy_(torch.randn(mask.mu.shape, generator=generator))
            mask.mu[torch.rand(mask.mu.shape, generator=generator) < 0.1] = 0
            mask.log_variance.copy_(spread * torch.randn(mask.mu.shape, generator=generator))


def sizes_of(model: SequenceClassifier, factors: bool) -> int:
    """Parameters of the compacted model, counted one by one from its tensors."""
    small = compact(model)
    if not factors:
        small.recurrent.use_hard_scales()
    count = sum(weight.numel() for weight in small.parameters())
    if factors:
        count += sum(buffer.numel() for name, buffer in small.named_buffers() if name.endswith("_scale"))
    return count


@given(
    cell=st.sampled_from(["lstm", "gru", "rnn", "conv", "mlp", "mean"]),
    layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    project=st.sampled_from([0, 7]),
    factors=st.booleans(),
    share=st.floats(0, 0.999),
    spread=st.sampled_from([0.1, 3.0]),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=60, deadline=None)
def test_a_landing_stays_within_its_target_and_counts_exactly(
    cell: str,
    layers: int,
    bidirectional: bool,
    project: int,
    factors: bool,
    share: float,
    spread: float,
    seed: int,
) -> None:
    if cell in ALONE:
        layers, bidirectional, project = 1, False, 0
    model = masked_model(cell, 30, 30, 9, seed=seed, layers=layers, bidirectional=bidirectional, project=project)
    scattered(model, spread, seed)
    factors = factors and cell in ("lstm", "gru")
    least, most = smallest(model.spec, factors), plain_size(model.spec)
    target = int(least + share * (most - least))
    landing = land(model, target, factors, no_score)
    assert landing.parameters == sizes_of(model, factors) <= target
    assert len(model.kept_inputs()) == landing.inputs
    assert difference(model, compact(model), [3, 5]) <= 1e-5


@given(seed=st.integers(0, 10_000), share=st.floats(0.02, 0.9))
@settings(max_examples=25, deadline=None)
def test_a_landing_of_many_inputs_comes_within_five_percent(seed: int, share: float) -> None:
    model = masked_model("lstm", 400, 400, 16, seed=seed)
    scattered(model, 3.0, seed)
    target = int(share * plain_size(model.spec))
    assert 0.95 * target <= land(model, target, False, no_score).parameters <= target


def test_the_best_inputs_and_units_stay_and_dropped_ones_can_come_back() -> None:
    model = masked_model("lstm", 12, 12, 6)
    with torch.no_grad():
        for mask in model.masks().values():
            mask.mu.fill_(1.0)
            mask.log_variance.copy_(5.0 + torch.arange(mask.mu.numel()))
    assert not len(model.kept_inputs())
    land(model, 300, False, lambda m: (float(-sum(map(sum, m.kept_units()))), 0.0))
    assert model.kept_inputs().tolist() == list(range(len(model.kept_inputs())))
    assert model.masks()["g"].keep().nonzero().flatten().tolist() == list(range(sum(map(sum, model.kept_units()))))


def test_inputs_against_units_is_decided_by_the_score() -> None:
    def units_after(sign: int) -> int:
        model = masked_model("lstm", 400, 400, 16)
        scattered(model, 3.0, 0)
        land(model, 3000, False, lambda m: (float(sign * sum(map(sum, m.kept_units()))), 0.0))
        return sum(map(sum, model.kept_units()))

    assert units_after(-1) < units_after(1)


def test_the_border_is_where_the_ranking_is_cut_for_the_target() -> None:
    model = masked_model("lstm", 40, 40, 8)
    scattered(model, 3.0, 1)
    ranking = ranking_of(model)
    border = ranking.border(700, False)
    naive = max(
        value
        for value in torch.cat([ranking.inputs, ranking.units]).tolist()
        if ranking.parameters(max(1, int((ranking.inputs <= value).sum())), value, False) <= 700
    )
    assert border == pytest.approx(naive)


def test_the_controller_pushes_where_too_much_is_kept_and_yields_where_too_little_is() -> None:
    model, stronger, weaker = masked_model("lstm", 40, 40, 8), Controller(700, False), Controller(700, False)
    for controller, log_variance in ((stronger, -9.0), (weaker, 9.0)):
        for epoch in range(1, 6):
            with torch.no_grad():
                for mask in model.masks().values():
                    mask.mu.fill_(1.0)
                    mask.log_variance.copy_(log_variance + 0.01 * torch.arange(mask.mu.numel()))
            controller.after_epoch(model, epoch, 10)
    assert stronger.strength > 1.5
    assert weaker.strength < 0.7
    again = Controller(700, False)
    again.load(stronger.state())
    assert (again.strength, again.state().tolist()) == (stronger.strength, stronger.state().tolist())


def test_a_steered_run_needs_little_landing(cache: Path, tmp_path: Path) -> None:
    """From strengths a thousand times apart the masks themselves come near the target."""
    for name, beta in (("weak", 1e-4), ("strong", 0.1)):
        fields = {"beta": beta, "beta_input": beta, "vib_epochs": 40, "mask_lr": 0.1, "hidden": 16, "batch": 2}
        budget = train(cache, tmp_path / name, target_params=800, **fields)["budget"]
        inputs, units = budget["before_landing"]["inputs"], budget["before_landing"]["units"]
        count = 4 * units * (inputs + units + 2) + 3 * units + 3
        assert 400 < count < 1600, budget


@pytest.mark.parametrize("border", [3, 40, 99, 700, 5000, 70_000])
def test_the_smallest_target_that_passes_is_found_within_a_quarter(border: int) -> None:
    found = smallest_within(lambda target: target >= border, 100_000, 3)
    assert found is not None
    assert border <= found <= max(1.3 * border, 12)
    assert smallest_within(lambda target: False, 1000, 3) is None


@pytest.mark.parametrize(
    ("fields", "target"),
    [
        ({"target_params": 400}, 400),
        ({"target_ratio": 4.0}, (4 * 8 * 32 + 64 + 27) // 4),
        ({"target_params": 400, "model": "gru", "layers": 2, "hidden": 6}, 400),
        ({"target_params": 300, "keep_scales": True}, 300),
        ({"target_params": 300, "project": 6}, 300),
        ({"target_params": 40, "model": "mean"}, 40),
        ({"target_params": 400, "method": "magnitude"}, 400),
        ({"target_params": 300, "method": "magnitude", "project": 6}, 300),
        ({"target_params": 400, "method": "movement", "movement_epochs": 4}, 400),
        ({"target_params": 100, "model": "mlp"}, 100),
        ({"target_params": 100, "model": "mlp", "method": "movement", "movement_epochs": 2}, 100),
        ({"target_params": 200, "model": "conv", "layers": 2, "bidirectional": True}, 200),
        ({"target_params": 200, "model": "conv", "project": 6, "kernel": 2, "method": "magnitude"}, 200),
        ({"target_params": 400, "method": "lasso", "lasso_input": 0.01, "lasso": 0.001, "lasso_epochs": 4}, 400),
        # A strength that is far off either way.
        ({"target_params": 400, "beta": 1e-6, "beta_input": 1e-6}, 400),
        ({"target_params": 400, "beta": 30.0, "beta_input": 30.0}, 400),
    ],
)
def test_a_run_ends_at_its_target(cache: Path, tmp_path: Path, fields: dict[str, Any], target: int) -> None:
    report = train(cache, tmp_path / "run", **fields)
    budget = report["budget"]
    assert budget["target"] == target
    assert budget["reached"] == report["compact"]["parameters"]["total"] <= target
    assert budget["reached"] >= 0.95 * target or report["compact"]["inputs"] <= 12, "the steps are coarse here"
    assert ("strength" in budget) == (fields.get("method", "vib") == "vib")
    assert report["compaction"]["max_abs_difference"] <= 1e-5


def test_a_drop_of_accuracy_is_kept_and_nothing_of_the_search_stays(cache: Path, tmp_path: Path) -> None:
    report = train(cache, tmp_path / "run", max_drop=10.0)
    floor = report["plain"]["accuracy"]["validation"] - 0.1
    assert report["compact"]["accuracy"]["validation"] >= floor - 1e-9
    tried = report["budget"]["tried"]
    passed = [step["target"] for step in tried if step["validation"] >= floor - 1e-9]
    assert report["budget"]["target"] == min(passed)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "config.json", "metrics.csv", "report.json", "plain.safetensors", "masked.safetensors",
        "model.safetensors",
    }  # fmt: skip
    stages = [row["stage"] for row in RunFolder(tmp_path / "run").rows()]
    assert stages == ["plain"] * 4 + ["vib"] * 10 + ["finetune"] * 4


def test_test_clips_do_not_steer_the_search(tmp_path: Path) -> None:
    for name, change in (("a", None), ("b", permuted_test_labels)):
        train(made_up_cache(tmp_path / f"{name}.h5", dim=24, change=change), tmp_path / name, target_params=400)
    for file in ("model.safetensors", "masked.safetensors"):
        weights = [load_model(tmp_path / name / file)[0].state_dict() for name in "ab"]
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize(("stage", "epoch"), [("vib", 4), ("vib", 10), ("finetune", 2)])
@pytest.mark.parametrize("fields", [{"target_params": 400}, {"max_drop": 20.0, "vib_epochs": 10}])
def test_an_interrupted_search_ends_as_an_uninterrupted_one(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], stage: str, epoch: int
) -> None:
    genuine = RunFolder.record

    def stop(self: RunFolder, row: dict[str, Any]) -> None:
        genuine(self, row)
        if (row["stage"], row["epoch"]) == (stage, epoch):
            raise KeyboardInterrupt

    whole = train(cache, tmp_path / "whole", **fields)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "checkpoint", property(lambda self: Checkpoint(self.path / "last", 0.0)))
        patch.setattr(RunFolder, "record", stop)
        with pytest.raises(KeyboardInterrupt):
            train(cache, tmp_path / "cut", **fields)
    resumed = train(cache, tmp_path / "cut", **fields)
    for key in ("budget", "masked", "compact", "confusion"):
        assert resumed[key] == whole[key]
    for name in ("masked.safetensors", "model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    shutil.rmtree(tmp_path / "whole")


WRONG = [
    (["--target-params=100", "--target-ratio=5"], "--target-params and --target-ratio: give one budget, not two"),
    (["--target-ratio=5", "--max-drop=1"], "--target-ratio and --max-drop: give one budget, not two"),
    (["--target-ratio=0.5"], "--target-ratio 0.5: must be above 1"),
    (["--max-drop=-0.5"], "--max-drop -0.5: must be at least 0"),
    (["--max-drop=nan"], "--max-drop nan: must be"),
    (["--target-params=-1"], "--target-params -1: must be at least 0"),
    (["--target-params=100", "--method=plain"], "--target-params: --method plain prunes nothing"),
    (["--method=magnitude"], "--method magnitude: how much is to leave? Say --target-params"),
    (["--method=movement"], "--method movement: how much is to leave? Say --target-params"),
    (["--target-params=100", "--beta=0", "--beta-input=0"], "--beta and --beta-input are both 0"),
    (["--target-params=3"], "--target-params 3: 3 parameters; it must be from 22 to "),
    (["--target-ratio=1e9"], "--target-ratio 1e+09: 0 parameters; it must be from 22 to "),
    (["--target-params=10000000"], "it must be from 22 to "),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_a_budget_that_cannot_be_is_one_line_and_leaves_no_folder(
    cache: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    assert_refused(train_command(cache, tmp_path / "run", *arguments), message)
    assert not (tmp_path / "run").exists()


def test_the_command_line_meets_a_target(cache: Path, tmp_path: Path) -> None:
    options = [f"--{name.replace('_', '-')}={value}" for name, value in FIELDS.items() if name != "standardize"]
    result = train_command(cache, tmp_path / "run", *options, "--target-params=500", "--device=cpu")
    assert result.exit_code == 0, result.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["budget"]["reached"] <= report["budget"]["target"] == 500
