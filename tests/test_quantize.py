"""harvib.quantize: codes by the definition, files against naive loops over what they store, and the command."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from caches import TEST_SPLIT, made_up_cache
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from onnx_models import CARD, KNOWN, LENGTHS, assert_close, padded, small_model, stacked
from rounded import rounded
from small_runs import DIM, ODD_CLASSES, assert_refused, interrupt, small_run

from harfeat.cache import ClipRow, open_cache
from harvib import quantize, weights
from harvib.cli import main
from harvib.data import load_parts
from harvib.errors import InputError
from harvib.evaluate import evaluate_run
from harvib.export.onnx import to_onnx
from harvib.models import SequenceClassifier
from harvib.onnxfile import OnnxClassifier, load_onnx, read_onnx
from harvib.quantize.calibration import observed
from harvib.quantize.numbers import Quantized, by_groups, by_rows, packed
from harvib.quantize.schemes import SCHEMES
from harvib.quantize.settings import NAMES
from harvib.weights import load_model

CPU = torch.device("cpu")


def random_matrix(rows: int, columns: int, seed: int) -> np.ndarray:
    """Rows of very different sizes, one of them zero."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(rows, columns)) * 10.0 ** rng.integers(-4, 4, size=(rows, 1))
    weight[rng.integers(rows)] = 0
    return weight.astype(np.float32)


