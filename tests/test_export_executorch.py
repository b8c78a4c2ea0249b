"""`harvib export --format executorch`: ExecuTorch's runtime, frame by frame, gives the Python model's logits."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pooling_models
import pytest
import torch
from click.testing import CliRunner, Result
from executorch.runtime import Runtime
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import CARD, KNOWN, assert_close, small_model
from rounded import rounded
from small_runs import assert_refused, small_run
from structured import small_of
from test_factorised_cells import FORMS, spec_of

from harvib.cli import main
from harvib.export import QUANTIZE, exported_bytes
from harvib.export.script.steps import Stepwise
from harvib.export.script.weights import floats, int8
from harvib.factorised import KINDS
from harvib.models import SequenceClassifier
from harvib.weights import ModelCard, load_model, save_model


def assert_streams(small: SequenceClassifier, expected: SequenceClassifier, quantize: str = "none") -> None:
    """After each frame the logits are those of a clip that ends there; states of two clips stand apart."""
    program = Runtime.get().load_program(exported_bytes(small, CARD, "executorch", quantize)["model.pte"])
    (text,) = program.load_method("harvib").execute(())
    told = json.loads(text)
    assert ModelCard.told(told) == CARD
    assert json.loads(told["parameters"]) == small.parameter_counts()
    step = program.load_method("step")
    clips = torch.randn(2, 7, small.spec.features)
    states = [torch.zeros(1, int(told["state"]))] * 2
    for end in range(1, 8):
        for number, clip in enumerate(clips):
            logits, after = step.execute((clip[end - 1 : end], states[number]))
            states[number] = after.clone()
            with torch.no_grad():
                assert_close(expected(clip[None, :end], torch.tensor([end])), logits)


@pytest.mark.parametrize(
    ("cell", "quantize", "options"),
    [
        ("lstm", "int8", {"layers": 2, "project": 4, "readout": "mean"}),
        ("conv", "none", {"layers": 2, "readout": "last"}),
        ("mlp", "int8", {}),
    ],
)
def test_the_runtime_streams(cell: str, quantize: str, options: dict[str, Any]) -> None:
    small = small_model(cell, 3, 0.3, False, **options)
    assert_streams(small, rounded(small) if quantize == "int8" else small, quantize)


def test_a_structured_matrix_and_rows_of_length_one_stream() -> None:
    torch.manual_seed(1)
    spec = replace(spec_of(factorize="circulant", model="gru", factorize_hidden=True), normalize=True)
    small = small_of(SequenceClassifier(spec).masked().eval(), 0.3, False)
    assert_streams(small, small)


@settings(max_examples=60, deadline=None)
@given(
    cell=st.sampled_from([*KNOWN, "linear"]),
    readout=st.sampled_from(["mean", "last"]),
    layers=st.integers(1, 3),
    project=st.sampled_from([0, 4]),
    hard=st.booleans(),
    kernel=st.sampled_from([1, 2, 3, 5]),
    quantize=st.sampled_from(QUANTIZE),
    seed=st.integers(0, 10_000),
)
def test_every_cell_streams(
    cell: str, readout: str, layers: int, project: int, hard: bool, kernel: int, quantize: str, seed: int
) -> None:
    """What the program is made of; its export takes seconds."""
    options = {} if cell in ("mean", "mlp", "linear") else {"layers": layers, "project": project}
    options |= {"kernel": kernel} if cell == "conv" else {}
    small = small_model(cell, seed, 0.3, hard, readout=readout, **options)
    assert_steps(small, quantize)


@settings(max_examples=30, deadline=None)
@given(kind=st.sampled_from(sorted(KINDS)), form=st.sampled_from(FORMS), seed=st.integers(0, 10_000))
def test_every_structured_matrix_streams(kind: str, form: dict[str, Any], seed: int) -> None:
    torch.manual_seed(seed)
    masked = SequenceClassifier(spec_of(factorize=kind, **form)).masked().eval()
    assert_steps(small_of(masked, 0.3, False), "none")


@torch.no_grad()
def assert_steps(small: SequenceClassifier, quantize: str) -> None:
    module = Stepwise(small, int8 if quantize == "int8" else floats).eval()
    expected = rounded(small) if quantize == "int8" else small
    x, state = torch.randn(2, 7, small.spec.features), torch.zeros(2, module.width)
    for end in range(1, 8):
        logits, state = module(x[:, end - 1], state)
        assert_close(expected(x[:, :end], torch.full((2,), end)), logits)


def exported(model: Path, out: Path, *arguments: str) -> Result:
    words = ["export", "--model", str(model), "--format", "executorch", "--out", str(out), *arguments]
    return CliRunner().invoke(main, words)


def test_the_command_writes_the_run(tmp_path: Path) -> None:
    run, out = small_run(tmp_path, plain_epochs=1, vib_epochs=1, finetune_epochs=1), tmp_path / "m.pte"
    result = exported(run, out)
    assert result.exit_code == 0, result.output
    assert f"{out}: ExecuTorch, one frame a call, a state of " in result.output
    model, card = load_model(run / "model.safetensors")
    program = Runtime.get().load_program(out.read_bytes())
    told = json.loads(program.load_method("harvib").execute(())[0])
    assert ModelCard.told(told) == card
    x = torch.randn(1, model.spec.features)
    logits, _ = program.load_method("step").execute((x, torch.zeros(1, int(told["state"]))))
    with torch.no_grad():
        assert_close(model(x[None], torch.tensor([1])), logits)


def test_models_that_have_no_such_form_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "both.safetensors", small_model("lstm", 0, 0.3, True, bidirectional=True), CARD)
    assert_refused(exported(tmp_path / "both.safetensors", tmp_path / "m.pte"), "reads it backwards")
    pool = pooling_models.plain_model().float()
    save_model(tmp_path / "pool.safetensors", pool, ModelCard(("a", "b", "c", "d"), "f" * 64))
    assert_refused(exported(tmp_path / "pool.safetensors", tmp_path / "m.pte"), "say --format onnx or torchscript")
    save_model(tmp_path / "one.safetensors", small_model("lstm", 0, 0.3, True), CARD)
    for name in [name for name in sys.modules if name.startswith("executorch")]:
        monkeypatch.setitem(sys.modules, name, None)
    refused = exported(tmp_path / "one.safetensors", tmp_path / "m.pte")
    assert_refused(refused, "pip install 'harfeat[executorch]', or say --format c")
    assert not (tmp_path / "m.pte").exists()
