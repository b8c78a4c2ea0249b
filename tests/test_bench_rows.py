"""Each model in each runtime: its costs against independent counts, and what cannot be measured is told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from c_models import needs_compiler
from caches import TEST_SPLIT, made_up_cache
from click.testing import CliRunner
from pooling_models import plain_model as pooling_model
from small_runs import small_run
from structured import masked_model, small_of, spec_of
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
import bench_device

from harvib import fusion, resident
from harvib.bench import BenchSettings, bench_run, bench_table
from harvib.bench import memory as memory_of
from harvib.bench.memory import Job, peak
from harvib.bench.rows import measure_rows
from harvib.bench.runtimes import RUNTIMES, UnavailableError, c
from harvib.bench.runtimes import onnx as onnx_runtime
from harvib.bench.runtimes.eager import Eager
from harvib.bench.settings import EndToEnd
from harvib.bench.subject import Subject
from harvib.errors import InputError
from harvib.models import SequenceClassifier
from harvib.settings import TrainSettings
from harvib.weights import ModelCard

CARD = ModelCard(("a", "b", "c", "d"), "made up")
FEW = BenchSettings(steps=5, repeats=2)


def compact_model(**changes: Any) -> SequenceClassifier:
    return small_of(masked_model(**changes), 0.3, hard=True).eval()


def rows_of(
    model: Any, folder: Path, runtimes: Any = tuple(RUNTIMES), settings: BenchSettings = FEW, memory: bool = False
) -> dict[str, dict[str, Any]]:
    subject = Subject("compact", {"": (model, CARD)})
    rows = measure_rows([(subject, name) for name in runtimes], settings, folder, memory)
    return {row["runtime"]: row for row in rows}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[SequenceClassifier, Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("rows")
    model = compact_model(model="lstm", standardize=True)
    return model, folder, rows_of(model, folder)


def naive_macs(model: SequenceClassifier, steps: int) -> tuple[int, int]:
    """Of an LSTM: products counted one by one, as its equations have them."""
    inputs, hidden = model.spec.inputs, model.spec.shape[0][0]
    step = 0
    for _gate in range(4):
        for _unit in range(hidden):
            step += inputs + hidden
    return step, steps * step + hidden * model.spec.classes


def test_work_and_parameters_are_counted_exactly(measured: tuple[SequenceClassifier, Path, Any]) -> None:
    model, _, rows = measured
    step, clip = naive_macs(model, FEW.steps)
    for row in rows.values():
        assert row["macs"] == {"step": step, "clip": clip}
        assert row["parameters"] == sum(weight.numel() for weight in model.parameters())


@needs_compiler
def test_bytes_are_those_of_the_files(measured: tuple[SequenceClassifier, Path, Any]) -> None:
    model, folder, rows = measured
    names = {"torch": "compact.safetensors", "torchscript": "compact.pt", "onnx": "compact.onnx"}
    names |= {"onnx-int8": "compact-int8-weights.onnx", "onnx-int8-dynamic": "compact-int8-dynamic.onnx"}
    for runtime, name in names.items():
        assert rows[runtime]["bytes"] == (folder / name).stat().st_size
    sizes = {rows[runtime]["bytes"] for runtime in names}
    assert len(sizes) == len(names), "no file was taken for another"
    for runtime, name in (("c", "compact"), ("c-loop", "compact"), ("c-int8", "compact_int8")):
        parts = rows[runtime]["bytes_parts"]
        assert parts["source"] == (folder / f"{name}.c").stat().st_size
        assert parts["header"] == (folder / f"{name}.h").stat().st_size
        assert rows[runtime]["bytes"] == parts["code"] + parts["constants"]
        # All weights are in it, each of four bytes, and little else.
        weights = 4 * sum(weight.numel() for weight in model.parameters())
        assert runtime == "c-int8" or 0.9 * weights < parts["constants"] < weights + 4096
        assert 100 < parts["code"] < 20_000


@needs_compiler
def test_memory_of_c_is_its_constants_state_and_stack(measured: tuple[SequenceClassifier, Path, Any]) -> None:
    _, folder, rows = measured
    told = rows["c"]["static_bytes"]
    assert told["total"] == sum(told[kind] for kind in ("constants", "state", "stack"))
    # The state's size as a compiler tells it.
    probe = folder / "probe.c"
    probe.write_text('#include "compact.h"\n#include <stdio.h>\nint main(void){return !printf("%u", '
                     "(unsigned)sizeof(compact_state));}\n")  # fmt: skip
    subprocess.run([*(c.compiler() or []), "-o", str(folder / "probe"), str(probe)], check=True)
    found = subprocess.run([str(folder / "probe")], capture_output=True, text=True, check=True)
    assert told["state"] == int(found.stdout)
    assert 0 < told["stack"] < 4096


def test_runtimes_that_keep_a_state_tell_a_frame_and_a_clip_apart(
    measured: tuple[SequenceClassifier, Path, Any],
) -> None:
    _, _, rows = measured
    with_state = {"torch", "c", "c-loop", "c-int8", "c-int8-loop"}
    assert {name for name, row in rows.items() if "frame" in row} == with_state
    for row in rows.values():
        assert row["clip"]["median_ms"] > 0
    assert rows["c-loop"]["loop"] == c.MOST_ROUNDS
    assert "loop" not in rows["c"]
    # A long call would be interrupted by others on the machine: of large models a loop holds fewer.
    assert [c.rounds(macs) for macs in (0, 10_000, 400_000, 10_000_000)] == [64, 64, 10, 1]


def test_exact_runtimes_are_exact_and_rounded_ones_tell_their_agreement(
    measured: tuple[SequenceClassifier, Path, Any],
) -> None:
    _, _, rows = measured
    for name, row in rows.items():
        if RUNTIMES[name].exact:
            assert row["difference"] <= 1e-5
            assert "agreement" not in row
        else:
            assert 1e-6 < row["difference"] < 0.2
            assert 0.5 <= row["agreement"] <= 1
    assert rows["onnx"]["difference"] > 0, "another runtime was asked, not the Python model once more"


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "gru", "layers": 2},
        {"model": "rnn", "readout": "last"},
        {"model": "lstm", "project": 3},
        {"model": "conv"},
        {"model": "mlp"},
        {"model": "lstm", "normalize": True},
        {"model": "lstm", "factorize": "tt"},
    ],
    ids=lambda fields: "-".join(map(str, fields.values())),
)
def test_every_kind_of_model_is_measured_or_told(fields: dict[str, Any], tmp_path: Path) -> None:
    rows = rows_of(compact_model(**fields), tmp_path, settings=BenchSettings(steps=3, batch=2, repeats=1))
    for name, row in rows.items():
        refused = "factorize" in fields and name == "onnx-int8-dynamic"
        assert ("reason" in row) == refused, row
        assert ("clip" in row) != refused
    if "factorize" in fields:
        assert "no product of whole numbers" in rows["onnx-int8-dynamic"]["reason"]


def test_models_without_a_form_are_told_with_the_reason(tmp_path: Path) -> None:
    plain = SequenceClassifier(spec_of(bidirectional=True)).eval()
    rows = rows_of(plain, tmp_path)
    assert {name for name, row in rows.items() if "reason" in row} == {"c", "c-loop", "c-int8", "c-int8-loop"}
    assert "reads it backwards" in rows["c"]["reason"]
    assert "frame" not in rows["torch"]
    pooling = pooling_model(widths=(6,), clusters=(5,)).float()
    rows = rows_of(pooling, tmp_path)
    assert {name for name, row in rows.items() if "reason" in row} == set(RUNTIMES) - {"torch", "torchscript"}
    assert all("not for a pooling model" in row["reason"] for row in rows.values() if "reason" in row)


def test_a_model_too_large_for_a_compiler_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c, "MOST", 100)
    row = rows_of(compact_model(), tmp_path, ["torch", "c"])["c"]
    assert row["reason"].endswith("parameters: beyond 100 a compiler takes too long")


def test_what_is_not_installed_is_told_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise InputError("ONNX files need onnx and onnxruntime: pip install 'harfeat[quantize]'")

    monkeypatch.setattr(onnx_runtime, "needs_onnx", missing)
    monkeypatch.setenv("CC", "no-such-compiler")
    run = small_run(tmp_path, plain_epochs=1, vib_epochs=1, finetune_epochs=1)
    result = bench_run(run, FEW, memory=False)
    told = bench_table(result)
    for row in result["rows"]:
        assert ("reason" in row) == (not row["runtime"].startswith("torch"))
        if "reason" in row:
            (line,) = (line for line in told.splitlines() if line.endswith(f": {row['reason']}"))
            assert line.startswith("plain, compact in ")
            assert row["title"] in line
    assert "no C compiler (CC=no-such-compiler)" in told
    assert "pip install 'harfeat[quantize]'" in told
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no C compiler (gcc or cc)" in bench_table(bench_run(run, FEW, "c", memory=False))


def test_a_compiler_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "cc"
    program.write_text("#!/bin/sh\necho 'm.c:1:1: error: out of luck' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("CC", str(program))
    row = rows_of(compact_model(), tmp_path, ["torch", "c"])["c"]
    assert row["reason"] == "the C compiler failed: m.c:1:1: error: out of luck"


def test_a_runtime_whose_logits_are_others_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = Eager.prepare

    def off(self: Eager, model: Any, *more: Any) -> Any:
        found = genuine(self, model, *more)
        monkeypatch.setattr(type(found), "logits", lambda self, result: result * 1.001)
        return found

    monkeypatch.setattr(Eager, "prepare", off)
    with pytest.raises(InputError, match=r"compact/torch: its logits differ .* leave it out by --runtimes"):
        rows_of(compact_model(), tmp_path, ["torch"])


def test_a_stream_whose_state_goes_wrong_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c._Frames, "begin", lambda self: None)
    with pytest.raises(InputError, match="compact/c-int8: its logits differ from those of whole clips"):
        rows_of(compact_model(), tmp_path, ["torch", "c-int8"])


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fused")
    caches = []
    for stream, dim in (("rgb", 6), ("flow", 9)):
        path = folder / f"{stream}.h5"
        made_up_cache(path, dim=dim, stream=stream, recipe=stream)
        caches.append(path)
    epochs: dict[str, Any] = {"plain_epochs": 1, "vib_epochs": 1, "finetune_epochs": 1, "hidden": 5}
    fusion.train(caches, TEST_SPLIT, TrainSettings(**epochs), folder / "run", device=torch.device("cpu"))
    return folder / "run"


@needs_compiler
def test_a_fused_run_is_measured_as_a_whole(fused: Path) -> None:
    result = bench_run(fused, BenchSettings(steps=3, repeats=1), memory=False)
    whole, cards = fusion.load_fused(fused, "compact")
    rows = {row["runtime"]: row for row in result["rows"] if row["model"] == "compact"}
    assert "joined in Python" in rows.pop("c-loop")["reason"]
    parts = list(whole.models.values())
    for row in rows.values():
        assert row["parameters"] == sum(part.parameter_counts()["total"] for part in parts)
        assert row["macs"]["clip"] == sum(sum(part.macs(3)) for part in parts)
    files = [fused / name / "model.safetensors" for name in cards]
    assert rows["torch"]["bytes"] == sum(file.stat().st_size for file in files)
    assert rows["c"]["frame"]["median_ms"] > 0
    assert result["features"] == 15
    with pytest.raises(InputError, match=r"a fused run has several backbones: name .*rgb or .*flow"):
        bench_run(fused, FEW, "torch", False, backbone=EndToEnd(candidates=()))


def wide_model() -> SequenceClassifier:
    """Of about 20 MB."""
    torch.manual_seed(0)
    return SequenceClassifier(spec_of(inputs=1024, hidden=820)).eval()


def test_peak_memory_holds_the_weights_and_is_of_a_process_of_its_own(tmp_path: Path) -> None:
    if not resident.is_possible():
        pytest.fail("these tests run on Linux")
    model = wide_model()
    weights = 4 * sum(weight.numel() for weight in model.parameters())
    assert weights > 20_000_000
    rows = rows_of(model, tmp_path, ["torch", "onnx"], BenchSettings(steps=2, repeats=1), memory=True)
    for row in rows.values():
        assert weights <= row["memory"]["peak_bytes"] < 20 * weights
        assert row["memory"]["process_bytes"] > row["memory"]["peak_bytes"]
    # Nothing of torch is in onnxruntime's process.
    assert rows["onnx"]["memory"]["process_bytes"] < rows["torch"]["memory"]["process_bytes"]


@needs_compiler
def test_peak_memory_of_a_small_model_in_c_is_small(tmp_path: Path) -> None:
    parts = [RUNTIMES["c"].prepare(compact_model(), CARD, tmp_path, name) for name in ("rgb", "flow")]
    # As of a fused run: both in one process.
    found = peak(Job([part.resident for part in parts], [12, 12]), 2, 3, 1)
    assert found["peak_bytes"] < 2**20 < found["process_bytes"]


def test_memory_that_cannot_be_measured_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job([RUNTIMES["onnx"].prepare(compact_model(), CARD, tmp_path, "m").resident], [12])
    (tmp_path / "m.onnx").write_bytes(b"nothing")
    with pytest.raises(UnavailableError, match=r"its peak memory could not be measured: .*m.onnx"):
        peak(job, 1, 2, 1)
    monkeypatch.setattr(memory_of.resident, "is_possible", lambda: False)
    row = rows_of(compact_model(), tmp_path, ["torch"], memory=True)["torch"]
    assert row["memory"] == {"reason": "peak memory can only be measured on Linux"}
    table = bench_table(
        {
            "rows": [row],
            "notes": [],
            "settings": vars(FEW),
            "features": 12,
            "torch": "",
            "machine": "",
            "scope": "",
        }
    )
    assert "peak memory can only be measured on Linux" in table


def test_the_loop_in_c_gives_every_clip_of_a_batch_its_own_logits(tmp_path: Path) -> None:
    model = compact_model()
    prepared = RUNTIMES["c-loop"].prepare(model, CARD, tmp_path, "m")
    x, lengths = torch.randn(3, 4, model.spec.features), torch.full((3,), 4)
    with torch.no_grad():
        wanted: Tensor = model(x, lengths)
    given = prepared.ready(x, lengths)
    assert torch.allclose(prepared.logits(prepared.clip(given)), wanted, atol=1e-5)


def test_onnx_files_are_whole_numbers_where_they_say_so(measured: tuple[SequenceClassifier, Path, Any]) -> None:
    _, folder, _ = measured
    for name, kind in (("compact", np.float32), ("compact-int8-weights", np.int8)):
        proto = onnx.load(folder / f"{name}.onnx")
        kinds = {onnx.numpy_helper.to_array(tensor).dtype.type for tensor in proto.graph.initializer}
        assert kind in kinds
        assert (np.int8 in kinds) == (kind is np.int8)


def test_the_script_of_the_papers_sizes_tells_ratios_and_aims(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    result = CliRunner().invoke(bench_device.main, ["--quick", "--no-memory", "--out", str(out)])
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert {"machine", "versions", "command", "settings", "load_average"} <= found.keys()
    assert found["settings"]["seed"] == 0
    first = found["rows"][0]
    assert (first["model"], first["runtime"]) == ("LSTM 24,16", "torch")
    for runtime, aim in found["aims"].items():
        row = next(row for row in found["rows"] if (row["model"], row["runtime"]) == ("VIB 5,3", runtime))
        assert aim["measured"] == first["clip"]["median_ms"] / row["clip"]["median_ms"]
        assert aim["met"] == (aim["measured"] >= aim["aim"])
        assert f"VIB 5,3 in {row['title']}: {aim['measured']:,.0f}x" in result.stdout


def test_the_scripts_sizes_are_the_papers() -> None:
    (paper,) = bench_device.subjects_of(2048, (4, 4), [(46, 9)], 11, 0)[1:]
    # 4 gates of 9 units on 46 inputs and 9 states, two biases each: the table's 2,052.
    counts = paper.parts[""][0].parameter_counts()
    assert counts["recurrent"] == 4 * 9 * (46 + 9) + 2 * 4 * 9 == 2052
    assert bench_device.PLAIN == (2048, 2048)
    assert bench_device.COMPACT[0] == (46, 9)
    assert paper.features == [2048]


def test_what_rounding_alone_does_to_a_model_is_no_error(tmp_path: Path) -> None:
    model = compact_model(model="rnn-relu")
    with torch.no_grad():
        # Two large numbers that cancel: float32 keeps few digits of their difference.
        weight = model.head.weight
        model.head.weight.copy_(torch.cat([weight[:, :1] + 3e3, weight[:, :1] - 3e3, weight[:, 2:]], 1))
        layer: Any = model.recurrent.layers[0]
        cell = layer.cells["0"]
        for values in cell.module.all_weights[0]:
            values[1] = values[0] + 1e-4
        cell.module.weight_hh_l0[:, 1] = cell.module.weight_hh_l0[:, 0]
    rows = rows_of(model, tmp_path, ["torch", "onnx", "c"])
    assert max(row["difference"] for row in rows.values()) > 1e-5
