"""The latency of plain and compact, measured in turns, and what is said about it."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from small_runs import DIM, small_run
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
from harvib.cli import main
from harvib.errors import InputError
from harvib.weights import load_model

FEW = BenchSettings(steps=4, repeats=3)


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
    assert calls == ["plain", "compact"] * (WARM_UP_ROUNDS + 4)
    assert seconds == {"plain": [1.0] * 4, "compact": [1.0] * 4}
    assert all(first[0] is second[0] for first, second in zip(seen[::2], seen[1::2], strict=True))


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
    figures = per_clip(seconds, batch=2)
    assert figures["median_ms"] == pytest.approx(1000 * statistics.median(seconds) / 2)
    # The 95th percentile of five values lies a fifth of the way from the highest but one to the highest: 4 * 0.95.
    assert figures["p95_ms"] == pytest.approx((4 + 0.8 * (10 - 4)) / 2)


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


def test_result_holds_both_models_their_ratio_and_the_conditions(run: Path) -> None:
    before = torch.get_num_threads()
    result = bench_run(run, BenchSettings(steps=4, batch=2, repeats=3, threads=before + 1))
    assert torch.get_num_threads() == before
    assert result["ratio"] == result["plain"]["median_ms"] / result["compact"]["median_ms"]
    for state, file in (("plain", "plain.safetensors"), ("compact", "model.safetensors")):
        assert 0 < result[state]["median_ms"] <= result[state]["p95_ms"]
        assert result[state]["parameters"] == load_model(run / file)[0].parameter_counts()["total"]
    assert result["settings"] == {"steps": 4, "batch": 2, "repeats": 3, "threads": before + 1, "seed": 0}
    assert result["features"] == DIM
    assert measured(run) == result == json.loads((run / "bench.json").read_text())


def test_a_plain_run_has_one_model_and_no_ratio(tmp_path: Path) -> None:
    result = bench_run(small_run(tmp_path, method="plain"), FEW)
    assert "plain" in result
    assert not {"compact", "ratio"} & result.keys()
    assert "ratio" not in bench_table(result)


def test_command_prints_the_table_and_that_the_backbone_is_not_in_it(run: Path) -> None:
    words = ["bench", "--model", str(run), "--steps", "4", "--repeats", "3"]
    printed = CliRunner().invoke(main, words)
    assert printed.exit_code == 0, printed.output
    result = json.loads((run / "bench.json").read_text())
    lines = printed.stdout.splitlines()
    for state, line in zip(("plain", "compact"), lines[1:3], strict=True):
        figures = result[state]
        expected = [f"{figures['parameters']:,}", f"{figures['median_ms']:.3f}", f"{figures['p95_ms']:.3f}"]
        assert line.split() == [state, *expected]
    assert "classifier alone" in printed.stdout
    assert "CNN backbone" in printed.stdout
    as_json = CliRunner().invoke(main, [*words, "--json"])
    assert json.loads(as_json.stdout) == measured(run)


@pytest.mark.parametrize("option", ["steps", "batch", "repeats", "threads", "seed"])
def test_settings_out_of_range_are_refused_by_name(option: str) -> None:
    with pytest.raises(InputError, match=f"--{option} -1: must be at least"):
        BenchSettings(**{option: -1})


def test_a_missing_or_unfinished_run_ends_with_one_line_and_code_2(run: Path, tmp_path: Path) -> None:
    (run / "report.json").unlink()
    for folder, words in ((tmp_path / "none", "no such run folder"), (run, "not finished")):
        result = CliRunner().invoke(main, ["bench", "--model", str(folder)])
        assert result.exit_code == 2
        assert words in result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert not (folder / "bench.json").exists()