def steps_of(found: Quantized, columns: int) -> np.ndarray:
    """The step of each weight, by a loop."""
    steps = np.zeros((len(found.steps), columns), np.float32)
    for column in range(columns):
        steps[:, column] = found.steps[:, column // found.group] * 0.5 ** int(found.halvings[column])
    return steps


@given(rows=st.integers(1, 9), columns=st.integers(1, 100), seed=st.integers(0, 10_000), four=st.booleans())
def test_no_weight_moves_by_more_than_half_a_step(rows: int, columns: int, seed: int, four: bool) -> None:
    weight = random_matrix(rows, columns, seed)
    found = by_groups(weight) if four else by_rows(weight)
    steps = steps_of(found, columns)
    assert found.codes.dtype == np.int8
    assert np.abs(found.codes).max(initial=0) <= (7 if four else 127)
    assert found.group <= (32 if four else columns)
    np.testing.assert_allclose(found.values(), found.codes * steps, rtol=1e-6)
    assert (np.abs(found.values() - weight) <= steps * 0.5001).all()
    # As many steps as are promised: no two rows share one, and in 4 bits no more than 32 columns.
    assert found.steps.shape == (rows, -(-columns // 32) if four else 1)


@given(
    rows=st.integers(1, 30),
    columns=st.integers(2, 80),
    decades=st.floats(0, 6),
    seed=st.integers(0, 10_000),
    four=st.booleans(),
)
def test_inputs_of_very_different_sizes_keep_their_digits(
    rows: int, columns: int, decades: float, seed: int, four: bool
) -> None:
    """Weights are large where inputs are small, as a standardisation that is folded in leaves them."""
    rng = np.random.default_rng(seed)
    scales = 10.0 ** rng.uniform(-decades, decades, columns)
    weight = (rng.uniform(0.5, 1, (rows, columns)) * rng.choice([-1, 1], (rows, columns)) * scales).astype(
        np.float32
    )
    found = by_groups(weight) if four else by_rows(weight)
    # Each weight keeps as many digits as if all inputs were alike.
    error = np.abs(found.values() - weight) / np.abs(weight)
    assert error.max() < (0.35 if four else 0.02)
    assert found.halves == bool(found.halvings.max() > 0)
    assert not by_rows(weight, alike=True).halves


def other_units(rows: list[ClipRow], features: list[np.ndarray]) -> tuple[list[ClipRow], list[np.ndarray]]:
    """The same features, each in a unit of its own."""
    return rows, [values * 10.0 ** np.linspace(-3, 3, values.shape[1]) for values in features]


def test_features_in_units_of_their_own_cost_no_accuracy(tmp_path: Path) -> None:
    """With a step a row alone only the features of large numbers, which have small weights, would be lost."""
    made_up_cache(tmp_path / "cache.h5", classes=ODD_CLASSES, dim=DIM, clips_a_group=6, change=other_units)
    run = small_run(tmp_path)
    told = quantize.quantize_run(run, tmp_path / "cache.h5", None, tmp_path / "out")
    accuracy = told["float"]["accuracy"]["test"]
    assert accuracy > 0.8
    for name, figures in told["schemes"].items():
        # One clip of 48 in 8 bits, three in 4.
        assert figures["accuracy"]["test"] >= accuracy - (0.07 if "4" in name else 0.022), name


@given(rows=st.integers(1, 5), columns=st.integers(1, 9), seed=st.integers(0, 1000))
def test_packed_codes_are_two_a_byte_low_half_first(rows: int, columns: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(-8, 8, size=(rows, columns)).astype(np.int8)
    data = packed(codes)
    assert len(data) == (rows * columns + 1) // 2
    halves = [half for byte in data for half in (byte & 15, byte >> 4)][: rows * columns]
    assert [half - 16 if half > 7 else half for half in halves] == codes.ravel().tolist()


def quantised(
    small: SequenceClassifier, scheme: str, x: torch.Tensor, lengths: torch.Tensor
) -> tuple[OnnxClassifier, onnx.ModelProto]:
    """A compact model by a scheme, calibrated on these clips."""
    seen = observed(small, clip_set(x, lengths))
    data = to_onnx(small, CARD, SCHEMES[scheme], seen).SerializeToString()
    return read_onnx(data, "x")[0], onnx.load_model_from_string(data)


def clip_set(x: torch.Tensor, lengths: torch.Tensor) -> Any:
    """Something with batches."""

    class Clips:
        def batches(self, size: int, device: torch.device) -> Any:
            yield type("Batch", (), {"features": x, "lengths": lengths})

    return Clips()


def stored(proto: onnx.ModelProto, name: str) -> np.ndarray:
    """What the codes under this name stand for, (rows, columns), decoded by onnx's own reader."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    codes, steps = arrays[f"{name}.codes"], arrays[f"{name}.steps"]
    if codes.dtype == np.uint8:
        codes = codes.T.astype(np.float64) - 128
    wide = codes.astype(np.float64)
    groups = steps.reshape(len(wide), -1)
    scales = scales_of(proto, name, wide.shape[1])
    return np.asarray(
        [
            [v * groups[r, c // 32 if groups.shape[1] > 1 else 0] * scales[c] for c, v in enumerate(row)]
            for r, row in enumerate(wide)
        ]
    )


def scales_of(proto: onnx.ModelProto, name: str, columns: int) -> np.ndarray:
    """Powers of two of the columns, which a file leaves out where all are one."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    halvings = arrays.get(f"{name}.halvings", np.zeros(columns, np.uint8))
    return np.asarray([0.5 ** int(count) for count in halvings])


class NaiveProduct:
    """W x for one vector, by the definition of a scheme."""

    def __init__(self, proto: onnx.ModelProto, name: str, scheme: str) -> None:
        self.weight, self.scheme = stored(proto, name), scheme
        self.scales = scales_of(proto, name, self.weight.shape[1])
        if scheme == "int8-static":
            found = [tensor for tensor in proto.graph.initializer if tensor.name == f"{name}.input_step"]
            self.step = float(numpy_helper.to_array(found[0]))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        # What is rounded is what the codes are multiplied by.
        x = x * self.scales
        if self.scheme == "int8-dynamic":
            step = np.float32(max(np.abs(x).max(), 1e-30)) / np.float32(127)
            x = np.rint(x.astype(np.float32) / step) * step
        if self.scheme == "int8-static":
            x = np.clip(np.rint(x.astype(np.float32) / np.float32(self.step)), -128, 127) * self.step
        return np.asarray(self.weight @ (x / self.scales))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(-np.logaddexp(0, -x)))


@pytest.mark.parametrize("scheme", NAMES)
@pytest.mark.parametrize("seed", [0, 1])
def test_logits_are_those_of_a_naive_loop_over_what_the_file_stores(scheme: str, seed: int) -> None:
    """A projection, an LSTM, mean readout."""
    small = small_model("lstm", seed, 0.3, True, project=4)
    module, proto = quantised(small, scheme, *padded(small.spec.features))
    (_, projection), (_, cell) = (layer.directions()[0] for layer in small.recurrent.layers)  # type: ignore[operator]
    project, ih, hh, head = (NaiveProduct(proto, name, scheme) for name in ("0f.ih", "1f.ih", "1f.hh", "head.ih"))
    # ONNX's own LSTM has its gates in the order i, o, f, g; written out they stand as in torch.
    order = "iofg" if scheme.endswith("weights") else "ifgo"
    torchs = [weight.detach().double().numpy() for weight in cell.lstm.all_weights[0]]
    hidden = cell.hidden_size
    rows = np.concatenate([np.arange(hidden) + "ifgo".index(gate) * hidden for gate in order])
    # A column that is halved twice for its row may set the step of a larger one beside it.
    bound = np.abs(torchs[0]).max() / (14 if "4" in scheme else 254)
    assert np.abs(ih.weight - torchs[0][rows]).max() <= 4 * bound
    bias = (torchs[2] + torchs[3])[rows]
    reads = small.recurrent.layers[1].reads.numpy()  # type: ignore[operator]
    x, lengths = padded(small.spec.features)
    expected = []
    for clip, length in zip(x.numpy()[..., small.selection.numpy()], lengths.tolist(), strict=True):
        state, memory, seen = np.zeros(hidden), np.zeros(hidden), []
        for step in clip[:length]:
            p = project(step) + projection.linear.bias.detach().numpy()
            gates = dict(zip(order, np.split(ih(p[reads]) + bias + hh(state), 4), strict=True))
            memory = sigmoid(gates["f"]) * memory + sigmoid(gates["i"]) * np.tanh(gates["g"])
            state = sigmoid(gates["o"]) * np.tanh(memory)
            seen.append(np.concatenate([p, state]))
        expected.append(head(np.mean(seen, axis=0)) + small.head.bias.detach().numpy())
    found = module(x, lengths).numpy()
    # A value at the border of two codes may fall to either side by the last digit of a float.
    assert np.abs(found - np.array(expected)).max() <= 1e-4 * max(1, np.abs(found).max()) + (
        0 if scheme.endswith("weights") else 0.02
    )
    assert np.median(np.abs(found - np.array(expected))) < 1e-3


@settings(max_examples=40, deadline=None)
@given(
    cell=st.sampled_from(KNOWN),
    readout=st.sampled_from(["mean", "last"]),
    layers=st.integers(1, 2),
    both=st.booleans(),
    project=st.sampled_from([0, 4]),
    hard=st.booleans(),
    scheme=st.sampled_from(NAMES),
    seed=st.integers(0, 10_000),
)
def test_every_model_in_every_scheme(
    cell: str, readout: str, layers: int, both: bool, project: int, hard: bool, scheme: str, seed: int
) -> None:
    small = small_model(cell, seed, 0.3, hard, readout=readout, **stacked(cell, layers, both, project))
    x, lengths = padded(small.spec.features)
    module, _ = quantised(small, scheme, x, lengths)
    with torch.no_grad():
        found = module(x, lengths)
        stored_weights = rounded(small, "4" in scheme)(x, lengths)
        if scheme.endswith("weights"):
            assert_close(stored_weights, found)
        elif cell not in ("rnn-relu", "conv") and hard:
            # Factors, and states without bound, make small errors large; a loop above is the exact comparison.
            assert_close(stored_weights, found, 0.3)
        if scheme == "int8-dynamic":
            # No clip depends on its neighbours, nor on how much padding they cause.
            for row, length in enumerate(LENGTHS):
                alone = module(x[row : row + 1, :length], lengths[row : row + 1])
                assert_close(alone, found[row : row + 1])


def test_static_ranges_are_those_of_the_clips_own_steps() -> None:
    small = small_model("gru", 3, 0.3, True, bidirectional=True)
    x, lengths = padded(small.spec.features)
    seen = observed(small, clip_set(x, lengths))
    assert set(seen) == {"0f.ih", "0f.hh", "0b.ih", "0b.hh", "head.ih"}
    inside = torch.cat([clip[:length] for clip, length in zip(x, lengths.tolist(), strict=True)])
    assert seen["0f.ih"].largest.tolist() == seen["0b.ih"].largest.tolist()
    assert seen["0f.ih"].largest == pytest.approx(inside[:, small.selection].abs().amax(0).numpy())
    assert 0 < seen["0f.hh"].largest.max() <= 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    small_run(folder)
    return folder


def command(run: Path, *arguments: str | Path) -> Result:
    cache = [] if "--features" in arguments else ["--features", str(run.parent / "cache.h5")]
    words = ["quantize", "--model", str(run), *cache, *map(str, arguments), "--repeats", "2"]
    return CliRunner().invoke(main, words)


def test_the_command_measures_the_files_that_it_writes(folder: Path, tmp_path: Path) -> None:
    run = folder / "run"
    result = command(run, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.stdout.splitlines()[1:6]] == ["float", *NAMES]
    told = json.loads((tmp_path / "quantize.json").read_text())
    report = json.loads((run / "report.json").read_text())
    assert told["float"]["accuracy"] == report["compact"]["accuracy"]
    assert {file.name for file in tmp_path.iterdir()} == {"quantize.json", *(f"{name}.onnx" for name in NAMES)}
    cache = folder / "cache.h5"
    with open_cache(cache) as opened:
        parts = load_parts(opened, TEST_SPLIT, 0.2, 0)
    model, _ = load_model(run / "model.safetensors")
    for name in NAMES:
        figures = told["schemes"][name]
        # From the file alone, by another way.
        file = tmp_path / f"{name}.onnx"
        repeated = evaluate_run(file, cache, TEST_SPLIT, "test", CPU)
        assert figures["accuracy"]["test"] == repeated["accuracy"]
        assert figures["loss"]["test"] == pytest.approx(repeated["loss"])
        assert repeated["parameters"] == report["compact"]["parameters"] == figures["parameters"]
        assert abs(figures["accuracy"]["test"] - report["compact"]["accuracy"]["test"]) <= 0.1
        loaded, card = load_onnx(file)
        assert card.classes == ODD_CLASSES
        same = []
        for part in (parts.validation, parts.test):
            (batch,) = part.batches(100, CPU)
            with torch.no_grad():
                ours, theirs = (m(batch.features, batch.lengths).argmax(1) for m in (model, loaded))
            same += (ours == theirs).tolist()
        assert figures["agreement"] == pytest.approx(np.mean(same))
        assert figures["file_bytes"] == file.stat().st_size
        assert figures["latency_ratio"] == pytest.approx(figures["median_ms"] / told["float"]["median_ms"])


def test_files_are_as_much_smaller_as_the_bits_say(tmp_path: Path) -> None:
    """Where the weights outweigh the rest: an LSTM of 64 units on 512 inputs."""
    small = small_model("lstm", 0, 0.0, True)
    spec = small.spec.__class__(**{**small.spec.__dict__, "features": 512, "inputs": 512, "shape": ((64,),)})
    large = SequenceClassifier(spec).eval()
    floats = 4 * large.parameter_counts()["total"]
    for scheme, bits in (("int8-weights", 8), ("int8-dynamic", 8), ("int8-static", 8), ("int4-weights", 5)):
        _, proto = quantised(large, scheme, *padded(512))
        size = len(proto.SerializeToString())
        assert floats * bits / 32 < size < floats * bits / 32 * 1.06


def test_a_later_call_adds_a_scheme_and_another_model_forgets_the_old(folder: Path, tmp_path: Path) -> None:
    run = folder / "run"
    for name in ("int8-weights", "int4-weights"):
        told = quantize.quantize_run(run, folder / "cache.h5", [name], tmp_path)
    assert set(told["schemes"]) == {"int8-weights", "int4-weights"}
    other = small_run(folder, "plain", "other", model="mean")
    told = quantize.quantize_run(other, folder / "cache.h5", ["int8-static"], tmp_path)
    assert set(told["schemes"]) == {"int8-static"}
    # A plain model is compacted first: its standardisation becomes part of its weights.
    assert told["float"]["accuracy"] == json.loads((other / "report.json").read_text())["plain"]["accuracy"]


def test_without_a_scheme_a_structured_model_gets_those_it_can_have(tmp_path: Path) -> None:
    run = small_run(tmp_path, name="tt", factorize="tt", rank=2, standardize=False)
    result = command(run)
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.stdout.splitlines()[1:4]] == [
        "float",
        "int8-weights",
        "int4-weights",
    ]
    assert_refused(command(run, "--to", "int8-static"), "say --to int8-weights --to int4-weights")


def test_a_full_disk_is_told_with_the_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, value: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("harvib.quantize.run.write_json", full)
    refused = command(folder / "run", "--to", "int8-weights", "--out", tmp_path)
    assert_refused(refused, f"--out {tmp_path}: cannot be written: No space left on device")


def test_bad_input_is_told_in_one_line_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    run, out = folder / "run", tmp_path / "out"
    assert_refused(command(run, "--to", "int3", "--out", out), "int3")
    with pytest.raises(InputError, match="--to int3: choose from int8-weights, int8-dynamic"):
        quantize.quantize_run(run, folder / "cache.h5", ["int3"], out)
    assert_refused(command(run, "--threads", "0", "--out", out), "--threads 0: must be at least 1")
    assert_refused(command(tmp_path / "none", "--features", folder / "cache.h5"), "no such run folder")
    other = made_up_cache(tmp_path / "other.h5", classes=ODD_CLASSES, dim=DIM, recipe="other")
    assert_refused(command(run, "--features", other, "--out", out), "feature fingerprint")
    fewer = made_up_cache(tmp_path / "fewer.h5", classes=ODD_CLASSES, dim=DIM, clips_a_group=3)
    assert_refused(command(run, "--features", fewer, "--out", out), "its clips are not those that")
    fused = tmp_path / "fused"
    fused.mkdir()
    (fused / "config.json").write_text('{"streams": [{"name": "rgb"}, {"name": "flow"}]}')
    assert_refused(command(fused, "--features", other, "--out", out), f"name {fused}/rgb or {fused}/flow")
    behind = shutil.copytree(run, tmp_path / "behind")
    (behind / "backbone.safetensors").write_bytes(b"")
    assert_refused(command(behind, "--features", folder / "cache.h5", "--out", out), "its own backbone")
    (tmp_path / "file").write_text("")
    assert_refused(command(run, "--out", tmp_path / "file"), "is a file; name a folder")
    assert not out.exists()


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, "vib", 2)
        with pytest.raises(KeyboardInterrupt):
            small_run(tmp_path)
    run = tmp_path / "run"
    assert_refused(command(run), str(run))
    assert not list(run.glob("*.onnx"))
    assert not (run / "quantize.json").exists()


def test_where_writing_fails_no_file_is_half_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(temporary: Path, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "replace_synced", full)
    assert_refused(command(folder / "run", "--out", tmp_path), "No space left on device")
    assert not [file for file in tmp_path.iterdir() if not file.name.startswith(".")]


def test_the_command_lines_names_are_the_schemes() -> None:
    assert tuple(SCHEMES) == NAMES
