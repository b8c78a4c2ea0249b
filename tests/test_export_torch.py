"""`harvib export --format torch`: torch's modules give the same logits, from the file alone; `prune` reads it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from caches import TEST_SPLIT, made_up_cache
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_runs import small_run
from test_compact import clips_of, masked_model, set_mask
from torch import nn

from harvib.cells import CELLS
from harvib.cli import main
from harvib.compact import compact
from harvib.errors import InputError
from harvib.export import to_torch
from harvib.foreign import read_foreign
from harvib.models import ModelSpec, SequenceClassifier, recurrent
from harvib.rundir import RunFolder
from harvib.weights import ModelCard, load_model, save_model

CARD = ModelCard(("a", "b", "c", "d"), "f" * 64)
LENGTHS = (7, 1, 4, 5)


def small_model(cell: str, seed: int, drop: float, **options: Any) -> SequenceClassifier:
    """A compact model whose masks dropped a random share, its factors made 0 or 1 as fine-tuning does it."""
    masked = masked_model(cell, features=9, inputs=7, hidden=6, seed=seed, **options)
    for mask in masked.masks().values():
        keep = torch.rand(mask.mu.numel()) >= drop
        keep[:3] = True
        set_mask(mask, keep.tolist())
    small = compact(masked)
    small.recurrent.use_hard_scales()
    return small


def file_of(tmp_path: Path, model: SequenceClassifier, card: ModelCard = CARD) -> Path:
    """An exported model, by the command."""
    save_model(tmp_path / "model.safetensors", model, card)
    code, text = call("export", "--model", tmp_path / "model.safetensors", "--out", tmp_path / "x.safetensors")
    assert code == 0, text
    return tmp_path / "x.safetensors"


def call(*words: Any) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(word) for word in words])
    return result.exit_code, result.output


def assert_equal(model: SequenceClassifier, other: Any) -> None:
    x, lengths = clips_of(model.spec.features, LENGTHS)
    x = x.to(model.head.weight.dtype)
    tolerance = 1e-6 if x.dtype == torch.float32 else 1e-12
    # Whatever stands in the padding must not be seen.
    for row, length in enumerate(LENGTHS):
        x[row, length:] = 100.0
    with torch.no_grad():
        ours, theirs = model(x, lengths), other(x, lengths)
        scale = max(1.0, float(ours.abs().max()))
        assert float((ours - theirs).abs().max()) / scale <= tolerance
        whole = torch.full((len(x),), x.shape[1])
        torch.testing.assert_close(other(x), model(x, whole), rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    cell=st.sampled_from(sorted(CELLS.keys() - {"conv", "mlp"})),
    readout=st.sampled_from(["mean", "last"]),
    layers=st.integers(1, 3),
    both=st.booleans(),
    project=st.sampled_from([0, 4]),
    drop=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 10_000),
)
def test_the_torch_module_gives_the_compact_models_logits(
    cell: str, readout: str, layers: int, both: bool, project: int, drop: float, seed: int
) -> None:
    stacks = CELLS[cell].STACKS
    options: dict[str, Any] = {"layers": layers, "bidirectional": both, "project": project} if stacks else {}
    small = small_model(cell, seed, drop, readout=readout, **options).double()
    module = to_torch(small)
    assert_equal(small, module)
    # All weights lie in torch's own modules.
    assert {type(part) for part in module.modules() if part._parameters} <= {nn.LSTM, nn.GRU, nn.RNN, nn.Linear}
    if stacks and (drop == 0 or (layers == 1 and not both)):
        assert isinstance(module.rnn, nn.RNNBase)


def test_layers_of_different_widths_are_a_module_each() -> None:
    masked = masked_model("lstm", layers=2, bidirectional=True)
    masks = masked.masks()
    set_mask(masks["1f.o"], [True, False, True, True, False])
    set_mask(masks["2b.g"], [False] * 5)
    small = compact(masked)
    small.recurrent.use_hard_scales()
    module = to_torch(small)
    names = set(module.state_dict())
    assert {"rnn.0.0.weight_ih_l0", "rnn.0.1.weight_ih_l0", "rnn.1.0.weight_hh_l0"} <= names
    assert not any(name.startswith("rnn.1.1") for name in names)
    assert_equal(small, module)


@pytest.mark.parametrize("state", ["plain", "masked"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "mean"])
def test_plain_and_masked_models_are_folded_first(state: str, cell: str) -> None:
    masked = masked_model(cell, features=9, inputs=7)
    model: SequenceClassifier = masked
    if state == "plain":
        shape = ((7,),) if cell == "mean" else ((5, 5), (5, 5))
        model = SequenceClassifier(ModelSpec(cell, "plain", 9, 7, shape, 4)).eval()
        model.standardize_by(masked.input_mean, 1 / masked.input_scale.clamp_min(1e-3))
        model.selection.copy_(masked.selection)
    elif cell in ("lstm", "gru"):
        for name, mask in masked.masks().items():
            if name in ("i", "f", "g", "r", "u"):
                set_mask(mask, [True] * 5, torch.ones(5))
    assert_equal(model, to_torch(model))


def test_a_shut_gate_is_exported_and_other_factors_are_refused(tmp_path: Path) -> None:
    masked = masked_model("lstm")
    for gate in ("i", "g", "f"):
        set_mask(masked.masks()[gate], [gate != "f", True, True, True, True], torch.ones(5))
    small = compact(masked)
    assert_equal(small, to_torch(small))
    scaled = compact(masked_model("lstm"))
    with pytest.raises(InputError, match="leave out --keep-scales"):
        to_torch(scaled)
    save_model(tmp_path / "m.safetensors", scaled, CARD)
    code, text = call("export", "--model", tmp_path / "m.safetensors", "--out", tmp_path / "x.safetensors")
    assert (code, len(text.splitlines())) == (2, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


PROGRAM = """
import json, sys
import torch
from safetensors import safe_open
from safetensors.torch import load_file

