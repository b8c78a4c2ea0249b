"""`harvib export --format torchscript`: torch alone gives the same logits from the file; what is refused."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from caches import TEST_SPLIT
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import CARD, KNOWN, LENGTHS, assert_close, padded, small_model, stacked
from rounded import rounded
from small_runs import ODD_CLASSES, assert_refused, small_run
from structured import small_of
from test_factorised_cells import FORMS, spec_of

from harvib.classifier import Classifier
from harvib.cli import main
from harvib.errors import InputError
from harvib.evaluate import evaluate_run
from harvib.export import exported_bytes
from harvib.export.script import cells, to_script
from harvib.factorised import KINDS
from harvib.models import SequenceClassifier
from harvib.scriptfile import SUFFIX, TOLD, load_script, read_script
from harvib.weights import load_model

BATCHES = (LENGTHS, (3,), (1, 1))
CPU = torch.device("cpu")


def assert_same(
    small: Classifier, features: int, quantize: str = "none", expected: Classifier | None = None
) -> None:
    """One file has the logits of the Python model, whatever the number of clips and of steps."""
    module, card = read_script(to_script(small, CARD, quantize), "x")
    assert card == CARD
    assert module.parameter_counts() == small.parameter_counts()
    for lengths in BATCHES:
        x, steps = padded(features, lengths)
        with torch.no_grad():
            assert_close((expected or small)(x, steps), module(x, steps))


@settings(max_examples=20, deadline=None)
@given(
    cell=st.sampled_from([*KNOWN, "linear"]),
    readout=st.sampled_from(["mean", "last"]),
    layers=st.integers(1, 3),
    both=st.booleans(),
    project=st.sampled_from([0, 4]),
    hard=st.booleans(),
    kernel=st.sampled_from([1, 3, 5]),
    drop=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 10_000),
)
def test_torch_alone_gives_the_compact_models_logits(
    cell: str, readout: str, layers: int, both: bool, project: int, hard: bool, kernel: int, drop: float, seed: int
) -> None:
    options: dict[str, Any] = {} if cell == "linear" else stacked(cell, layers, both, project)
    if cell == "conv":
        options["kernel"] = kernel
    small = small_model(cell, seed, drop, hard, readout=readout, **options)
    assert_same(small, small.spec.features)


@settings(max_examples=20, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    form=st.sampled_from(FORMS),
    readout=st.sampled_from(["mean", "last"]),
    hard=st.booleans(),
    drop=st.sampled_from([0.0, 0.4]),
    seed=st.integers(0, 10_000),
)
def test_structured_matrices_have_the_logits_of_the_compact_model(
    kind: str, form: dict[str, Any], readout: str, hard: bool, drop: float, seed: int
) -> None:
    torch.manual_seed(seed)
    factors = {"factors": 2 + seed % 2} if kind.startswith("circulant") and seed % 3 else {}
    masked = SequenceClassifier(spec_of(factorize=kind, readout=readout, **{**form, **factors})).masked().eval()
    small = small_of(masked, drop, hard)
    assert_same(small, small.spec.features)


@settings(max_examples=12, deadline=None)
@given(
    cell=st.sampled_from([*KNOWN, "linear"]),
    both=st.booleans(),
    project=st.sampled_from([0, 4]),
    hard=st.booleans(),
    kind=st.sampled_from(["", *sorted(KINDS)]),
    seed=st.integers(0, 10_000),
)
def test_weights_in_8_bits_are_those_that_the_codes_stand_for(
    cell: str, both: bool, project: int, hard: bool, kind: str, seed: int
) -> None:
    if kind:
        torch.manual_seed(seed)
        spec = spec_of(factorize=kind, model="lstm", **({"project": 6} if project else {"factorize_hidden": both}))
        small = small_of(SequenceClassifier(spec).masked().eval(), 0.3, hard)
    else:
        options = {} if cell == "linear" else stacked(cell, 2, both, project)
        small = small_model(cell, seed, 0.3, hard, **options)
    assert_same(small, small.spec.features, "int8", rounded(small))


def test_the_same_model_gives_the_same_bytes() -> None:
    small = small_model("lstm", 0, 0.3, False)
    assert to_script(small, CARD) == to_script(small, CARD)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("runs"))


def exported(model: Path, out: Path, *arguments: str) -> Result:
    words = ["export", "--model", str(model), "--format", "torchscript", "--out", str(out), *arguments]
    return CliRunner().invoke(main, words)


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_evaluate_repeats_the_accuracy_from_the_file(run: Path, quantize: str, tmp_path: Path) -> None:
    out = tmp_path / "m.pt"
    result = exported(run, out, "--quantize", quantize)
    assert result.exit_code == 0, result.output
    assert f"{out}: TorchScript, inputs " in result.output
    cache = run.parent / "cache.h5"
    ours = evaluate_run(run, cache, TEST_SPLIT, "test", CPU)
    words = ["evaluate", "--model", str(out), "--features", str(cache), "--split", TEST_SPLIT, "--json"]
    theirs = json.loads(CliRunner().invoke(main, words).stdout)
    if quantize == "none":
        assert theirs.pop("loss") == pytest.approx(ours.pop("loss"), abs=1e-5)
        assert theirs == ours
    assert abs(theirs["accuracy"] - ours["accuracy"]) <= 0.01


def test_torch_alone_loads_it(run: Path, tmp_path: Path) -> None:
    """In a process of its own that can import nothing of harvib."""
    assert exported(run, tmp_path / "m.pt").exit_code == 0
    program = f"""
