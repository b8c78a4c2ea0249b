"""How models are timed, and what `harvib bench` tells of a run."""

from __future__ import annotations

import errno
import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from small_runs import DIM, assert_refused, small_run
from torch import Tensor

from harvib.bench import (
    WARM_UP_ROUNDS,
    BenchSettings,
    bench_run,
    bench_table,
    interleaved,
    measured,
    per_clip,
    random_clips,
    threads,
)
from harvib.bench.runtimes import RUNTIMES
from harvib.bench.timing import Taken, by_frame
from harvib.cli import main
from harvib.errors import InputError
from harvib.report.page import page
from harvib.rundir import RunFolder, write_json
from harvib.weights import load_model

FEW = BenchSettings(steps=4, repeats=3)
FILES = {"plain": "plain.safetensors", "compact": "model.safetensors"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("bench"))


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def test_models_take_turns_and_warm_up_rounds_do_not_count() -> None:
    calls: list[str] = []
    seen: list[tuple[Tensor, Tensor]] = []
    ticks = count()

    def runner(name: str) -> object:
        def call(features: Tensor, lengths: Tensor) -> None:
            calls.append(name)
            seen.append((features, lengths))

        return call

    runners = {name: runner(name) for name in ("plain", "compact")}
    clips = random_clips(DIM, FEW)
    seconds = interleaved(runners, clips, repeats=4, clock=lambda: float(next(ticks)))  # type: ignore[arg-type]
    # In a turn each is called twice: cold, after the others, and once more.
    assert calls == ["plain", "plain", "compact", "compact"] * (WARM_UP_ROUNDS + 4)
    assert seconds == {name: Taken([1.0] * 4, [1.0] * 4) for name in ("plain", "compact")}
    turns = [seen[at : at + 4] for at in range(0, len(seen), 4)]
    assert all(features is turn[0][0] for turn in turns for features, _ in turn)
    assert turns[0][0][0] is not turns[1][0][0]


def test_the_first_call_of_a_turn_is_told_apart_and_making_arguments_ready_is_not_timed() -> None:
    now = 0.0

    def clock() -> float:
        return now

    def slow_first(state: list[int]) -> None:
        nonlocal now
        now += 5.0 if not state else 2.0
        state.append(1)

    def ready(batch: int) -> tuple[list[int]]:
        nonlocal now
        now += 1000.0
        return ([],)

    taken = interleaved({"a": slow_first}, ((n,) for n in count()), 3, clock, {"a": ready})
    assert taken == {"a": Taken([5.0] * 3, [2.0] * 3)}


def test_frames_are_timed_one_by_one_and_each_clip_begins_anew() -> None:
    log: list[object] = []
    now = 0.0

    class Counting:
        calls = 1

        def begin(self) -> None:
            log.append("begin")

        def rows(self, clip: list[int]) -> list[int]:
            return clip

        def see(self, row: int) -> object:
            nonlocal now
            now += row
            log.append(row)
            return None

    clips = iter([[3, 1, 2]] * (WARM_UP_ROUNDS + 2))
    taken = by_frame({"a": Counting()}, clips, 2, lambda: now)
    # The first frame is seen twice: the first time is the cold one.
    assert log == ["begin", 3, 3, 1, 2] * (WARM_UP_ROUNDS + 2)
    assert taken == {"a": Taken([3.0] * 2, [3.0, 1.0, 2.0] * 2)}


def test_random_clips_have_the_asked_shape_and_are_a_function_of_the_seed() -> None:
    settings = BenchSettings(steps=7, batch=3, seed=5)
    first, again = (list(islice(random_clips(11, settings), 2)) for _ in range(2))
    for (features, lengths), (same, _) in zip(first, again, strict=True):
        assert features.shape == (3, 7, 11)
        assert lengths.tolist() == [7, 7, 7]
        assert torch.equal(features, same)
    assert not torch.equal(first[0][0], first[1][0])
    other = next(random_clips(11, BenchSettings(steps=7, batch=3, seed=6)))
    assert not torch.equal(first[0][0], other[0])


