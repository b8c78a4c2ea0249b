"""conv and mlp: equal to torch's own modules, trained and reported as others, refused where senseless."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from caches import TEST_SPLIT
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import assert_refused, small_run, train_command
from test_compact import cell_of, clips_of
from torch import Tensor, nn

from harvib.bench import BenchSettings, bench_run
from harvib.cells import shape_of
from harvib.evaluate import evaluate_run
from harvib.models import ModelSpec, SequenceClassifier
from harvib.report.page import page
from harvib.rundir import RunFolder
from harvib.weights import load_model

LENGTHS = st.lists(st.integers(1, 7), min_size=1, max_size=4)


def plain_model(cell: str, readout: str, seed: int, layers: int = 1, both: bool = False, **fields: Any) -> Any:
    torch.manual_seed(seed)
    spec = ModelSpec(cell, "plain", 5, 5, shape_of(4, layers, both), 3, readout, **fields)
    return SequenceClassifier(spec).eval()


@given(LENGTHS, st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_an_mlp_is_torchs_on_the_mean_over_time(lengths: list[int], seed: int) -> None:
    model = plain_model("mlp", "last", seed)
    cell: Any = cell_of(model)
    twin = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    weights = (cell.weight_ih, cell.bias_ih, model.head.weight, model.head.bias)
    for target, weight in zip(twin.parameters(), weights, strict=True):
        target.data.copy_(weight)
    x, steps = clips_of(5, lengths)
    means = torch.stack([x[clip, :length].mean(0) for clip, length in enumerate(lengths)])
    torch.testing.assert_close(model(x, steps), twin(means), rtol=1e-5, atol=1e-6)
    assert model.parameter_counts()["total"] == sum(weight.numel() for weight in twin.parameters())


def convolved(cell: Any, clip: Tensor, kernel: int) -> Tensor:
    """One clip (T, D) through nn.Conv1d with the cell's weights, relu behind it, to (T, H)."""
    conv = nn.Conv1d(cell.input_size, cell.hidden_size, kernel)
    with torch.no_grad():
        assert conv.bias is not None
        conv.bias.copy_(cell.bias_ih)
        # torch's first tap is the earliest step, ours the latest.
        conv.weight.copy_(cell.weight_ih.view(kernel, cell.hidden_size, -1).permute(1, 2, 0).flip(2))
    standing = torch.cat([clip[:1].expand(kernel - 1, -1), clip])
    return conv(standing.T[None])[0].T.relu()


@given(
    lengths=LENGTHS,
    kernel=st.integers(1, 9),
    layers=st.integers(1, 3),
    both=st.booleans(),
    readout=st.sampled_from(["mean", "last"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_a_convolution_is_torchs_clip_by_clip(
    lengths: list[int], kernel: int, layers: int, both: bool, readout: str, seed: int
) -> None:
    model = plain_model("conv", readout, seed, layers, both, kernel=kernel)
    x, steps = clips_of(5, lengths)
    rows = []
    for clip, length in enumerate(lengths):
        states = x[clip, :length]
        for layer in model.recurrent.layers:
            cells = [cell for _, cell in layer.directions()]
            parts = [convolved(cells[0], states, kernel)]
            if both:
                parts.append(convolved(cells[1], states.flip(0), kernel).flip(0))
            states = torch.cat(parts, 1)
        ends = torch.cat([states[-1, :4], states[0, 4:]])
        rows.append(states.mean(0) if readout == "mean" else ends)
    torch.testing.assert_close(model(x, steps), model.head(torch.stack(rows)), rtol=1e-4, atol=1e-5)


def test_fresh_weights_lie_as_torch_draws_those_of_a_convolution() -> None:
    torch.manual_seed(1)
    model = SequenceClassifier(ModelSpec("conv", "plain", 400, 400, shape_of(50), 3, kernel=4))
    weight, theirs = cell_of(model).weight_ih, nn.Conv1d(400, 50, 4).weight.detach()
    assert isinstance(weight, Tensor)
    for measure in (torch.std, torch.max, torch.min):
        assert float(measure(weight.detach())) == pytest.approx(float(measure(theirs)), rel=0.01)


@pytest.mark.parametrize(
    ("cell", "fields"),
    [("mlp", {}), ("conv", {"kernel": 2, "layers": 2, "bidirectional": True}), ("conv", {"project": 3})],
)
def test_a_run_is_trained_evaluated_measured_and_reported(
    tmp_path: Path, cell: str, fields: dict[str, Any]
) -> None:
    run = small_run(tmp_path, model=cell, beta=2e-3, **fields)
    report = RunFolder(run).report()
    assert report["compaction"]["max_abs_difference"] <= 1e-5
    found = evaluate_run(run, tmp_path / "cache.h5", TEST_SPLIT, "test", torch.device("cpu"))
    assert found["accuracy"] == report["compact"]["accuracy"]["test"]
    model, _ = load_model(RunFolder(run).model)
    assert isinstance(model.spec, ModelSpec)
    assert model.spec.kernel == fields.get("kernel", 3)
    assert model.spec.readout == ("last" if cell == "mlp" else "mean")
    assert report["compact"]["parameters"]["total"] == sum(weight.numel() for weight in model.parameters())
    assert "compact" in bench_run(run, BenchSettings(repeats=1), memory=False)
    text = page([run])
    assert f"--model {cell}" in text
    assert ("--kernel 2" in text) == ("kernel" in fields)


WRONG = [
    (["--model=mlp", "--readout=mean"], "--readout mean: --model mlp has --readout last alone"),
    (["--model=mlp", "--layers=2"], "--model mlp has no layers and no direction"),
    (["--model=mlp", "--bidirectional"], "--model mlp has no layers and no direction"),
    (["--model=mlp", "--project=4"], "--project: --model mlp cannot stand behind one"),
    (["--model=lstm", "--kernel=5"], "--kernel 5: only --model conv has a width"),
    (["--model=conv", "--kernel=0"], "--kernel 0: must be at least 1"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_what_makes_no_sense_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    assert_refused(train_command(tmp_path / "none.h5", tmp_path / "run", *arguments), message)
