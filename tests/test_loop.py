"""How a training run is carried out: exact resume, Ctrl-C, early stop, schedules, precision, TensorBoard."""

from __future__ import annotations

import builtins
import itertools
import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from caches import TEST_SPLIT, made_up_cache
from click.testing import CliRunner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from harvib import fusion, methods, train
from harvib.bench import BenchSettings, bench_run
from harvib.checkpoint import Checkpoint
from harvib.cli import main
from harvib.errors import InputError
from harvib.evaluate import evaluate_run
from harvib.interrupt import Stop
from harvib.manner import Manner
from harvib.models import SequenceClassifier
from harvib.points import grid_of, points_of
from harvib.precision import Arithmetic, dtype_of
from harvib.report.page import page
from harvib.rundir import RunFolder
from harvib.schedule import share
from harvib.settings import TrainSettings
from harvib.sweep import Sweep, run_sweep
from harvib.weights import load_model

CPU = torch.device("cpu")
FIELDS: dict[str, Any] = {
    "hidden": 6, "plain_epochs": 10, "vib_epochs": 10, "lasso_epochs": 10, "finetune_epochs": 10, "batch": 8,
    "lr": 2e-2, "vib_lr": 2e-3, "mask_lr": 0.2, "beta": 0.05, "beta_input": 0.05, "validation": 0.3,
}  # fmt: skip
WAYS: dict[str, dict[str, Any]] = {
    "vib": {},
    "with lasso": {"lasso": 1e-3, "lasso_input": 1e-3},
    "lasso after": {"lasso": 1e-3, "lasso_threshold": 1e-3, "lasso_time": "after-vib"},
    "budget": {"target_ratio": 2.0},
    "early stop": {"patience": 6, "warmup_epochs": 2, "schedule": "step"},
    "bfloat16": {"precision": "bfloat16", "schedule": "linear"},
    "drop": {"max_drop": 100.0},
    "movement": {"method": "movement", "movement_epochs": 10, "target_ratio": 2.0},
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up_cache(tmp_path_factory.mktemp("cache") / "c.h5")


def run(cache: Path, run_dir: Path, stop: Stop | None = None, **fields: Any) -> dict[str, Any]:
    manner = Manner(stop, tensorboard=fields.pop("tensorboard", False))
    settings = TrainSettings(**{**FIELDS, **fields})
    return methods.train(cache, TEST_SPLIT, settings, run_dir, device=CPU, manner=manner)


def at(patch: pytest.MonkeyPatch, stage: str, epoch: int, act: Callable[[], object]) -> None:
    """Do something while this epoch of a run is recorded."""
    genuine = RunFolder.record

    def record(self: RunFolder, row: dict[str, Any]) -> None:
        genuine(self, row)
        if (row["stage"], row["epoch"]) == (stage, epoch):
            act()

    patch.setattr(RunFolder, "record", record)


def stopped(cache: Path, run_dir: Path, stage: str, epoch: int, **fields: Any) -> dict[str, Any]:
    """A run that is asked to stop in this epoch."""
    with pytest.MonkeyPatch.context() as patch:
        stop = Stop()
        at(patch, stage, epoch, stop.ask)
        return run(cache, run_dir, stop, **fields)


@pytest.fixture(scope="module")
def whole(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an uninterrupted run of one of WAYS."""
    made: dict[str, Path] = {}

    def get(way: str) -> Path:
        if way not in made:
            made[way] = tmp_path_factory.mktemp("whole") / "run"
            run(cache, made[way], **WAYS[way])
        return made[way]

    return get


def outcome(run_dir: Path) -> dict[str, Any]:
    """All that a run comes to, but what tells time."""
    rows = [{**row, "seconds": ""} for row in RunFolder(run_dir).rows()]
    report = json.loads((run_dir / "report.json").read_text())
    del report["seconds"]
    files = {path.name: path.read_bytes() for path in run_dir.glob("*.safetensors")}
    return {"rows": rows, "report": report, "files": files, "names": sorted(p.name for p in run_dir.iterdir())}


@pytest.mark.parametrize(
    ("way", "stage", "epoch"),
    [
        ("vib", "plain", 5),
        ("vib", "vib", 5),
        ("vib", "vib", 10),
        ("vib", "finetune", 5),
        ("with lasso", "vib", 5),
        ("lasso after", "lasso", 5),
        ("budget", "vib", 5),
        ("early stop", "plain", 5),
        ("bfloat16", "vib", 5),
        ("drop", "vib", 5),
        ("drop", "finetune", 5),
        ("movement", "movement", 5),
    ],
)
def test_a_run_that_was_stopped_and_looked_at_ends_as_one_that_was_not(
    cache: Path, tmp_path: Path, whole: Callable[[str], Path], way: str, stage: str, epoch: int
) -> None:
    fields, folder = WAYS[way], tmp_path / "run"
    report = stopped(cache, folder, stage, epoch, **fields)
    last = RunFolder(folder).rows()[-1]
    if epoch < 10:
        assert report["interrupted"] == {"stage": stage, "epoch": epoch, "of": 10}
        assert way == "drop" or (last["stage"], last["epoch"]) == (stage, str(epoch)), "the epoch was finished"
    assert report == json.loads((folder / "report.json").read_text())
    assert ("compact" in report) == (stage != "plain")
    state = "plain" if stage == "plain" else "compact"
    found = evaluate_run(folder, cache, TEST_SPLIT, "test", CPU)
    assert found["accuracy"] == report[state]["accuracy"]["test"]
    assert found["parameters"] == report[state]["parameters"]
    assert state in bench_run(folder, BenchSettings(repeats=1), memory=False)
    if (way, stage) == ("vib", "plain"):
        assert f"Interrupted after epoch {epoch} of 10 of the" in page([folder])
    run(cache, folder, **fields)
    assert outcome(folder) == outcome(whole(way))


@pytest.mark.parametrize("stage", ["plain", "vib", "finetune"])
def test_a_killed_run_of_five_epochs_of_ten_goes_on_to_the_same_end(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Callable[[str], Path], stage: str
) -> None:
    def kill() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        at(patch, stage, 6, kill)
        patch.setattr(RunFolder, "checkpoint", property(lambda self: Checkpoint(self.path / "last", 0.0)))
        with pytest.raises(KeyboardInterrupt):
            run(cache, tmp_path / "run", **WAYS["early stop"])
    assert RunFolder(tmp_path / "run").checkpoint.position() == (stage, 5)
    run(cache, tmp_path / "run", **WAYS["early stop"])
    assert outcome(tmp_path / "run") == outcome(whole("early stop"))


def test_a_run_stopped_again_and_again_goes_on_each_time(
    cache: Path, tmp_path: Path, whole: Callable[[str], Path]
) -> None:
    places = (("plain", 1), ("plain", 2), ("vib", 1), ("vib", 9), ("finetune", 1), ("finetune", 8))
    for stage, epoch in places:
        report = stopped(cache, tmp_path / "run", stage, epoch)
        assert report["interrupted"] == {"stage": stage, "epoch": epoch, "of": 10}
    run(cache, tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(whole("vib"))


def test_an_interrupted_stage_that_selects_keeps_its_best_epoch(cache: Path, tmp_path: Path) -> None:
    report = stopped(cache, tmp_path / "run", "plain", 7, lr=3.0)
    rows = RunFolder(tmp_path / "run").rows()
    best = max(rows, key=lambda row: (float(row["val_accuracy"]), -float(row["val_loss"])))
    assert best is not rows[-1], "the case must tell best from last"
    assert report["epochs"]["plain"] == {"run": 7, "kept": int(best["epoch"])}
    assert report["plain"]["loss"]["validation"] == pytest.approx(float(best["val_loss"]), rel=1e-5)


def test_an_interrupted_run_with_a_budget_meets_it(cache: Path, tmp_path: Path) -> None:
    report = stopped(cache, tmp_path / "run", "vib", 3, target_params=120, keep_scales=True)
    assert 0.7 * 120 <= report["compact"]["parameters"]["total"] <= 120
    assert report["compaction"]["max_abs_difference"] <= 1e-5


@pytest.mark.parametrize("project", [0, 3])
def test_a_budget_by_group_lasso_alone_is_met_when_interrupted(cache: Path, tmp_path: Path, project: int) -> None:
    fields: dict[str, Any] = {"method": "lasso", "lasso": 1e-3, "target_params": 100, "project": project}
    report = stopped(cache, tmp_path / "run", "lasso", 4, **fields)
    assert "not_pruned" not in report["interrupted"]
    assert 80 < report["compact"]["parameters"]["total"] <= 100
    assert report["compaction"]["max_abs_difference"] <= 1e-5
    # What was made for a look at it does not change where the run ends.
    run(cache, tmp_path / "run", **fields)
    run(cache, tmp_path / "whole", **fields)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_an_interrupted_run_of_which_nothing_is_left_reports_the_plain_model(cache: Path, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"mask_lr": 3.0, "beta": 100.0, "beta_input": 100.0, "warmup": 0.0, "batch": 2}
    report = stopped(cache, tmp_path / "run", "vib", 5, **fields)
    assert "is left" in report["interrupted"]["not_pruned"]
    assert "compact" not in report
    found = evaluate_run(tmp_path / "run", cache, TEST_SPLIT, "test", CPU)
    assert found["accuracy"] == report["plain"]["accuracy"]["test"]


def test_a_run_killed_while_it_writes_its_provisional_result_resumes(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Callable[[str], Path]
) -> None:
    from harvib import unfinished  # noqa: PLC0415

    def kill(*arguments: Any) -> None:
        raise KeyboardInterrupt

    for spot in ("save_model", "report_of"):
        with monkeypatch.context() as patch:
            patch.setattr(unfinished, spot, kill)
            with pytest.raises(KeyboardInterrupt):
                stopped(cache, tmp_path / spot, "vib", 5)
        run(cache, tmp_path / spot)
        assert outcome(tmp_path / spot) == outcome(whole("vib"))


def test_a_fused_run_stopped_in_its_last_stream_is_fused_as_it_is_and_goes_on(tmp_path: Path) -> None:
    caches = [made_up_cache(tmp_path / f"{name}.h5", stream=name, recipe=name) for name in ("rgb", "flow")]
    settings = TrainSettings(**FIELDS)

    def fused(folder: Path, stop: Stop | None = None) -> dict[str, Any]:
        return fusion.train(caches, TEST_SPLIT, settings, folder, device=CPU, manner=Manner(stop))

    folder = tmp_path / "run"
    fused(tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        stop = Stop()
        at(patch, "vib", 4, stop.ask)
        with pytest.raises(KeyboardInterrupt):
            fused(folder, stop)
    assert not (folder / "report.json").exists(), "the second stream has no model yet"
    assert RunFolder(folder / "rgb").report()["interrupted"]["epoch"] == 4
    with pytest.MonkeyPatch.context() as patch:
        stop = Stop()
        at(patch, "plain", 3, stop.ask)
        report = fused(folder, stop)
    assert report["interrupted"] == {"stage": "plain", "epoch": 3, "of": 10, "stream": "flow"}
    assert "plain" in report
    assert "compact" not in report, "the second stream has none"
    found = evaluate_run(folder, caches, TEST_SPLIT, "test", CPU)
    assert found["accuracy"] == report["plain"]["accuracy"]["test"]
    fused(folder)
    assert outcome(folder) == outcome(tmp_path / "whole")
    for name in ("rgb", "flow"):
        assert outcome(folder / name) == outcome(tmp_path / "whole" / name)


def test_an_interrupted_search_keeps_the_smallest_model_that_it_has_found(
    cache: Path, tmp_path: Path, whole: Callable[[str], Path]
) -> None:
    stop, seen = Stop(), 0

    def second_target() -> None:
        nonlocal seen
        seen += 1
        if seen == 2:
            stop.ask()

    with pytest.MonkeyPatch.context() as patch:
        at(patch, "vib", 3, second_target)
        report = run(cache, tmp_path / "run", stop, **WAYS["drop"])
    first = RunFolder(tmp_path / "run" / "search" / str(report["interrupted"]["found"]["target"])).report()
    assert report["interrupted"]["stage"] == "vib"
    assert report["compact"] == first["compact"]
    assert report["masked"] == first["masked"]
    assert (
        evaluate_run(tmp_path / "run", cache, TEST_SPLIT, "test", CPU)["parameters"]
        == (first["compact"]["parameters"])
    )
    run(cache, tmp_path / "run", **WAYS["drop"])
    assert outcome(tmp_path / "run") == outcome(whole("drop"))


def test_a_sweep_goes_on_with_runs_that_were_interrupted(cache: Path, tmp_path: Path) -> None:
    points = points_of(FIELDS, grid_of(["beta=0.05"]), {}, (0,))
    plain, pruned = (
        tmp_path / "sweep" / kind / p.name for kind, p in (("plain", points[0].plain()), ("runs", points[0]))
    )
    with pytest.MonkeyPatch.context() as patch:
        stop = Stop()
        at(patch, "plain", 5, stop.ask)
        methods.train(cache, TEST_SPLIT, points[0].plain().settings, plain, device=CPU, manner=Manner(stop))
    assert "interrupted" in RunFolder(plain).report()
    result = run_sweep(Sweep(cache, TEST_SPLIT, tmp_path / "sweep", "cpu", jobs=1), points)
    assert result["failed"] == 0
    reports = [RunFolder(folder).report() for folder in (plain, pruned)]
    assert not any("interrupted" in report for report in reports)
    assert [report["epochs"] for report in reports] == [
        {"plain": {"run": 10, "kept": reports[0]["epochs"]["plain"]["kept"]}},
        {
            "vib": {"run": 10, "kept": 10},
            "finetune": {"run": 10, "kept": reports[1]["epochs"]["finetune"]["kept"]},
        },
    ]


def test_nothing_starts_from_a_plain_model_that_is_not_trained_to_its_end(cache: Path, tmp_path: Path) -> None:
    stopped(cache, tmp_path / "run", "plain", 5)
    settings = TrainSettings(**FIELDS)
    with pytest.raises(InputError, match=r"--init .*not trained to its end: repeat its command first"):
        methods.train(cache, TEST_SPLIT, settings, tmp_path / "other", tmp_path / "run", CPU)


def arguments(cache: Path, run_dir: Path, **fields: Any) -> list[str]:
    options = {f"--{name.replace('_', '-')}": str(value) for name, value in {**FIELDS, **fields}.items()}
    places = ["--features", str(cache), "--split", TEST_SPLIT, "--run-dir", str(run_dir), "--device", "cpu"]
    return ["train", *places, *(word for option in options.items() for word in option)]


def test_ctrl_c_ends_the_epoch_with_a_report_and_130_and_the_command_goes_on(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Callable[[str], Path]
) -> None:
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        at(patch, "vib", 4, lambda: os.kill(os.getpid(), signal.SIGINT))
        result = CliRunner().invoke(main, arguments(cache, tmp_path / "run"))
    assert result.exit_code == 130
    assert "compact" in result.stdout
    assert result.stderr.splitlines()[-1] == (
        "harvib: interrupted after epoch 4 of 10 of the vib stage; the figures are of what there was; the same "
        "command goes on"
    )
    shown = CliRunner().invoke(main, ["report", str(tmp_path / "run")])
    assert shown.exit_code == 0
    assert "Interrupted after epoch 4 of 10 of the vib stage" in shown.stderr
    result = CliRunner().invoke(main, arguments(cache, tmp_path / "run"))
    assert (result.exit_code, "interrupted" in result.stderr) == (0, False)
    assert outcome(tmp_path / "run") == outcome(whole("vib"))
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_and_a_sigterm_end_at_once(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Callable[[str], Path]
) -> None:
    for name, signals in (("int", (signal.SIGINT, signal.SIGINT)), ("term", (signal.SIGTERM,))):

        def strike(signals: tuple[signal.Signals, ...] = signals) -> None:
            for each in signals:
                os.kill(os.getpid(), each)

        with monkeypatch.context() as patch:
            at(patch, "vib", 4, strike)
            result = CliRunner().invoke(main, arguments(cache, tmp_path / name))
        assert result.exit_code == 130
        assert result.stderr.splitlines()[-1] == "harvib: interrupted; the same command resumes"
        assert not (tmp_path / name / "report.json").exists()
        run(cache, tmp_path / name)
        assert outcome(tmp_path / name) == outcome(whole("vib"))


def test_without_a_stop_ctrl_c_ends_a_python_call_at_once(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(monkeypatch, "plain", 2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run(cache, tmp_path / "run")


def test_patience_ends_a_stage_after_so_many_epochs_without_a_better_one(cache: Path, tmp_path: Path) -> None:
    report = run(
        cache, tmp_path / "run", plain_epochs=60, finetune_epochs=60, patience=4, lr=0.1, finetune_lr=0.5, batch=2
    )
    rows = RunFolder(tmp_path / "run").rows()
    for stage in ("plain", "finetune"):
        scores = [(float(r["val_accuracy"]), -float(r["val_loss"])) for r in rows if r["stage"] == stage]
        best = list(itertools.accumulate(scores, max))
        assert len(scores) < 60
        assert best[-5] == best[-1], "four epochs in a row were not better"
        assert all(best[n] > best[n - 4] for n in range(4, len(best) - 1)), "and never before"
        kept = scores.index(best[-1]) + 1
        assert report["epochs"][stage] == {"run": len(scores), "kept": kept}
        state = "plain" if stage == "plain" else "compact"
        assert report[state]["accuracy"]["validation"] == pytest.approx(scores[kept - 1][0])
        assert report[state]["loss"]["validation"] == pytest.approx(-scores[kept - 1][1], rel=1e-5)
    assert report["epochs"]["vib"] == {"run": 10, "kept": 10}, "the penalty grows: nothing to stop early for"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", [1.0] * 8),
        ("linear", [1 - n / 8 for n in range(8)]),
        ("cosine", [(1 + math.cos(math.pi * n / 8)) / 2 for n in range(8)]),
        ("step", [1.0] * 4 + [0.1] * 2 + [0.01] * 2),
    ],
)
def test_rates_follow_the_schedule_after_a_straight_warm_up(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, expected: list[float]
) -> None:
    rates: list[list[float]] = []

    class Spy(torch.optim.AdamW):
        def step(self, closure: Any = None) -> Any:
            rates.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "AdamW", Spy)
    fields: dict[str, Any] = {
        "plain_epochs": 4,
        "vib_epochs": 10,
        "finetune_epochs": 5,
        "batch": 1000,
        "warmup_epochs": 2,
    }
    run(cache, tmp_path / "run", schedule=name, **fields)
    assert len(rates) == 4 + 10 + 5, "a step an epoch"
    vib = rates[4:14]
    rising = [1 / 3, 2 / 3]
    assert [rate for rate, _ in vib] == pytest.approx([2e-3 * part for part in [*rising, *expected]])
    assert [rate for _, rate in vib] == pytest.approx([0.2 * part for part in [*rising, *expected]])
    written = [row for row in RunFolder(tmp_path / "run").rows() if row["stage"] == "vib"]
    assert [float(row["lr"]) for row in written] == pytest.approx([rate for rate, _ in vib], rel=1e-5)
    assert [float(row["mask_lr"]) for row in written] == pytest.approx([rate for _, rate in vib], rel=1e-5)


def test_without_a_warm_up_a_schedule_begins_at_its_peak() -> None:
    assert share(lambda progress: 1 - progress, 0, 10, 0) == 1


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"warmup_epochs": 10}, "--warmup-epochs 10: --finetune-epochs is only 10"),
        ({"warmup_epochs": 5, "vib_epochs": 5}, "--warmup-epochs 5: --vib-epochs is only 5"),
        ({"warmup_epochs": 5, "plain_epochs": 4}, "--warmup-epochs 5: the plain stage has only 4 epochs"),
        ({"schedule": "exponential"}, "--schedule exponential: choose one of cosine, linear, constant, step"),
        ({"patience": -1}, "--patience -1: must be at least 0"),
        ({"precision": "float16"}, "--precision float16: needs a GPU, this run is on cpu"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    cache: Path, tmp_path: Path, fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(InputError) as caught:
        run(cache, tmp_path / "run", **fields)
    assert str(caught.value).startswith(named)


def test_metrics_tell_what_moved_the_weights(cache: Path, tmp_path: Path, whole: Callable[[str], Path]) -> None:
    rows = [row for row in RunFolder(whole("with lasso")).rows() if row["stage"] == "vib"]
    assert all(float(row["lasso"]) > 0 for row in rows)
    assert float(rows[-1]["lasso"]) < float(rows[0]["lasso"])
    assert {row["strength"] for row in rows} == {""}
    budget = RunFolder(whole("budget"))
    strengths = [float(row["strength"]) for row in budget.rows() if row["stage"] == "vib"]
    assert len(set(strengths)) > 2
    assert {row["mask_lr"] for row in budget.rows() if row["stage"] != "vib"} == {""}


def test_half_precision_touches_products_alone(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.dtype, torch.dtype, torch.dtype]] = []
    genuine_forward, genuine_terms = nn.Linear.forward, train.loss_terms
    evaluated: set[torch.dtype] = set()

    def forward(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        result = genuine_forward(self, x)
        if not torch.is_grad_enabled():
            evaluated.add(result.dtype)
        heads.append(result.dtype)
        return result

    def terms(model: SequenceClassifier, logits: torch.Tensor, *rest: Any) -> Any:
        loss, parts = genuine_terms(model, logits, *rest)
        seen.append((heads[-1], logits.dtype, parts["kl_gates"].dtype))
        assert not torch.is_autocast_enabled("cpu")
        return loss, parts

    heads: list[torch.dtype] = []
    monkeypatch.setattr(nn.Linear, "forward", forward)
    monkeypatch.setattr(train, "loss_terms", terms)
    report = run(cache, tmp_path / "run", precision="bfloat16", plain_epochs=2, vib_epochs=2, finetune_epochs=2)
    assert set(seen) == {(torch.bfloat16, torch.float32, torch.float32)}
    assert evaluated == {torch.float32}
    assert report["precision"] == "bfloat16"
    assert report["compaction"]["max_abs_difference"] <= 1e-5
    for name in ("plain", "masked", "model"):
        model, _ = load_model(tmp_path / "run" / f"{name}.safetensors")
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_bfloat16_learns_what_float32_learns(cache: Path, tmp_path: Path, whole: Callable[[str], Path]) -> None:
    ours = run(cache, tmp_path / "run", precision="bfloat16", method="plain")
    theirs = json.loads((whole("vib") / "report.json").read_text())
    losses = [report["plain"]["loss"]["validation"] for report in (ours, theirs)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_auto_precision_is_float32_on_a_cpu() -> None:
    assert dtype_of("auto", CPU) == torch.float32


def scaled_steps(count: int, burst: int) -> Iterator[tuple[bool | None, torch.Tensor, Arithmetic]]:
    """Steps of float16 arithmetic on a tiny model, the gradient infinite at step `burst`; weights after each."""
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    arithmetic = Arithmetic(torch.float16, CPU)
    for step in range(count):
        optimizer.zero_grad()
        x = torch.tensor([[math.inf if step == burst else 1.0, 0.0]])
        arithmetic.backward((model.weight * x).sum())
        yield arithmetic.step(model, optimizer, 10.0), model.weight.detach().clone(), arithmetic


def test_float16_leaves_out_a_step_that_overflows_and_halves_its_scale() -> None:
    moves, weights, scales = [], [], []
    for moved, weight, arithmetic in scaled_steps(3, burst=1):
        moves.append(moved)
        weights.append(weight.tolist()[0])
        scales.append(float(arithmetic.state()["scaler"][0]))
    assert moves == [True, False, True]
    assert weights == [[0.5, 1.0], [0.5, 1.0], [0.0, 1.0]], "a gradient of one, whatever the scale"
    assert scales == [65536.0, 32768.0, 32768.0]


def test_float16_gives_up_where_every_scale_overflows() -> None:
    model = nn.Linear(1, 1)
    optimizer, arithmetic = torch.optim.SGD(model.parameters(), lr=1.0), Arithmetic(torch.float16, CPU)
    moves: list[bool | None] = []
    while len(moves) < 40 and None not in moves:
        optimizer.zero_grad()
        arithmetic.backward(model.weight.sum() * math.nan)
        moves.append(arithmetic.step(model, optimizer, 1.0))
    assert moves[-1] is None
    assert set(moves[:-1]) == {False}


def test_a_checkpoint_keeps_the_scale_of_float16() -> None:
    *_, (_, _, arithmetic) = scaled_steps(4, burst=1)
    other = Arithmetic(torch.float16, CPU)
    other.load(arithmetic.state())
    assert other.state()["scaler"].tolist() == [32768.0, 2.0], "two steps since the burst"


def scalars(run_dir: Path) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """(step, value) by stage and figure, as TensorBoard reads them."""
    found = {}
    for folder in sorted((run_dir / "tensorboard").iterdir()):
        reader = EventAccumulator(str(folder))
        reader.Reload()
        for name in reader.Tags()["scalars"]:
            found[folder.name, name] = [(event.step, event.value) for event in reader.Scalars(name)]
    return found


def rows_as_scalars(run_dir: Path) -> dict[tuple[str, str], list[tuple[int, Any]]]:
    found: dict[tuple[str, str], list[tuple[int, Any]]] = {}
    for row in RunFolder(run_dir).rows():
        for name, value in row.items():
            if name not in ("stage", "epoch") and value:
                entry = (int(row["epoch"]), pytest.approx(float(value), rel=1e-6))
                found.setdefault((row["stage"], name), []).append(entry)
    return found


@pytest.mark.parametrize("way", ["vib", "drop"])
def test_tensorboard_reads_the_figures_of_metrics_csv_each_once(cache: Path, tmp_path: Path, way: str) -> None:
    folder = tmp_path / "run"
    stopped(cache, folder, "vib", 5, tensorboard=True, **WAYS[way])
    assert scalars(folder) == rows_as_scalars(folder)
    run(cache, folder, tensorboard=True, **WAYS[way])
    assert scalars(folder) == rows_as_scalars(folder)
    assert len(scalars(folder)["vib", "loss"]) == 10
    assert {stage for stage, _ in scalars(folder)} == {"plain", "vib", "finetune"}


def test_tensorboard_can_be_asked_for_when_a_run_is_finished(
    cache: Path, tmp_path: Path, whole: Callable[[str], Path]
) -> None:
    shutil.copytree(whole("vib"), tmp_path / "run")
    assert not (tmp_path / "run" / "tensorboard").exists()
    run(cache, tmp_path / "run", tensorboard=True)
    assert scalars(tmp_path / "run") == rows_as_scalars(tmp_path / "run")


def test_tensorboard_that_is_not_installed_is_one_line(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if "tensorboard" in name:
            raise ImportError(name)
        return genuine(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    result = CliRunner().invoke(main, [*arguments(cache, tmp_path / "run"), "--tensorboard"])
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "harvib: --tensorboard: needs TensorBoard: pip install 'harfeat[tensorboard]'"
    ]
