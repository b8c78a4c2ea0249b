"""Clips with several labels in harvib: losses and figures against plain loops, every command on such a cache."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caches import TEST_SPLIT, made_up_cache, second_labels
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_selection import f_classif
from small_runs import QUICK, assert_refused, assert_same_run, interrupted_and_resumed, report_of, train_command

from harfeat.cache import ClipRow, open_cache
from harvib import fusion, methods
from harvib.cli import main
from harvib.compare import Contest, run_compare
from harvib.data import load_parts
from harvib.division import hold_out_groups
from harvib.errors import InputError
from harvib.gap import measures
from harvib.labels import LabelSets
from harvib.matching import matched
from harvib.objectives import label_loss, right, soft_target_loss
from harvib.onnxfile import load_onnx
from harvib.points import points_of
from harvib.quantize.run import quantize_run, quantize_table
from harvib.report.compare_page import compare_page, compare_table
from harvib.report.page import page
from harvib.report.sweep_page import sweep_page, sweep_table
from harvib.report.table import report_table
from harvib.selection import select_inputs
from harvib.settings import TrainSettings
from harvib.sweep import Sweep, run_sweep
from harvib.weights import load_model

CPU = torch.device("cpu")
CLASSES = ("hop", "run", "sit")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("several") / "c.h5"
    return made_up_cache(path, clips_a_group=4, dim=8, change=second_labels)


@pytest.fixture(scope="module")
def run(cache: Path) -> Path:
    return trained(cache, cache.parent / "run")


def trained(cache: Path, run_dir: Path, **fields: Any) -> Path:
    methods.train(cache, TEST_SPLIT, TrainSettings(**{**QUICK, "distill": 0.5, **fields}), run_dir, device=CPU)
    return run_dir


SETS = st.lists(st.sets(st.integers(0, 6), max_size=7), min_size=1, max_size=12)


def sets_of(labels: list[set[int]]) -> LabelSets:
    offsets = np.cumsum([0, *map(len, labels)])
    return LabelSets(offsets, np.array([one for clip in labels for one in sorted(clip)], np.int32), 7)


@given(SETS, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_ragged_labels_are_the_dense_ones(labels: list[set[int]], random: Any) -> None:
    chosen = np.array([random.randrange(len(labels)) for _ in range(random.randrange(5))], np.int64)
    expected = [[float(one in labels[clip]) for one in range(7)] for clip in chosen]
    for found in (sets_of(labels).dense(chosen), sets_of(labels).of(chosen).dense(np.arange(len(chosen)))):
        assert found.tolist() == expected
    pieces = [dense for _, dense in sets_of(labels).pieces()]
    assert torch.cat(pieces).tolist() == [[float(one in clip) for one in range(7)] for clip in labels]


@given(SETS, st.integers(0, 999), st.floats(0.5, 4))
@settings(max_examples=40, deadline=None)
def test_losses_are_those_of_plain_loops(labels: list[set[int]], seed: int, temperature: float) -> None:
    rng = np.random.default_rng(seed)
    logits, teacher = (rng.normal(0, 2, (len(labels), 7)) for _ in range(2))
    targets = sets_of(labels).dense(np.arange(len(labels))).double()

    def share(value: float) -> float:
        return 1 / (1 + math.exp(-value))

    crossed, divergence = [], []
    for clip in range(len(labels)):
        crossed.append(
            sum(
                -math.log(share(logits[clip, one]) if one in labels[clip] else 1 - share(logits[clip, one]))
                for one in range(7)
            )
        )
        p = [share(value / temperature) for value in teacher[clip]]
        q = [share(value / temperature) for value in logits[clip]]
        divergence.append(
            sum(a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b)) for a, b in zip(p, q, strict=True))
        )
    ours, theirs = torch.from_numpy(logits), torch.from_numpy(teacher)
    assert float(label_loss(ours, targets)) == pytest.approx(np.mean(crossed))
    found = float(soft_target_loss(ours, theirs, temperature, several=True))
    assert found == pytest.approx(temperature**2 * np.mean(divergence), abs=1e-9)
    hits = [int(logits[clip].argmax()) in labels[clip] for clip in range(len(labels))]
    assert right(ours, targets).tolist() == hits


def test_an_lstm_learns_and_its_figures_are_those_of_its_logits(cache: Path, run: Path) -> None:
    report = report_of(run)
    assert report["measure"] == "GAP@20"
    assert "confusion" not in report
    assert report["compact"]["gap"]["test"] > 0.8
    with open_cache(cache) as opened:
        parts = load_parts(opened, TEST_SPLIT, 0.2, 0)
        labels = [set(opened.clips[clip].all_labels) for clip in parts.test.clips]
    assert isinstance(parts.test.labels, LabelSets)
    model, card = load_model(run / "model.safetensors")
    assert card.several
    logits = []
    for clip in parts.test.clips:
        rows = parts.test.rows[parts.test.offsets[clip] : parts.test.offsets[clip + 1]]
        with torch.no_grad():
            logits.append(model(rows[None], torch.tensor([len(rows)]))[0])
    scores = torch.stack(logits)
    targets = torch.tensor([[float(one in clip) for one in range(3)] for clip in labels])
    expected = measures(scores, targets)
    found = report["compact"]
    for name, key in {"gap": "gap", "hit": "accuracy", "perr": "perr", "map": "map"}.items():
        assert found[key]["test"] == pytest.approx(expected[name], abs=1e-6), name
    loss = torch.nn.functional.binary_cross_entropy_with_logits(scores, targets) * 3
    assert found["loss"]["test"] == pytest.approx(float(loss), rel=1e-5)


def test_epochs_are_selected_by_gap(run: Path) -> None:
    with (run / "metrics.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["stage"] == "plain"]
    last = rows[len(rows) * 3 // 4 :]
    best = max(last, key=lambda row: (float(row["val_gap"]), -float(row["val_loss"])))
    assert report_of(run)["epochs"]["plain"]["kept"] == int(best["epoch"])
    assert report_of(run)["plain"]["gap"]["validation"] == pytest.approx(float(best["val_gap"]), abs=1e-5)


@pytest.mark.parametrize(("stage", "epoch"), [("plain", 5), ("vib", 8), ("finetune", 3)])
def test_a_resumed_run_is_the_uninterrupted_one(
    cache: Path, run: Path, tmp_path: Path, stage: str, epoch: int
) -> None:
    interrupted_and_resumed(lambda: trained(cache, tmp_path / "run"), stage, epoch)
    assert_same_run(tmp_path / "run", run)


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "mean", "target_ratio": 2.0},
        {"model": "linear", "hidden": 4},
        {"model": "mlp", "method": "magnitude", "target_ratio": 3.0, "hidden": 16},
        {"model": "conv", "method": "lasso", "lasso": 0.05, "standardize": False},
        {"model": "gru", "bidirectional": True, "max_drop": 10.0},
        {"model": "rnn", "layers": 2, "select_inputs": 4, "precision": "bfloat16"},
        {"factorize": "circulant", "standardize": False},
        {"method": "movement", "target_ratio": 2.0, "movement_epochs": 3, "temperature": 4.0},
    ],
)
def test_every_model_and_method_trains(cache: Path, tmp_path: Path, fields: dict[str, Any]) -> None:
    quick = {"plain_epochs": 15, "vib_epochs": 6, "finetune_epochs": 3, "lasso_epochs": 3}
    report = report_of(trained(cache, tmp_path / "run", **{**quick, **fields}))
    # What logits of zero give.
    assert report["plain"]["loss"]["validation"] < 3 * math.log(2)
    assert set(report["plain"]["perr"]) == {"validation", "test"}
    assert "parameters" in report["compact"]


def test_commands_tell_all_four_measures(cache: Path, run: Path) -> None:
    report = report_of(run)
    where = ["evaluate", "--model", str(run), "--features", str(cache), "--split", TEST_SPLIT]
    told = CliRunner().invoke(main, where)
    assert told.exit_code == 0, told.output
    found = report["compact"]
    for name, key in {"GAP@20": "gap", "Hit@1": "accuracy", "PERR": "perr", "mAP": "map"}.items():
        assert f"{name} {found[key]['test']:.2%}" in told.output
    result = json.loads(CliRunner().invoke(main, [*where, "--json"]).output)
    assert result["gap"] == pytest.approx(found["gap"]["test"])
    assert "confusion" not in result
    assert f"{found['gap']['test']:.1%}" in report_table(report)
    assert "test GAP@20" in report_table(report)
    text = page([run])
    for told_there in ("test GAP@20", "test PERR", "test mAP", "Hit@1 and GAP@20"):
        assert told_there in text
    assert "accuracy" not in text.split("<body>")[1].split("harvib train")[0].lower().split("settings")[0]


def test_sweeps_and_comparisons_go_by_gap(cache: Path, tmp_path: Path) -> None:
    base = {**QUICK, "plain_epochs": 3, "vib_epochs": 2, "finetune_epochs": 2}
    swept = run_sweep(
        Sweep(cache, TEST_SPLIT, tmp_path / "sweep", device="cpu", jobs=1),
        points_of(base, {"beta": (0.001, 0.05)}, {}, (0,)),
    )
    assert swept["failed"] == 0
    assert swept["measure"] == "GAP@20"
    row = next(row for row in swept["runs"] if row["kind"] == "run")
    assert row["test"] == report_of(tmp_path / "sweep" / "runs" / row["run"])["compact"]["gap"]["test"]
    assert "validation GAP@20" in sweep_page("sweep", swept)
    for name in ("validation GAP@20", "test GAP@20"):
        assert f"{name}</th>" in sweep_page("sweep", swept)
        assert name in sweep_table(swept)
    assert sweep_table(swept)
    changes = {"plain_epochs": 2, "vib_epochs": 2, "finetune_epochs": 2}
    compared = run_compare(
        Sweep(cache, TEST_SPLIT, tmp_path / "compare", device="cpu", jobs=1),
        Contest(("vib", "mean"), (100,), seeds=1, changes=changes),
    )
    assert compared["failed"] == 0
    assert "highest mean validation GAP@20" in compared["selection"]
    assert "Test GAP@20 against" in compare_page("compare", compared)
    for name in ("validation GAP@20", "test GAP@20"):
        assert name in compare_table(compared)


def test_streams_are_fused_by_their_log_odds(cache: Path, tmp_path: Path) -> None:
    second = made_up_cache(tmp_path / "d.h5", clips_a_group=4, dim=8, seed=1, change=second_labels)
    fields = TrainSettings(**{**QUICK, "method": "plain", "plain_epochs": 4})
    report = fusion.train([cache, second], TEST_SPLIT, fields, tmp_path / "run", device=CPU)
    assert report["measure"] == "GAP@20"
    fused, cards = fusion.load_fused(tmp_path / "run")
    clips = {name: (torch.randn(2, 3, 8), torch.tensor([3, 2])) for name in cards}
    with torch.no_grad():
        parts = [
            model(*clips[name]) * weight
            for (name, model), weight in zip(fused.models.items(), fused.weights, strict=True)
        ]
        assert torch.allclose(fused(clips), sum(parts, torch.zeros(2, 3)), atol=1e-6)
    single = [report["streams"][name]["plain"]["gap"]["validation"] for name in cards]
    assert report["plain"]["gap"]["validation"] >= max(single) - 1e-9


@pytest.mark.parametrize(
    ("label", "labels", "said"),
    [(0, (), "'a, b'"), (1, (), "'a'"), (-1, (), "none"), (-1, (0, 1), "'a, b' and 'a'")],
)
def test_streams_with_other_labels_of_a_clip_are_not_fused(
    label: int, labels: tuple[int, ...], said: str, tmp_path: Path
) -> None:
    def change(own: tuple[int, tuple[int, ...]]) -> Any:
        def changed(rows: list[ClipRow], features: list[np.ndarray]) -> tuple[list[ClipRow], list[np.ndarray]]:
            return [
                replace(row, label=own[0], labels=own[1]) if row.name == "v_1_4_0" else row for row in rows
            ], features

        return changed

    classes = ("a, b", "a", "b")
    one = made_up_cache(tmp_path / "c.h5", classes=classes, change=change((-1, (1, 2))))
    two = made_up_cache(tmp_path / "d.h5", classes=classes, change=change((label, labels)))
    with open_cache(one) as first, open_cache(two) as second, pytest.raises(InputError) as told:
        matched([first, second], TEST_SPLIT)
    assert f"clip v_1_4_0: its class is 'a' and 'b' in {one} and {said} in {two}" in str(told.value)


def test_a_run_is_quantised_and_exported(cache: Path, run: Path, tmp_path: Path) -> None:
    result = quantize_run(run, cache, ["int8-weights"], tmp_path)
    assert result["schemes"]["int8-weights"]["gap"]["test"] > 0.75
    assert "test GAP@20" in quantize_table(result)
    assert load_onnx(tmp_path / "int8-weights.onnx")[1].several
    where = ["evaluate", "--model", str(tmp_path / "int8-weights.onnx"), "--features", str(cache)]
    assert "GAP@20" in CliRunner().invoke(main, where).output


def test_clips_without_label_must_be_unused(tmp_path: Path) -> None:
    def unlabelled(which: str) -> Any:
        def change(rows: list[ClipRow], features: list[np.ndarray]) -> tuple[list[ClipRow], list[np.ndarray]]:
            rows, features = second_labels(rows, features)
            return [replace(row, label=-1, labels=()) if row.group == which else row for row in rows], features

        return change

    path = made_up_cache(tmp_path / "c.h5", change=unlabelled("c1/g4"))
    assert_refused(
        train_command(path, tmp_path / "run", "--method", "plain"), "2 clips have no label (first: v_1_4_0)"
    )


def test_what_does_not_go_together_is_one_line(cache: Path, run: Path, tmp_path: Path) -> None:
    assert_refused(
        train_command(cache, tmp_path / "a", "--label-smoothing", "0.1"),
        "clips with several labels have none",
    )
    single = made_up_cache(tmp_path / "single.h5", dim=8)
    plain = trained(single, tmp_path / "b", method="plain", plain_epochs=2)
    told = CliRunner().invoke(main, ["evaluate", "--model", str(plain), "--features", str(cache)])
    assert_refused(told, "clips with several labels; this model needs exactly one a clip")
    both = page([run, plain])
    assert both.count("% GAP@20</td>") == both.count("% accuracy</td>") == 2, "or one is taken for the other"
    assert "validation GAP@20</th>" in page([run])
    # The other way round one label is a set of one.
    assert (
        "GAP@20" in CliRunner().invoke(main, ["evaluate", "--model", str(run), "--features", str(single)]).output
    )


def test_inputs_are_selected_as_if_a_clip_stood_in_each_of_its_classes(cache: Path) -> None:
    with open_cache(cache) as opened:
        train = load_parts(opened, TEST_SPLIT, 0.2, 0).train
        means, labels = [], []
        for clip in train.clips:
            for label in opened.clips[clip].all_labels:
                means.append(opened.read(int(clip)).features.mean(0))
                labels.append(label)
    best = np.argsort(-f_classif(np.array(means), labels)[0])
    for count in (1, 3, 5):
        assert select_inputs(train, count).tolist() == sorted(best[:count].tolist())


@given(st.lists(st.integers(0, 9), min_size=2, max_size=60), st.floats(0.05, 0.5), st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_whole_groups_are_held_out(numbers: list[int], fraction: float, seed: int) -> None:
    groups = [f"g{number}" for number in numbers]
    if len(set(groups)) < 2:
        with pytest.raises(InputError, match="single group"):
            hold_out_groups(groups, fraction, seed)
        return
    held = hold_out_groups(groups, fraction, seed)
    assert 0 < held.sum() < len(groups)
    assert not {group for group, out in zip(groups, held, strict=True) if out} & {
        group for group, out in zip(groups, held, strict=True) if not out
    }
    largest = max(groups.count(group) for group in groups)
    assert abs(held.sum() - fraction * len(groups)) <= largest
    assert np.array_equal(held, hold_out_groups(groups, fraction, seed))
    alone = hold_out_groups([""] * len(groups), fraction, seed)
    assert abs(alone.sum() - fraction * len(groups)) <= 1


def test_a_model_from_elsewhere_is_pruned_on_several_labels(cache: Path, tmp_path: Path) -> None:
    plain = trained(cache, tmp_path / "plain", method="plain", plain_epochs=4)
    file = tmp_path / "m.safetensors"
    exported = CliRunner().invoke(main, ["export", "--model", str(plain), "--format", "torch", "--out", str(file)])
    assert exported.exit_code == 0, exported.output
    words = ["prune", "--model", str(file), "--features", str(cache), "--split", TEST_SPLIT]
    words += [
        "--run-dir",
        str(tmp_path / "pruned"),
        "--vib-epochs",
        "3",
        "--finetune-epochs",
        "2",
        "--device",
        "cpu",
    ]
    told = CliRunner().invoke(main, words)
    assert told.exit_code == 0, told.output
    before, after = report_of(plain)["plain"]["gap"]["test"], report_of(tmp_path / "pruned")
    assert after["plain"]["gap"]["test"] == pytest.approx(before, abs=0.02)
    assert after["measure"] == "GAP@20"
    assert "validation GAP@20 against" not in page([plain])
    assert "Validation GAP@20 against parameters" in page([plain, tmp_path / "pruned"])
