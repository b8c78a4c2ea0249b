"""`harvib sweep`: which runs, their figures over seeds, the front, resumption, and its page."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caches import TEST_SPLIT, made_up_cache
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import Page, self_contained
from small_runs import DIM, ODD_CLASSES, QUICK

from harfeat.cache import Failure
from harvib import methods
from harvib.cli import main
from harvib.errors import InputError
from harvib.frontier import pareto, spread
from harvib.points import AFTER_PLAIN, grid_of, points_of, ranges_of
from harvib.report.sweep_page import sweep_page
from harvib.settings import TrainSettings
from harvib.sweep import Sweep, run_sweep, settings_of

GRID = {"beta": (0.02, 1e4), "hidden": (4, 8)}
"""The second beta prunes everything away: such a run fails."""
WORDS = ["--grid", "hidden=4,8", "--grid", "beta=0.02,1e4", "--seeds", "0,1", "--device", "cpu", "--jobs", "1"]
OPTIONS = [
    word
    for name, value in QUICK.items()
    if name not in GRID
    for word in ([f"--{name}"] if value is True else [f"--{name.replace('_', '-')}", str(value)])
]


def invoke(cache: Path, out: Path, *words: str) -> Result:
    fixed = ["sweep", "--features", str(cache), "--split", TEST_SPLIT, "--out", str(out)]
    return CliRunner().invoke(main, [*fixed, *OPTIONS, *words])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up_cache(tmp_path_factory.mktemp("sweep") / "c.h5", classes=ODD_CLASSES, dim=DIM)


@pytest.fixture(scope="module")
def done(cache: Path) -> tuple[Path, Result]:
    out = cache.parent / "a <b>sweep"
    return out, invoke(cache, out, *WORDS)


def figures_of(out: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((out / "sweep.json").read_text())
    return value


# Which runs


def test_settings_need_to_go_together_only_with_what_is_swept() -> None:
    points = points_of({"method": "lasso"}, grid_of(["lasso_input=0.001,0.003"]), {}, (0,))
    assert [point.settings.lasso_input for point in points] == [0.001, 0.003]
    with pytest.raises(InputError, match="both 0"):
        points_of({"method": "lasso"}, {}, {}, (0,))


def test_grid_is_every_combination_once_with_every_seed() -> None:
    grid = grid_of(["beta=1e-3,3e-3", "hidden=64,128,256", "keep-scales=true,false", "model=lstm,gru"])
    points = points_of({"lr": 0.5}, grid, {}, (3, 1))
    assert len(points) == 2 * 3 * 2 * 2 * 2
    found = {(s.beta, s.hidden, s.keep_scales, s.model, s.seed) for s in (point.settings for point in points)}
    assert len(found) == len({point.name for point in points}) == len(points)
    assert all(point.settings.lr == 0.5 for point in points)
    other_order = points_of({"lr": 0.5}, dict(reversed(grid.items())), {}, (1, 3))
    assert {point.name for point in other_order} == {point.name for point in points}


def test_no_grid_is_one_setting_with_every_seed() -> None:
    assert [point.name for point in points_of({}, {}, {}, (4, 5))] == ["seed=4", "seed=5"]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.integers(1, 12), st.integers(1, 12))
def test_draws_lie_in_their_ranges_and_more_draws_keep_the_earlier(seed: int, few: int, more: int) -> None:
    ranges = ranges_of(["beta=1e-4:1e-1:log", "hidden=2:9", "layers=1:8:log", "dropout=0.1:0.3"])
    grid = grid_of(["model=lstm,gru"])
    first = points_of({}, grid, ranges, (0,), few, seed)
    both = points_of({}, grid, ranges, (0,), few + more, seed)
    assert both[: len(first)] == first
    for chosen in (point.settings for point in both):
        assert 1e-4 <= chosen.beta <= 1e-1
        assert 2 <= chosen.hidden <= 9
        assert 1 <= chosen.layers <= 8
        assert 0.1 <= chosen.dropout <= 0.3
        assert type(chosen.hidden) is type(chosen.layers) is int


def test_a_logarithmic_range_is_drawn_evenly_by_decade_and_whole_numbers_reach_both_ends() -> None:
    ranges = ranges_of(["beta=1e-4:1e-1:log", "hidden=1:4"])
    drawn = [point.settings for point in points_of({}, {}, ranges, (0,), 600)]
    decades = np.histogram([math.log10(chosen.beta) for chosen in drawn], [-4, -3, -2, -1])[0]
    # 200 each; 5 standard deviations.
    assert np.abs(decades - 200).max() < 5 * math.sqrt(600 * 2 / 9)
    assert {chosen.hidden for chosen in drawn} == {1, 2, 3, 4}


def test_equal_draws_count_once() -> None:
    names = [point.name for point in points_of({}, grid_of(["hidden=4,8"]), {}, (0, 1), 50)]
    assert sorted(names) == ["hidden=4,seed=0", "hidden=4,seed=1", "hidden=8,seed=0", "hidden=8,seed=1"]


def test_names_tell_values_apart_that_are_alike_and_stay_short_enough_for_a_folder() -> None:
    close = points_of({}, {"beta": (0.1234567, 0.1234568)}, {}, (0,))
    assert close[0].name != close[1].name
    fields = [f"{name}=1e-3,0.1234567" for name in ("beta", "beta_input", "lasso", "lr", "vib_lr", "mask_lr")]
    fields += ["finetune_lr=1e-3", "finetune_dropout=0.1", "label_smoothing=0.1", "weight_decay=0.125"]
    points = points_of({}, grid_of(fields), {}, (0,))
    assert len({point.name for point in points}) == 64
    assert max(len(point.name) for point in points) < 200


WRONG = [
    (["--grid", "bet=1"], "no such setting"),
    (["--grid", "beta"], "SETTING="),
    (["--grid", "beta="], "SETTING="),
    (["--grid", "beta=1,,2"], "not a number"),
    (["--grid", "hidden=2.5"], "not a whole number"),
    (["--grid", "hidden=0,4"], "--hidden 0"),
    (["--grid", "beta=nan"], "--beta nan"),
    (["--grid", "model=lstm,magic"], "--model magic"),
    (["--grid", "keep_scales=yes"], "true or false"),
    (["--grid", "beta=1,1.0"], "twice"),
    (["--grid", "beta=1", "--grid", "beta=2"], "twice"),
    (["--grid", "seed=1,2"], "--seeds"),
    (["--grid", "method=lasso,vib"], "nothing is pruned"),
    (["--grid", "beta=1,2", "--beta", "3"], "leave one out"),
    (["--random", "3", "--range", "vib-lr=0:1"], "leave one out"),
    (["--seeds", "0,x"], "whole numbers"),
    (["--seeds", "1,1"], "twice"),
    (["--seeds", "-1"], "--seed -1"),
    (["--range", "beta=1:2"], "--random"),
    (["--random", "3"], "nothing to draw"),
    (["--random", "-1"], "at least 0"),
    (["--random", "3", "--range", "beta=0:1:log"], "above 0"),
    (["--random", "3", "--range", "beta=2:1"], "below"),
    (["--random", "3", "--range", "beta=1"], "LOW:HIGH"),
    (["--random", "3", "--range", "beta=1:2:lin"], "LOW:HIGH"),
    (["--random", "3", "--range", "model=a:b"], "LOW:HIGH"),
    (["--random", "3", "--range", "beta=1:inf"], "low end"),
    (["--random", "3", "--range", "beta=1:2", "--grid", "beta=1"], "give one"),
    (["--jobs", "-1"], "at least 0"),
    (["--scheduler", "tcp://x:1"], "takes none"),
    (["--device", "abacus"], "--device abacus"),
    (["--seed", "1"], "No such option"),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=str)
def test_what_is_wrong_is_one_line_before_anything_runs(
    cache: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    result = invoke(cache, tmp_path / "out", "--device", "cpu", *words)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list((tmp_path / "out").glob("runs/*"))


def test_a_cache_that_cannot_be_used_is_one_line(cache: Path, tmp_path: Path) -> None:
    lacking = made_up_cache(tmp_path / "lacking.h5", failures=[Failure("v", "damaged")])
    for features, said in ((tmp_path / "none.h5", "no such file"), (lacking, "lacks 1 clips")):
        result = invoke(features, tmp_path / "out", *WORDS)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
        assert said in result.stderr


def test_a_backend_that_is_not_installed_is_one_line(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, package in (("dask", "distributed"), ("ray", "ray"), ("spark", "joblibspark")):
        monkeypatch.setitem(sys.modules, package, None)
        result = invoke(cache, tmp_path / "out", *WORDS, "--backend", name)
        assert result.exit_code == 2
        assert f"pip install 'harfeat[{name}]'" in result.stderr
        assert result.stderr.count("\n") == 1


# Figures


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_spread_is_that_of_the_textbook(values: list[float]) -> None:
    # Student's t at 97.5 %, from a printed table.
    quantile = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571}[len(values) - 1]
    mean = math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    found = spread(values)
    assert (found.count, found.low, found.high) == (len(values), min(values), max(values))
    assert found.mean == pytest.approx(mean)
    assert found.deviation == pytest.approx(deviation, abs=1e-12)
    assert found.half == pytest.approx(quantile * deviation / math.sqrt(len(values)), rel=2e-4, abs=1e-12)


def test_one_seed_has_no_interval() -> None:
    found = spread([0.5])
    assert found.mean == 0.5
    assert math.isnan(found.half)
    assert math.isnan(found.deviation)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5).map(float), st.integers(0, 5).map(float)), max_size=12))
def test_front_is_that_of_comparing_all_pairs(points: list[tuple[float, float]]) -> None:
    naive = [
        not any(a <= cost and b >= value and (a < cost or b > value) for a, b in points) for cost, value in points
    ]
    assert pareto(points) == naive


# The sweep


def test_figures_are_those_of_the_run_folders(done: tuple[Path, Result]) -> None:
    out, result = done
    assert result.exit_code == 1, result.output
    found = figures_of(out)
    runs = {row["run"]: row for row in found["runs"] if row["kind"] == "run"}
    assert set(runs) == {
        f"beta={b},hidden={h},seed={s}" for b in ("0.02", "10000") for h in (4, 8) for s in (0, 1)
    }
    for name, row in runs.items():
        if row["error"] is not None:
            continue
        report = json.loads((out / "runs" / name / "report.json").read_text())
        assert row["parameters"] == report["compact"]["parameters"]["total"]
        assert {part: row[part] for part in ("validation", "test")} == report["compact"]["accuracy"]
    for line in found["settings"]:
        if line["kind"] == "run" and line["finished"]:
            values = [row["test"] for row in runs.values() if row["swept"] == line["swept"]]
            assert line["test"]["mean"] == pytest.approx(np.mean(values))
            assert line["test"]["deviation"] == pytest.approx(np.std(values, ddof=1))
    with (out / "sweep.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert len(table) == len(found["runs"]) == 8 + 4
    assert [row["test"] for row in table] == ["" if r["test"] is None else str(r["test"]) for r in found["runs"]]


def test_runs_that_fail_are_told_and_end_nothing(done: tuple[Path, Result]) -> None:
    out, result = done
    failed = [row for row in figures_of(out)["runs"] if row["error"] is not None]
    assert [row["swept"]["beta"] for row in failed] == [1e4] * 4
    assert all("no hidden unit is left" in row["error"] and "\n" not in row["error"] for row in failed)
    assert [line for line in result.stderr.splitlines() if line.startswith("failed: ")] == [
        f"failed: {row['run']}: {row['error']}" for row in failed
    ]


def test_a_run_is_the_same_as_by_train_alone(done: tuple[Path, Result], cache: Path, tmp_path: Path) -> None:
    out, _ = done
    chosen = TrainSettings(**{**QUICK, "hidden": 8, "beta": 0.02, "seed": 1})
    methods.train(cache, TEST_SPLIT, chosen, tmp_path / "alone", device=torch.device("cpu"))
    swept = out / "runs" / "beta=0.02,hidden=8,seed=1"
    for file in ("plain.safetensors", "model.safetensors"):
        assert (swept / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()


def test_plain_models_are_shared_and_depend_on_no_setting_that_comes_after(done: tuple[Path, Result]) -> None:
    out, _ = done
    names = {folder.name for folder in (out / "plain").iterdir()}
    assert names == {f"hidden={h},seed={s}" for h in (4, 8) for s in (0, 1)}
    assert TrainSettings.__dataclass_fields__.keys() >= AFTER_PLAIN


def test_front_is_chosen_by_validation_among_whole_settings(done: tuple[Path, Result]) -> None:
    lines = figures_of(done[0])["settings"]
    whole = [line for line in lines if line["finished"] == line["seeds"]]
    points = [(line["parameters"]["mean"], line["validation"]["mean"]) for line in whole]
    for line, (cost, value) in zip(whole, points, strict=True):
        beaten = any(a <= cost and b >= value and (a, b) != (cost, value) for a, b in points)
        assert line["front"] is not beaten
    assert not any(line["front"] for line in lines if line["finished"] < line["seeds"])


def test_neither_test_accuracy_nor_a_setting_with_a_failed_seed_gets_on_the_front() -> None:
    def row(hidden: int, seed: int, parameters: int, validation: float, test: float, error: str | None) -> Any:
        figures: dict[str, Any] = {"parameters": parameters, "validation": validation, "test": test}
        figures |= {"inputs": 1, "units": 1, "ms": 100.0 - parameters}
        if error is not None:
            figures = dict.fromkeys(figures)
        return {"kind": "run", "run": "", "swept": {"hidden": hidden}, "seed": seed, "error": error, **figures}

    rows = [
        row(1, 0, 10, 0.5, 0.9, None), row(1, 1, 20, 0.7, 0.9, None),  # the smallest whole one
        row(2, 0, 30, 0.4, 1.0, None), row(2, 1, 30, 0.4, 1.0, None),  # best on test alone
        row(3, 0, 40, 0.9, 0.1, None), row(3, 1, 40, 0.9, 0.1, None),  # best on validation
        row(4, 0, 5, 1.0, 1.0, None), row(4, 1, 5, 1.0, 1.0, "lost"),  # better, but only half of it is there
    ]  # fmt: skip
    lines = settings_of(rows)
    assert [line["front"] for line in lines] == [True, False, True, False]
    assert [line["front_ms"] for line in lines] == [False, False, True, False]
    assert [line["finished"] for line in lines] == [2, 2, 2, 1]
    assert (lines[0]["parameters"]["low"], lines[0]["parameters"]["high"]) == (10, 20)
    assert lines[3]["test"] == {"count": 1, "mean": 1, "low": 1, "high": 1, "deviation": None, "half": None}


def test_page_needs_nothing_from_outside_and_escapes_what_it_shows(done: tuple[Path, Result]) -> None:
    out, _ = done
    text = (out / "sweep.html").read_text(encoding="utf-8")
    parsed = self_contained(text)
    assert "<b>sweep" not in text
    assert "a <b>sweep" in parsed.text
    found = figures_of(out)
    assert found["selection"] in parsed.text
    for row in found["runs"]:
        assert row["error"] is None or row["error"] in parsed.text
    for line in found["settings"]:
        assert line["parameters"] is None or f"{line['parameters']['mean']:,.0f}" in parsed.text
    assert text.count("<svg") == 2
    odd = {**found, "runs": [{"run": "x", "error": "<script>alert(1)</script>"}]}
    assert "script" not in Page(sweep_page("x", odd)).tags


def test_a_repeated_sweep_takes_everything_over_and_tries_failures_again(
    done: tuple[Path, Result], cache: Path, tmp_path: Path
) -> None:
    # Runs know the absolute path of their plain model, so the sweep goes on where it is.
    out, first = done
    before = figures_of(out)
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("*/*/*.safetensors")}
    page = (out / "sweep.html").read_text()
    again = invoke(cache, out, *WORDS)
    assert (again.exit_code, again.stdout) == (first.exit_code, first.stdout)
    assert figures_of(out) == before
    assert (out / "sweep.html").read_text() == page
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/*/*.safetensors")} == stamps


def test_a_sweep_with_other_settings_is_refused_in_the_same_folder(done: tuple[Path, Result], cache: Path) -> None:
    result = invoke(cache, done[0], *WORDS, "--vib-epochs", "7")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "vib_epochs = 20, not 7" in result.stderr


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_sweep_resumes_to_the_very_same_figures(
    done: tuple[Path, Result], cache: Path, tmp_path: Path, kind: signal.Signals
) -> None:
    out = tmp_path / "out"
    words = ["sweep", "--features", str(cache), "--split", TEST_SPLIT, "--out", str(out), *OPTIONS, *WORDS]
    program = [sys.executable, "-c", "from harvib.cli import main; main()", *words]
    log = tmp_path / "log"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    with log.open("w") as stream:
        process = subprocess.Popen(program, stdout=stream, stderr=stream, env=environment)
    deadline = time.monotonic() + 120
    while not list(out.glob("runs/*/report.json")):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)
    process.send_signal(kind)
    process.wait(60)
    assert process.returncode == (130 if kind == signal.SIGTERM else -signal.SIGKILL)
    assert not (out / "sweep.json").exists()
    result = invoke(cache, out, *WORDS)
    assert result.exit_code == 1, result.output
    assert figures_of(out) == figures_of(done[0])


def test_two_at_once_give_the_same_as_one_after_the_other_and_latency_is_drawn(
    done: tuple[Path, Result], cache: Path, tmp_path: Path
) -> None:
    points = points_of(QUICK, {"beta": (0.02,), "hidden": (8,)}, {}, (0, 1))
    found = run_sweep(Sweep(cache, TEST_SPLIT, tmp_path / "two", device="cpu", jobs=2, bench=True), points)
    names = {row["run"] for row in found["runs"]}
    one = [row for row in figures_of(done[0])["runs"] if row["run"] in names]
    assert [{**row, "ms": None} for row in found["runs"]] == one
    finished = [line for line in found["settings"] if line["finished"]]
    assert all(line["ms"]["mean"] > 0 for line in finished)
    assert any(line["front_ms"] for line in finished)
    assert sweep_page("x", found).count("<svg") == 4


def test_dask_gives_the_same(done: tuple[Path, Result], cache: Path, tmp_path: Path) -> None:
    points = points_of(QUICK, {"beta": (0.02,), "hidden": (4,)}, {}, (0, 1))
    found = run_sweep(Sweep(cache, TEST_SPLIT, tmp_path / "dask", device="cpu", jobs=1, backend="dask"), points)
    wanted = {row["run"]: row for row in figures_of(done[0])["runs"]}
    assert [row for row in found["runs"] if row["kind"] == "run"] == [
        wanted[f"beta=0.02,hidden=4,seed={seed}"] for seed in (0, 1)
    ]


def test_a_plain_model_that_fails_fails_its_runs_alone(cache: Path, tmp_path: Path) -> None:
    points = points_of({**QUICK, "method": "plain"}, {"select_inputs": (4, 99)}, {}, (0,))
    found = run_sweep(Sweep(cache, TEST_SPLIT, tmp_path / "out", device="cpu", jobs=1), points)
    good, bad = found["runs"]
    assert good["error"] is None
    assert bad["error"].startswith("its plain model: --select-inputs 99")
    assert found["failed"] == 1
    shutil.rmtree(tmp_path / "out" / "runs")
    with pytest.raises(InputError, match="choose another --out"):
        run_sweep(
            Sweep(cache, TEST_SPLIT, tmp_path / "out", device="cpu"),
            points_of({**QUICK, "method": "plain", "lr": 1.0}, {"select_inputs": (4,)}, {}, (0,)),
        )