def test_times_are_given_per_clip_in_milliseconds() -> None:
    seconds = [0.004, 0.001, 0.002, 0.010, 0.003]
    figures = per_clip(Taken([0.006, 0.008, 0.020], seconds), 2)
    assert figures["median_ms"] == pytest.approx(1000 * statistics.median(seconds) / 2)
    # The 95th percentile of five values lies a fifth of the way from the highest but one to the highest: 4 * 0.95.
    assert figures["p95_ms"] == pytest.approx((4 + 0.8 * (10 - 4)) / 2)
    assert figures["cold_ms"] == pytest.approx(8 / 2)


def test_the_number_of_threads_is_restored_even_after_an_error() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before

    def fails() -> Iterator[None]:
        with threads(before + 1):
            raise ZeroDivisionError
        yield

    with pytest.raises(ZeroDivisionError):
        next(fails())
    assert torch.get_num_threads() == before


def test_result_holds_both_models_in_every_runtime_their_ratio_and_the_conditions(run: Path) -> None:
    before = torch.get_num_threads()
    settings = BenchSettings(steps=4, batch=2, repeats=3, threads=before + 1)
    result = bench_run(run, settings, memory=False)
    assert torch.get_num_threads() == before
    assert result["ratio"] == result["plain"]["median_ms"] / result["compact"]["median_ms"]
    rows = {(row["model"], row["runtime"]): row for row in result["rows"]}
    assert list(rows) == [(state, runtime) for state in FILES for runtime in RUNTIMES]
    for (state, runtime), row in rows.items():
        assert 0 < row["clip"]["median_ms"] <= row["clip"]["p95_ms"]
        assert row["parameters"] == load_model(run / FILES[state])[0].parameter_counts()["total"]
        assert row["times_faster"]["first"] == result["plain"]["median_ms"] / row["clip"]["median_ms"]
        assert row["times_faster"]["same_in_torch"] == result[state]["median_ms"] / row["clip"]["median_ms"]
        assert ("agreement" in row) == (not RUNTIMES[runtime].exact)
    assert result["plain"]["median_ms"] == rows["plain", "torch"]["clip"]["median_ms"]
    assert result["settings"] == {"steps": 4, "batch": 2, "repeats": 3, "threads": before + 1, "seed": 0}
    assert result["features"] == DIM
    assert {"machine", "versions", "command", "allowed_cores", "torch"} <= result.keys()
    assert measured(run) == result == json.loads((run / "bench.json").read_text())


def test_a_plain_run_has_one_model_and_no_ratio(tmp_path: Path) -> None:
    result = bench_run(small_run(tmp_path, method="plain"), FEW, "c", memory=False)
    assert "plain" in result
    assert not {"compact", "ratio"} & result.keys()
    assert [row["runtime"] for row in result["rows"]] == ["torch", "c"]
    assert "ratio" not in bench_table(result)


def test_where_the_plain_model_was_not_pulled_compact_is_measured_alone_and_that_is_said(run: Path) -> None:
    (run / "plain.safetensors").unlink()
    result = bench_run(run, FEW, "torch", memory=False)
    assert [row["model"] for row in result["rows"]] == ["compact"]
    assert "ratio" not in result
    note = f"the plain model is not measured: {run / 'plain.safetensors'} is not there, as in a pulled run"
    assert result["notes"] == [note]
    assert note in bench_table(result)
    # A pulled run may lack all but its final model and report.
    (run / "config.json").unlink()
    assert bench_run(run, FEW, "torch", memory=False)["compact"]["median_ms"] > 0


@pytest.mark.parametrize(
    ("recipe", "steps"),
    [
        ({"kind": "video", "sampling": {"rule": "uniform", "frames": 7, "short": "repeat"}}, 7),
        ({"kind": "video", "sampling": {"rule": "all", "limit": 7}}, 25),
        ({"kind": "made up"}, 25),
        (None, 25),
    ],
)
def test_a_clip_has_as_many_steps_as_those_of_the_cache(run: Path, recipe: object, steps: int) -> None:
    folder = RunFolder(run)
    write_json(run / "config.json", folder.config() | {"recipe": recipe})
    result = bench_run(run, BenchSettings(repeats=1), "torch", memory=False)
    assert result["settings"]["steps"] == steps
    macs = result["rows"][0]["macs"]
    head = 8 * 4
    assert macs["clip"] == steps * macs["step"] + head


