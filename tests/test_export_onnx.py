"""`harvib export --format onnx`: onnxruntime gives the same logits from the file alone; what is refused."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from caches import TEST_SPLIT
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import CARD, KNOWN, LENGTHS, assert_close, padded, small_model, stacked
from small_runs import assert_refused, small_run

from harvib.cli import main
from harvib.errors import InputError
from harvib.evaluate import evaluate_run
from harvib.export import onnx_cells
from harvib.export.matrices import Float32
from harvib.export.onnx import to_onnx
from harvib.onnxfile import load_onnx, read_onnx


@settings(max_examples=60, deadline=None)
@given(
    cell=st.sampled_from(KNOWN),
    readout=st.sampled_from(["mean", "last"]),
    layers=st.integers(1, 3),
    both=st.booleans(),
    project=st.sampled_from([0, 4]),
    hard=st.booleans(),
    kernel=st.sampled_from([1, 3, 5]),
    drop=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 10_000),
)
def test_onnxruntime_gives_the_compact_models_logits(
    cell: str, readout: str, layers: int, both: bool, project: int, hard: bool, kernel: int, drop: float, seed: int
) -> None:
    options = stacked(cell, layers, both, project)
    if cell == "conv":
        options["kernel"] = kernel
    small = small_model(cell, seed, drop, hard, readout=readout, **options)
    module, card = read_onnx(to_onnx(small, CARD, Float32()).SerializeToString(), "x")
    assert card == CARD
    assert module.parameter_counts() == small.parameter_counts()
    with torch.no_grad():
        # One file for every number of clips and steps.
        for lengths in (LENGTHS, (3,), (1, 1)):
            x, steps = padded(small.spec.features, lengths)
            assert_close(small(x, steps), module(x, steps))


def test_plain_cells_are_onnxs_own_operators_and_factors_are_a_scan() -> None:
    kinds = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN", "rnn-relu": "RNN"}
    for cell, kind in kinds.items():
        proto = to_onnx(small_model(cell, 1, 0.4, True), CARD, Float32())
        assert [node.op_type for node in proto.graph.node if node.op_type in (kind, "Scan")] == [kind]
    proto = to_onnx(small_model("gru", 1, 0.0, False), CARD, Float32())
    assert "Scan" in {node.op_type for node in proto.graph.node}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    small_run(folder)
    return folder


def exported(folder: Path, out: Path) -> Path:
    model = str(folder / "run")
    result = CliRunner().invoke(main, ["export", "--model", model, "--format", "onnx", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert f"{out}: ONNX, opset 21, inputs " in result.output
    return out


def test_the_file_has_the_accuracy_of_the_run(folder: Path, tmp_path: Path) -> None:
    file = exported(folder, tmp_path / "m.onnx")
    cpu = torch.device("cpu")
    ours = evaluate_run(folder / "run", folder / "cache.h5", TEST_SPLIT, "test", cpu)
    theirs = evaluate_run(file, folder / "cache.h5", TEST_SPLIT, "test", cpu)
    assert theirs.pop("loss") == pytest.approx(ours.pop("loss"), abs=1e-5)
    assert theirs == ours
    arguments = ["evaluate", "--model", str(file), "--features", str(folder / "cache.h5"), "--split", TEST_SPLIT]
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert json.loads(result.stdout)["confusion"] == ours["confusion"]


def test_it_runs_without_harvib(folder: Path, tmp_path: Path) -> None:
    session = onnxruntime.InferenceSession(str(exported(folder, tmp_path / "m.onnx")))
    given = {"features": np.zeros((2, 3, 12), np.float32), "lengths": np.array([3, 1])}
    (logits,) = session.run(["logits"], given)
    assert logits.shape == (2, 4)
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"])[1] == 'jump "high" $x_1$ $y$'


def with_field(proto: onnx.ModelProto, name: str, value: str) -> onnx.ModelProto:
    changed = copy.deepcopy(proto)
    next(item for item in changed.metadata_props if item.key == name).value = value
    return changed


def test_other_and_damaged_files_are_refused(tmp_path: Path) -> None:
    def refused(data: bytes) -> str:
        with pytest.raises(InputError) as caught:
            read_onnx(data, "f.onnx")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    proto = to_onnx(small_model("lstm", 0, 0.3, True), CARD, Float32())
    data = proto.SerializeToString()
    assert "not a readable ONNX file" in refused(b"\xff" * 50)
    assert "f.onnx: " in refused(data[: len(data) // 2])
    assert "no format in its metadata" in refused(b"")
    assert "version 2; this program reads 1" in refused(with_field(proto, "version", "2").SerializeToString())
    assert "file damaged" in refused(with_field(proto, "classes", '["a"]').SerializeToString())
    assert "file damaged" in refused(with_field(proto, "parameters", "[").SerializeToString())
    text = data.replace(b"harvib-onnx", b"harvib-onn\xff")
    assert "its metadata is no text" in refused(text)
    elsewhere = copy.deepcopy(proto)
    tensor = elsewhere.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    assert "another file" in refused(elsewhere.SerializeToString())
    foreign = copy.deepcopy(proto)
    foreign.graph.node[0].domain = "com.example"
    assert "is none of ONNX" in refused(foreign.SerializeToString())
    inside = to_onnx(small_model("lstm", 0, 0.0, False), CARD, Float32())
    (scan,) = (node for node in inside.graph.node if node.op_type == "Scan")
    body = next(item.g for item in scan.attribute if item.name == "body")
    body.node[0].domain = "com.example"
    assert "is none of ONNX" in refused(inside.SerializeToString())
    with pytest.raises(InputError, match="cannot be read"):
        load_onnx(tmp_path / "none.onnx")


def test_damage_that_shows_when_the_file_runs_is_one_line() -> None:
    proto = to_onnx(small_model("lstm", 0, 0.3, True), CARD, Float32())
    told = []
    for number, tensor in enumerate(proto.graph.initializer):
        if tensor.data_type != onnx.TensorProto.INT64:
            continue
        changed = copy.deepcopy(proto)
        values = onnx.numpy_helper.to_array(tensor) + 1
        changed.graph.initializer[number].CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        try:
            model, _ = read_onnx(changed.SerializeToString(), "f.onnx")
            model(torch.zeros(1, 2, model.features), torch.tensor([2]))
        except InputError as error:
            told.append(str(error))
    assert any("f.onnx: cannot be run: " in line and line.endswith("file damaged") for line in told)
    assert not any("\n" in line for line in told)


def test_without_onnxruntime_one_line_says_what_to_install(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for words in (["export", "--format", "onnx", "--out", "x.onnx"], ["quantize", "--features", "c.h5"]):
        arguments = [str(tmp_path / word) if word == "x.onnx" else word for word in words]
        result = CliRunner().invoke(main, [arguments[0], "--model", str(folder / "run"), *arguments[1:]])
        assert_refused(result, "pip install 'harfeat[quantize]'")
    assert not list(tmp_path.iterdir())


def test_cells_without_an_onnx_form_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    small = small_model("lstm", 0, 0.0, True)
    monkeypatch.setattr(onnx_cells, "EMITTERS", {})
    with pytest.raises(InputError, match="a CompactLSTM cannot be written as ONNX yet"):
        to_onnx(small, CARD, Float32())