import json, sys, torch
sys.modules["harvib"] = sys.modules["harfeat"] = None
told = {{"{TOLD}": ""}}
model = torch.jit.load("m.pt", _extra_files=told)
print(json.loads(json.loads(told["{TOLD}"])["classes"])[1])
print(tuple(model(torch.zeros(2, 3, 12), torch.tensor([3, 1])).shape))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [ODD_CLASSES[1], "(2, 4)"]


def with_told(data: bytes, change: dict[str, str | None] | bytes) -> bytes:
    """The file with other words of itself."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(TOLD):
                told = {} if isinstance(change, bytes) else json.loads(content) | change
                kept = {key: value for key, value in told.items() if value is not None}
                content = change if isinstance(change, bytes) else json.dumps(kept).encode()
            new.writestr(name, content)
    return changed.getvalue()


def test_other_and_damaged_files_are_refused_before_they_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = to_script(small_model("lstm", 0, 0.3, True), CARD)
    loaded: list[int] = []
    genuine = torch.jit.load

    def load(*given: Any, **named: Any) -> Any:
        loaded.append(1)
        return genuine(*given, **named)

    monkeypatch.setattr(torch.jit, "load", load)

    def refused(content: bytes) -> str:
        with pytest.raises(InputError) as caught:
            read_script(content, "f.pt")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    foreign = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), foreign)
    pickled = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, pickled)
    for content in (foreign.getvalue(), pickled.getvalue()):
        assert refused(content) == "f.pt: not a TorchScript file of harvib (no format in its metadata)"
    for content in (b"", b"PK\x03\x04" + b"\xff" * 60, data[: len(data) // 2]):
        assert "not a readable TorchScript file" in refused(content)
    assert "no table of texts" in refused(with_told(data, b'["harvib-torchscript"]'))
    assert "not a readable TorchScript file" in refused(with_told(data, b"\xff{"))
    assert "version 2; this program reads 1: update it" in refused(with_told(data, {"version": "2"}))
    assert "KeyError" not in refused(with_told(data, {"classes": None}))
    assert not loaded
    for change in (
        {"classes": '["a"]'},
        {"parameters": "["},
        {"features": "1"},
        {"features": "-1"},
        {"recipe": '{"model": "x"}'},
    ):
        assert "file damaged" in refused(with_told(data, change))  # type: ignore[arg-type]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        weights = next(name for name in archive.namelist() if name.endswith("data/0"))
        start = data.index(archive.read(weights))
    bad = data[:start] + b"\xff" + data[start + 1 :]
    assert "file damaged" in refused(bad)
    squeezed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(squeezed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        place = next(
            item.header_offset + 30 + len(item.filename) for item in new.infolist() if TOLD in item.filename
        )
    torn = bytearray(squeezed.getvalue())
    torn[place : place + 20] = b"\xff" * 20
    assert "not a readable TorchScript file" in refused(bytes(torn))
    with pytest.raises(InputError, match="cannot be read: No such file"):
        load_script(tmp_path / f"none{SUFFIX}")


def test_evaluate_says_which_files_it_does_not_read(run: Path, tmp_path: Path) -> None:
    assert (
        CliRunner()
        .invoke(main, ["export", "--model", str(run), "--format", "c", "--out", str(tmp_path / "m.c")])
        .exit_code
        == 0
    )
    words = ["evaluate", "--model", str(tmp_path / "m.c"), "--features", str(run.parent / "cache.h5")]
    assert_refused(
        CliRunner().invoke(main, words), "name the run, or its file that ends in .safetensors, .onnx or .pt"
    )


def test_cells_without_such_a_form_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "EMITTERS", {})
    with pytest.raises(InputError, match="a CompactLSTM cannot be written yet: say --format onnx"):
        to_script(small_model("lstm", 0, 0.0, True), CARD)


def test_exported_bytes_are_the_files(run: Path, tmp_path: Path) -> None:
    model, card = load_model(run / "model.safetensors")
    for form in ("torch", "onnx", "torchscript", "c"):
        files = exported_bytes(model, card, form, name="m")
        for name, data in files.items():
            (tmp_path / name).write_bytes(b"")
            words = ["export", "--model", str(run), "--format", form, "--out", str(tmp_path / next(iter(files)))]
            assert CliRunner().invoke(main, words).exit_code == 0
            assert (tmp_path / name).read_bytes() == data
    with pytest.raises(InputError, match="--quantize int3: choose one of none, int8"):
        exported_bytes(model, card, "c", "int3")
    with pytest.raises(InputError, match="--format tflite: choose one of torch, onnx, torchscript, executorch, c"):
        exported_bytes(model, card, "tflite")
    assert_refused(exported(run, tmp_path / "none" / "m.pt"), "its folder does not exist")
