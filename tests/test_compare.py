"""`harvib compare`: recipes within their budgets, the table, the choice of the best, resumption, its page."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caches import TEST_SPLIT, made_up_cache
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import self_contained
from small_runs import DIM, ODD_CLASSES, assert_refused

from harvib import methods
from harvib.cli import main
from harvib.compare import COMPARED, Contest, run_compare
from harvib.compare import _chosen as chosen
from harvib.errors import InputError
from harvib.factorised import NETWORKS, outline
from harvib.frontier import settings_of
from harvib.models import recurrent
from harvib.report.compare_page import compare_cells, compare_page
from harvib.rivals import METHODS, TRIALS, NoModelError, Rival, Task
from harvib.runconfig import stack_spec
from harvib.rundir import RunFolder
from harvib.settings import TrainSettings
from harvib.sweep import Sweep
from harvib.weights import ModelCard, load_model

QUICK = [
    "--plain-epochs",
    "3",
    "--vib-epochs",
    "4",
    "--lasso-epochs",
    "2",
    "--finetune-epochs",
    "2",
    "--batch",
    "8",
]
WORDS = ["--methods", "vib,lstm-small,mean-magnitude", "--budgets", "4e1,300", "--seeds", "2", "--jobs", "1"]


def invoke(cache: Path, out: Path, *words: str) -> Result:
    fixed = ["compare", "--features", str(cache), "--split", TEST_SPLIT, "--out", str(out), "--device", "cpu"]
    return CliRunner().invoke(main, [*fixed, *QUICK, *words])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up_cache(tmp_path_factory.mktemp("compare") / "c.h5", classes=ODD_CLASSES, dim=DIM)


@pytest.fixture(scope="module")
def done(cache: Path) -> tuple[Path, Result]:
    out = cache.parent / "a <b>contest"
    return out, invoke(cache, out, *WORDS, "--bench", "--trials", "2")


def told(out: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((out / "compare.json").read_text())
    return value


# Recipes


def _is_network(method: str) -> bool:
    task = Task(10_000, 4096, ModelCard(tuple("abcdefghijklmn"), ""))
    return METHODS[method].recipe(task).factorize in NETWORKS


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from([300, 1000, 4400, 10_000, 100_000]),
    st.sampled_from([64, 512, 1280, 4096]),
    st.integers(2, 27),
    st.integers(0, TRIALS - 1),
)
def test_a_recipe_asks_for_a_model_within_its_budget_or_says_why_not(
    method: str, budget: int, features: int, classes: int, trial: int
) -> None:
    task = Task(budget, features, ModelCard(tuple(map(str, range(classes))), ""), trial)
    try:
        chosen = METHODS[method].recipe(task)
    except NoModelError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
        return
    if chosen.method == "plain":
        assert task.size(chosen) <= budget
    else:
        assert chosen.target_params == budget < task.size(chosen)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_its_trials_on_the_features_of_a_usual_backbone(method: str) -> None:
    card = ModelCard(tuple("abcdefghijklmn"), "")
    found = [METHODS[method].recipe(Task(10_000, 4096, card, trial)) for trial in range(TRIALS)]
    assert len(set(found)) == TRIALS


@pytest.mark.parametrize("method", [name for name in METHODS if _is_network(name)])
@pytest.mark.parametrize(("budget", "features"), [(400, 64), (3000, 64), (100_000, 64), (100_000, 512)])
@pytest.mark.parametrize("trial", range(TRIALS))
def test_no_network_has_as_many_weights_as_its_matrix_and_none_with_less_rank_than_it_could(
    method: str, budget: int, features: int, trial: int
) -> None:
    task = Task(budget, features, ModelCard(tuple("abcdefghijklmn"), ""), trial)
    try:
        chosen = METHODS[method].recipe(task)
    except NoModelError:
        return

    def networks(settings: TrainSettings) -> list[tuple[int, int]]:
        spec = stack_spec(settings, features, task.card)
        found = [outline(factor) for factor in (spec.factor, spec.hidden_factor) if factor]
        return [(sum(w.numel() for w in net.parameters()), net.rows * net.columns) for net in found]

    assert networks(chosen)
    assert all(weights < dense for weights, dense in networks(chosen))
    more = dataclasses.replace(chosen, rank=chosen.rank + 1)
    if chosen.ranks:
        ranks = ",".join(str(int(rank) + 1) for rank in chosen.ranks.split(","))
        more = dataclasses.replace(chosen, ranks=ranks)
    if chosen.method == "plain" and not chosen.select_inputs:
        fits = task.size(more) <= budget
        assert not (fits and all(weights < dense for weights, dense in networks(more)))


def test_where_the_hidden_network_can_save_no_more_the_other_takes_what_is_left() -> None:
    card = ModelCard(tuple("abcdefghijklmn"), "")
    for budget in (10_000, 100_000):
        task = Task(budget, 4096, card)
        chosen = METHODS["fdtt-lstm"].recipe(task)
        assert max(map(int, chosen.ranks.split(","))) > chosen.rank
        assert task.size(chosen) > 0.9 * budget


def test_list_names_every_method_and_needs_no_cache() -> None:
    result = CliRunner().invoke(main, ["compare", "--list"])
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert lines.keys() == METHODS.keys()
    for name, rival in METHODS.items():
        assert rival.title in lines[name]
        assert (" ours " in lines[name]) is rival.ours


WRONG = [
    (["--methods", "vib,magic"], "--methods magic: no such method; there are vib-lstm, vib,"),
    (["--methods", "vib,vib"], "each once"),
    (["--methods", ""], "no such method"),
    (["--budgets", "1e3,x"], "x is not a number"),
    (["--budgets", "1e3,"], "nothing is not a number"),
    (["--budgets", "1000,1e3"], "each once"),
    (["--budgets", "0"], "at least 1"),
    (["--budgets", "99.5"], "whole number"),
    (["--budgets", "inf"], "whole number"),
    (["--budgets", "nan"], "whole number"),
    (["--budgets", "300,3"], "--budgets 3: no method has a model of this size here; vib:"),
    (["--budgets", "1e9", "--methods", "vib,mean-magnitude"], "nothing is to prune"),
    (["--seeds", "0"], "--seeds 0"),
    (["--seeds", "0,1"], "not a valid integer"),
    (["--trials", "0"], "--trials 0"),
    (["--trials", "99"], "every recipe offers"),
    (["--plain-epochs", "0"], "method vib: --plain-epochs 0"),
    (["--method", "vib"], "No such option"),
    (["--hidden", "4"], "No such option"),
    (["--factors", "3"], "No such option"),
    (["--jobs", "-1"], "at least 0"),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=str)
def test_what_is_wrong_is_one_line_before_anything_runs(
    cache: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    assert_refused(invoke(cache, tmp_path / "out", *WORDS, *words), said)
    assert not list((tmp_path / "out").glob("runs/*"))


# The comparison


def test_every_run_is_in_json_and_csv_with_the_figures_of_its_folder(done: tuple[Path, Result]) -> None:
    out, result = done
    assert result.exit_code == 0, result.output
    found = told(out)
    runs = [row for row in found["runs"] if row["kind"] == "run"]
    # `mean` on twelve features has 52 parameters: at 300 nothing is to prune.
    wanted = {(m, b) for m in ("vib", "lstm-small", "mean-magnitude") for b in (40, 300)} - {
        ("mean-magnitude", 300)
    }
    assert {(row["swept"]["method"], row["swept"]["budget"]) for row in runs} == wanted
    assert len(runs) == len(wanted) * 2 * 2
    for row in runs:
        folder = RunFolder(out / "runs" / row["run"])
        report, model = folder.report(), load_model(folder.model)[0]
        figures = report.get("compact", report["plain"])
        assert row["parameters"] == sum(weight.numel() for weight in model.parameters()) <= row["swept"]["budget"]
        assert row["input_to_hidden"] == figures["parameters"]["input_to_hidden"] < row["parameters"]
        assert {part: row[part] for part in ("validation", "test")} == figures["accuracy"]
        assert (
            row["macs_clip"] == 4 * row["macs_step"] + recurrent(model, "").head.weight.numel()
        )  # clips of 3, 4 and 5 steps
        assert row["seconds"] > sum(report["seconds"].values())  # the plain model's are not in that report
    with (out / "compare.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [row["test"] for row in table] == [str(row["test"]) for row in found["runs"]]
    assert {row["method"] for row in table} == {"", "vib", "lstm-small", "mean-magnitude"}


def test_a_line_is_the_trial_that_is_best_on_validation(done: tuple[Path, Result]) -> None:
    found = told(done[0])
    assert len(found["lines"]) == 5
    for line in found["lines"]:
        trials: dict[int, list[float]] = {}
        for row in found["runs"]:
            if row["kind"] == "run" and all(
                row["swept"][key] == line["swept"][key] for key in ("method", "budget")
            ):
                trials.setdefault(row["swept"]["trial"], []).append(row["validation"])
        assert sorted(trials) == [0, 1]
        assert line["validation"]["mean"] == max(np.mean(values) for values in trials.values())
        rivals = [other for other in found["lines"] if other["swept"]["budget"] == line["swept"]["budget"]]
        highest = max(other["validation"]["mean"] for other in rivals)
        assert line["best"] is (line["validation"]["mean"] == highest)


def test_methods_that_prune_the_same_plain_model_share_it(done: tuple[Path, Result]) -> None:
    out, _ = done
    plains = {RunFolder(path).config()["init"] for path in (out / "runs").glob("method=vib,*")}
    # One a seed, for two budgets and two trials.
    assert len(plains) == 2
    assert {Path(path).parent for path in plains} == {out / "plain"}


def test_table_has_every_method_at_every_budget(done: tuple[Path, Result]) -> None:
    out, result = done
    head, *rows = compare_cells(told(out))
    assert {(row[0], row[1]) for row in rows} == {
        (m, b) for m in ("vib", "lstm-small", "mean-magnitude") for b in ("40", "300")
    }
    absent = next(row for row in rows if row[:2] == ["mean-magnitude", "300"])
    assert set(absent[head.index("validation") : -1]) == {"-"}
    assert "mean-magnitude at 300: the plain model has only 52 parameters" in result.stdout
    assert "2 settings of each method were tried" in result.stdout
    for name in (
        "parameters",
        "in-to-hidden",
        "MACs/step",
        "MACs/clip",
        "ms/clip",
        "training s",
        "inputs",
        "units",
    ):
        column = head.index(name)
        assert all(row[column] for row in rows)
    assert [row[-1] for row in rows].count("best") >= 2


def test_latency_is_measured_once_for_all_models_beside_the_plain_lstm(done: tuple[Path, Result]) -> None:
    found = told(done[0])
    latency = found["latency"]
    shown = [line["swept"] for line in found["lines"]]
    timed = {row["run"] for row in found["runs"] if row["swept"] in shown}
    assert latency["models"].keys() == {latency["reference"], *timed}
    assert all(model["median_ms"] > 0 for model in latency["models"].values())
    assert latency["settings"]["batch"] == latency["settings"]["threads"] == 1
    assert latency["settings"]["steps"] == found["steps"] == 4
    for row in found["runs"]:
        assert row["ms"] == (latency["models"][row["run"]]["median_ms"] if row["run"] in timed else None)


def test_the_latency_of_a_run_that_was_trained_anew_is_measured_anew(cache: Path, tmp_path: Path) -> None:
    words = [*WORDS, "--methods", "lstm-small", "--budgets", "40", "--seeds", "1", "--bench"]
    assert invoke(cache, tmp_path, *words).exit_code == 0
    before = json.loads((tmp_path / "latency.json").read_text())
    shutil.rmtree(tmp_path / "runs")
    shutil.rmtree(tmp_path / "plain")
    assert invoke(cache, tmp_path, *words, "--lr", "0.5").exit_code == 0
    after = json.loads((tmp_path / "latency.json").read_text())
    assert after["models"].keys() == before["models"].keys()
    assert after["models"] != before["models"]


def test_the_same_command_runs_nothing_twice_and_a_larger_one_only_what_is_new(
    done: tuple[Path, Result], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, first = done
    before = told(out)
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("*/*/*.safetensors")}
    again = invoke(cache, out, *WORDS, "--bench", "--trials", "2")
    assert (again.exit_code, again.stdout) == (0, first.stdout)
    assert told(out) == before
    trained: list[str] = []
    genuine = methods.run_stages

    def noted(stages: Any, *arguments: Any) -> Any:
        trained.append(stages.folder.path.name)
        return genuine(stages, *arguments)

    monkeypatch.setattr(methods, "run_stages", noted)
    result = invoke(cache, out, *WORDS, "--methods", "vib,mean", "--seeds", "1")
    assert result.exit_code == 0, result.output
    runs = [name for name in trained if name.startswith("method=")]
    assert sorted(runs) == [f"method=mean,budget={b},trial=0,seed=0" for b in (300, 40)]
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert told(out)["latency"] is None
    assert invoke(cache, out, *WORDS, "--bench", "--trials", "2").exit_code == 0
    assert told(out) == before


def test_other_settings_are_refused_in_the_same_folder(done: tuple[Path, Result], cache: Path) -> None:
    result = invoke(cache, done[0], *WORDS, "--vib-epochs", "7")
    assert_refused(result, "vib_epochs = 4, not 7")


def test_another_cache_is_refused_in_the_same_folder(
    done: tuple[Path, Result], cache: Path, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in done[0].glob("compare.*")}
    renamed = made_up_cache(tmp_path / "other.h5", classes=ODD_CLASSES, dim=DIM)
    assert_refused(invoke(renamed, done[0], *WORDS), "holds a run with features = 'c.h5', not 'other.h5'")
    changed = made_up_cache(tmp_path / cache.name, classes=ODD_CLASSES, dim=DIM, recipe="other")
    result = invoke(changed, done[0], *WORDS, "--methods", "mean-magnitude", "--budgets", "40")
    assert_refused(result, "holds a run with fingerprint = ")
    assert "choose another --out" in result.stderr
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("file", ["plain.safetensors", "model.safetensors"])
def test_a_damaged_plain_model_fails_those_that_start_from_it_alone(
    cache: Path, tmp_path: Path, file: str
) -> None:
    words = [*WORDS, "--methods", "vib,lstm-small", "--budgets", "300", "--seeds", "1"]
    assert invoke(cache, tmp_path, *words).exit_code == 0
    run = next((tmp_path / "runs").glob("method=vib,*"))
    plain = Path(RunFolder(run).config()["init"])
    whole = (plain / file).read_bytes()
    (plain / file).write_bytes(whole[:-1])
    before = told(tmp_path)
    result = invoke(cache, tmp_path, *words)
    assert result.exit_code == 1, result.output
    failed = [line for line in result.stderr.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 1
    assert run.name in failed[0]
    assert f"its plain model: {plain / file}: not a readable safetensors file" in failed[0]
    assert f"delete the folder {plain}:" in failed[0]
    found = {line["swept"]["method"]: line["finished"] for line in told(tmp_path)["lines"]}
    assert found == {"vib": 0, "lstm-small": 1}
    shutil.rmtree(plain)
    assert invoke(cache, tmp_path, *words).exit_code == 0
    assert (plain / file).read_bytes() == whole
    assert [line["test"] for line in told(tmp_path)["lines"]] == [line["test"] for line in before["lines"]]


def test_a_damaged_model_of_a_run_is_its_own_failure(cache: Path, tmp_path: Path) -> None:
    words = [*WORDS, "--methods", "mean,lstm-small", "--budgets", "300", "--seeds", "1"]
    assert invoke(cache, tmp_path, *words).exit_code == 0
    run = next((tmp_path / "runs").glob("method=mean,*"))
    (run / "model.safetensors").write_bytes(b"")
    result = invoke(cache, tmp_path, *words)
    assert result.exit_code == 1, result.output
    assert result.stderr.count("failed: ") == 1
    assert f"delete the folder {run}:" in result.stderr


def test_a_method_that_fails_is_told_and_ends_nothing(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverging(task: Task) -> TrainSettings:
        return TrainSettings(method="plain", model="mean", lr=1e6, clip_norm=1e30, weight_decay=1e6)

    monkeypatch.setitem(METHODS, "bad", Rival("diverges", False, diverging, cannot=("lr",)))
    result = invoke(
        cache, tmp_path / "out", *WORDS, "--methods", "bad,mean", "--lr", "0.01", "--plain-epochs", "9"
    )
    assert result.exit_code == 1, result.output
    failed = [line for line in result.stderr.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 4
    assert all("diverged" in line for line in failed)
    assert "Without --lr, which they cannot take: bad." in result.stdout
    found = told(tmp_path / "out")
    assert found["failed"] == 4
    assert [(line["finished"], line["best"]) for line in found["lines"]] == [
        (0, False), (2, True), (0, False), (2, True)
    ]  # fmt: skip
    head, *rows = compare_cells(found)
    assert [row[head.index("seeds")] for row in rows if row[0] == "bad"] == ["0 of 2", "0 of 2"]
    assert "diverged" in compare_page("x", found)


def test_test_accuracy_chooses_neither_a_trial_nor_the_best() -> None:
    def row(method: str, trial: int, seed: int, validation: float, test: float, error: str | None = None) -> Any:
        figures: dict[str, Any] = dict.fromkeys(COMPARED, 1)
        figures |= {"validation": validation, "test": test}
        if error:
            figures = dict.fromkeys(COMPARED)
        swept = {"method": method, "budget": 10, "trial": trial}
        return {"kind": "run", "run": "", "swept": swept, "seed": seed, "error": error, **figures}

    rows = [
        row("a", 0, 0, 0.5, 1.0), row("a", 0, 1, 0.5, 1.0),
        row("a", 1, 0, 0.7, 0.2), row("a", 1, 1, 0.5, 0.2),  # better on validation
        row("b", 0, 0, 0.4, 1.0), row("b", 0, 1, 0.4, 1.0),
        row("b", 1, 0, 0.9, 1.0), row("b", 1, 1, 0.9, 1.0, "lost"),  # better, but only half of it is there
        row("c", 0, 0, 0.9, 1.0), row("c", 0, 1, 0.9, 1.0, "lost"),
    ]  # fmt: skip
    lines = chosen(settings_of(rows, COMPARED))
    assert [(line["swept"]["method"], line["swept"]["trial"]) for line in lines] == [("a", 1), ("b", 0), ("c", 0)]
    assert [line["best"] for line in lines] == [True, False, False]


def test_page_needs_nothing_from_outside_and_escapes_what_it_shows(done: tuple[Path, Result]) -> None:
    text = (done[0] / "compare.html").read_text(encoding="utf-8")
    self_contained(text)
    assert "<b>contest" not in text
    assert "a &lt;b&gt;contest" in text
    assert text.count("<svg") == 4


def test_a_comparison_from_python_is_that_of_the_command(
    done: tuple[Path, Result], cache: Path, tmp_path: Path
) -> None:
    changes = {"plain_epochs": 3, "finetune_epochs": 2, "batch": 8}
    sweep = Sweep(cache, TEST_SPLIT, tmp_path / "out", device="cpu", jobs=1)
    found = run_compare(sweep, Contest(("lstm-small",), (300,), seeds=2, changes=changes))
    same = [row for row in told(done[0])["runs"] if row["run"] in {row["run"] for row in found["runs"]}]
    exact = [name for name in COMPARED if name not in ("seconds", "ms")]
    assert [[row[name] for name in exact] for row in found["runs"]] == [
        [row[name] for name in exact] for row in same
    ]
    with pytest.raises(InputError, match="hidden"):
        Contest(("vib",), (10,), changes={"hidden": 3})


def test_a_teacher_is_trained_once_a_seed_for_all_that_learn_from_it(cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["--methods", "lstm-taught,vib-taught", "--seeds", "2", "--jobs", "2", "--budgets", "200"]
    result = invoke(cache, out, *words)
    assert result.exit_code == 0, result.output
    plains = {path: RunFolder(path) for path in (out / "plain").iterdir()}
    # For each seed the teacher, the plain model that vib prunes, and the small one, which is taught.
    assert len(plains) == 3 * 2
    taught = [run for run in plains.values() if run.config()["teacher"]]
    assert len(taught) == 2
    for run in (*taught, *map(RunFolder, (out / "runs").glob("method=vib-taught,*"))):
        teacher = RunFolder(Path(run.config()["teacher"]))
        assert teacher.path in plains
        assert teacher.config()["settings"]["hidden"] == 32
        assert teacher.config()["settings"]["seed"] == run.config()["settings"]["seed"]
    for row in told(out)["runs"]:
        if row["swept"].get("method") == "lstm-taught":
            run = RunFolder(out / "runs" / row["run"])
            small = RunFolder(Path(run.config()["init"]))
            teacher = RunFolder(Path(small.config()["teacher"]))
            assert row["seconds"] == pytest.approx(small.seconds("plain") + teacher.seconds("plain"))
    again = invoke(cache, out, *words)
    assert (again.exit_code, again.stdout) == (0, result.stdout)


def test_a_teacher_that_fails_fails_its_pupils_alone(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = TrainSettings(model="mean", lr=1e6, clip_norm=1e30, weight_decay=1e6)
    for name in ("lstm-taught", "vib-taught"):
        rival = dataclasses.replace(METHODS[name], teacher=bad, cannot=("plain_epochs",))
        monkeypatch.setitem(METHODS, name, rival)
    words = ["--methods", "lstm-taught,vib-taught,mean", "--budgets", "200", "--seeds", "1"]
    result = invoke(cache, tmp_path / "out", *WORDS, *words)
    assert result.exit_code == 1, result.output
    failed = [line for line in result.stderr.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 2
    assert all("its teacher: training diverged" in line for line in failed)


@pytest.mark.parametrize("method", ["dbof-small", "dbof-vib", "dbof-circulant-vib", "netvlad-vib", "netfv-vib"])
def test_pooled_methods_have_models_on_joined_streams(method: str) -> None:
    """Inputs chosen by F score would be of no stream; streams are pooled whole, each by itself."""
    joined = ModelCard(("a", "b", "c"), "f" * 64, "rgb+audio", (1024, 128), several=True)
    budget = 10_000 if "circulant" in method else 100_000
    for trial in range(TRIALS):
        task = Task(budget, 1152, joined, trial)
        settings = METHODS[method].recipe(task)
        assert task.spec(settings).smallest(settings.scales_stay) <= budget, "it can be met"
        assert settings.target_params == budget or 0.9 * budget < task.size(settings) <= budget


def test_a_budget_that_joined_streams_cannot_meet_is_told_as_such() -> None:
    joined = ModelCard(("a", "b", "c"), "f" * 64, "rgb+audio", (1024, 128), several=True)
    with pytest.raises(NoModelError, match="the smallest model has"):
        METHODS["dbof-small"].recipe(Task(500, 1152, joined))