def test_command_prints_the_tables_and_that_the_backbone_is_not_in_it(run: Path) -> None:
    words = ["bench", "--model", str(run), "--steps", "4", "--repeats", "3", "--no-memory"]
    printed = CliRunner().invoke(main, words)
    assert printed.exit_code == 0, printed.output
    result = json.loads((run / "bench.json").read_text())
    lines = printed.stdout.splitlines()
    first, second = (next(row for row in result["rows"] if row["model"] == state) for state in FILES)
    for row, line in zip((first, second), lines[1:3], strict=True):
        macs = row["macs"]
        told = [f"{row['parameters']:,}", f"{macs['step']:,}", f"{macs['clip']:,}"]
        assert line.split() == [row["model"], *told]
    table = lines[5 : 5 + len(result["rows"])]
    for row, line in zip(result["rows"], table, strict=True):
        assert line.startswith(f"{row['model']}, {row['title']} ")
        assert f" {row['bytes']:,} " in line
        assert f" {row['times_faster']['first']:,.1f}x " in line
    assert "classifier alone" in printed.stdout
    assert "CNN backbone" in printed.stdout
    as_json = CliRunner().invoke(main, [*words, "--json", "--runtimes", "c-loop"])
    told = json.loads(as_json.stdout)
    assert told == measured(run)
    assert [row["runtime"] for row in told["rows"]] == ["torch", "c-loop"] * 2


def test_the_page_shows_every_runtime_and_reads_results_of_earlier_versions(run: Path) -> None:
    result = bench_run(run, FEW, "onnx,c", memory=False)
    text = page([run])
    for row in result["rows"]:
        assert f"{row['model']}, {row['title']}</th>" in text
    assert "pinned to one core" in text or "free to run on" in text
    kept = ("plain", "compact", "ratio", "settings", "features", "scope", "torch", "machine")
    earlier = {key: result[key] for key in kept}
    write_json(run / "bench.json", earlier)
    text = page([run])
    assert f"{result['plain']['median_ms']:.3f}" in text
    assert "onnxruntime</th>" not in text


@pytest.mark.parametrize("option", ["steps", "batch", "repeats", "threads", "seed"])
def test_settings_out_of_range_are_refused_by_name(option: str) -> None:
    with pytest.raises(InputError, match=f"--{option} -1: must be at least"):
        BenchSettings(**{option: -1})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--runtimes", "torch,gpu"], "--runtimes torch,gpu: gpu: choose from torch, torchscript, onnx"),
        (["--runtimes", "c,,"], "--runtimes c,,: nothing: choose from"),
        (["--repeats", "0"], "--repeats 0: must be at least 1"),
        (["--threads", "100000"], "--threads 100000: must be at most 1024"),
        (["--video", "a.avi"], "--video: only with --with-backbone"),
        (["--backbone", "resnet18"], "--backbone: only with --with-backbone"),
        (["--with-backbone"], "its features are not those of a timm backbone"),
        (["--with-backbone", "--backbone", "resnet-eighteen"], "timm knows no such model"),
        (["--with-backbone", "--backbone", "test_vit", "--backbones", "nonsense"], "timm knows no such model"),
    ],
)
def test_wrong_use_ends_with_one_line_and_code_2_before_anything_is_measured(
    run: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any, **more: Any) -> None:
        raise AssertionError("measured all the same")

    monkeypatch.setattr("harvib.bench.run.measure_rows", never)
    assert_refused(CliRunner().invoke(main, ["bench", "--model", str(run), *words]), message)
    assert not (run / "bench.json").exists()


def test_a_full_disk_is_told_with_the_folder_and_leaves_no_result(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("harvib.bench.runtimes.onnx.write_bytes", full)
    result = CliRunner().invoke(main, ["bench", "--model", str(run), "--repeats", "1", "--runtimes", "onnx"])
    assert result.exit_code == 2
    last = result.stderr.splitlines()[-1]
    assert last.endswith("cannot be written: No space left on device; TMPDIR names another folder")
    assert tempfile.gettempdir() in last
    assert not (run / "bench.json").exists()


def test_a_missing_or_unfinished_run_ends_with_one_line_and_code_2(run: Path, tmp_path: Path) -> None:
    (run / "report.json").unlink()
    for folder, words in ((tmp_path / "none", "no such run folder"), (run, "not finished")):
        result = CliRunner().invoke(main, ["bench", "--model", str(folder)])
        assert_refused(result, words)
        assert not (folder / "bench.json").exists()