path, out = sys.argv[1:]
with safe_open(path, "pt") as file:
    told = json.loads(file.metadata()["model"])
(hidden,), classes = told["shape"][0], len(told["classes"])
model = torch.nn.ModuleDict({
    "rnn": torch.nn.GRU(len(told["inputs"]), hidden, batch_first=True), "head": torch.nn.Linear(hidden, classes)
})
model.load_state_dict(load_file(path))
x = torch.linspace(-2, 2, 3 * 5 * told["features"]).view(3, 5, -1)
with torch.no_grad():
    print(json.dumps(model["head"](model["rnn"](x[..., told["inputs"]])[0].mean(1)).tolist()))
assert "harvib" not in sys.modules
"""


def test_a_program_without_harvib_loads_the_file_and_gets_the_logits(tmp_path: Path) -> None:
    small = small_model("gru", 3, 0.5)
    path = file_of(tmp_path, small)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), ""], capture_output=True, text=True, timeout=60, check=True
    )
    x = torch.linspace(-2, 2, 3 * 5 * 9).view(3, 5, 9)
    with torch.no_grad():
        ours = small(x, torch.tensor([5, 5, 5]))
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), ours, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "rnn-relu"])
def test_a_file_is_read_back_as_the_same_model(cell: str, tmp_path: Path) -> None:
    small = small_model(cell, 1, 0.5, readout="last")
    path = file_of(tmp_path, small)
    found = read_foreign(path)
    assert found.card is not None
    assert (found.card.classes, found.card.fingerprint) == (CARD.classes, CARD.fingerprint)
    assert_equal(
        small, lambda x, lengths=None: found.classifier(x, torch.tensor([7] * 4) if lengths is None else lengths)
    )
    with pytest.raises(InputError, match=r"--readout mean: .* says last"):
        read_foreign(path, "mean")


def test_equal_models_give_equal_files_with_metadata(tmp_path: Path) -> None:
    small = small_model("lstm", 2, 0.5)
    path = file_of(tmp_path, small)
    before = path.read_bytes()
    assert file_of(tmp_path, small).read_bytes() == before
    with safe_open(path, "pt") as file:
        told = json.loads(file.metadata()["model"])
    assert told["inputs"] == small.selection.tolist()
    assert (told["cell"], told["features"], told["readout"]) == ("lstm", 9, "mean")
    assert told["classes"] == list(CARD.classes)


def test_a_finished_run_is_exported_and_pruned_again(tmp_path: Path) -> None:
    run, out = small_run(tmp_path), tmp_path / "x.safetensors"
    code, text = call("export", "--model", run, "--format", "torch", "--out", out)
    assert code == 0, text
    loaded, card = load_model(RunFolder(run).model)
    model = recurrent(loaded, "")
    kept, units = model.spec.inputs, model.spec.shape[0][0]
    assert text == f"{out}: inputs {kept}, nn.LSTM({kept}, {units}), nn.Linear({units}, 4)\n"
    words: tuple[Any, ...] = (
        "prune",
        "--model",
        out,
        "--features",
        tmp_path / "cache.h5",
        "--split",
        TEST_SPLIT,
        "--batch=8",
    )
    words += ("--vib-epochs=2", "--finetune-epochs=1", "--device=cpu", "--run-dir", tmp_path / "again")
    code, text = call(*words)
    assert code == 0, text
    plain, _ = load_model(RunFolder(tmp_path / "again").plain)
    assert_equal(model, lambda x, lengths=None: plain(x, torch.tensor([7] * 4) if lengths is None else lengths))
    other = made_up_cache(tmp_path / "o.h5", classes=card.classes[::-1], dim=12)
    code, text = call(
        "prune", "--model", out, "--features", other, "--split", TEST_SPLIT, "--run-dir", tmp_path / "o"
    )
    assert code == 2
    assert "not in its order" in text
    other = made_up_cache(tmp_path / "p.h5", classes=card.classes, dim=12, recipe="another")
    code, text = call(
        "prune", "--model", out, "--features", other, "--split", TEST_SPLIT, "--run-dir", tmp_path / "o"
    )
    assert code == 2
    assert "was made for features" in text


def test_what_cannot_be_exported_or_read_is_told_in_one_line(tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    path = file_of(tmp_path, small_model("lstm", 2, 0.5))
    for words, said in (
        (("--model", tmp_path / "none", "--out", out), "no such model file"),
        (("--model", path, "--out", out), "not a harvib model"),
        (("--model", tmp_path / "model.safetensors", "--out", tmp_path), "is a folder"),
        (("--model", tmp_path / "model.safetensors", "--out", tmp_path / "no" / "x"), "does not exist"),
    ):
        code, text = call("export", *words)
        assert (code, len(text.splitlines())) == (2, 1)
        assert said in text

    def refused(**changes: Any) -> str:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        told = json.loads(metadata["model"]) | changes.pop("model", {})
        save_file(load_file(path), tmp_path / "y.safetensors", metadata | {"model": json.dumps(told)} | changes)
        with pytest.raises(InputError) as error:
            read_foreign(tmp_path / "y.safetensors")
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "cannot be understood" in refused(model={"more": 1})
    assert "not indices" in refused(model={"inputs": [0, 0]})
    assert "not indices" in refused(model={"features": 1})
    assert "do not fit" in refused(model={"inputs": [0]})
    assert "update it" in refused(version="2")
    widths = masked_model("lstm", layers=2)
    set_mask(widths.masks()["1f.o"], [True, False, True, True, True])
    several = compact(widths)
    several.recurrent.use_hard_scales()
    with pytest.raises(InputError, match="several recurrent parts"):
        read_foreign(file_of(tmp_path, several))
    save_file({"weight_ih_l0": torch.zeros(4, 2)}, tmp_path / "z.safetensors")
    with pytest.raises(InputError, match="does not tell it"):
        read_foreign(tmp_path / "z.safetensors")


@pytest.mark.parametrize("cell", ["conv", "mlp"])
def test_a_cell_that_is_no_module_of_these_is_refused(cell: str, tmp_path: Path) -> None:
    save_model(tmp_path / "m.safetensors", small_model(cell, 1, 0.5), CARD)
    code, text = call("export", "--model", tmp_path / "m.safetensors", "--out", tmp_path / "x.safetensors")
    assert (code, len(text.splitlines())) == (2, 1)
    assert f"{cell} is none of them" in text
    assert not (tmp_path / "x.safetensors").exists()


def test_an_interrupted_run_has_nothing_to_export(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    report = {"interrupted": {"stage": "vib", "epoch": 1, "of": 3}}
    (tmp_path / "run" / "report.json").write_text(json.dumps(report))
    save_model(tmp_path / "run" / "model.safetensors", small_model("lstm", 2, 0.5), CARD)
    code, text = call("export", "--model", tmp_path / "run", "--out", tmp_path / "x.safetensors")
    assert code == 2
    assert "interrupted before its final model; repeat its command" in text
    assert not (tmp_path / "x.safetensors").exists()
