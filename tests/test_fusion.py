"""Fused runs of several streams: clips matched by name, what fusion gains, budgets, resume, refusals."""

from __future__ import annotations

import itertools
import json
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caches import TEST_SPLIT, Change, made_up_cache
from click.testing import CliRunner

from harfeat.cache import (
    ROLES,
    CacheError,
    CacheHead,
    ClipFeatures,
    ClipRow,
    Failure,
    StreamLayout,
    open_cache,
    write_cache,
)
from harvib import fusion, methods
from harvib.cli import main
from harvib.data import load_parts
from harvib.errors import InputError
from harvib.evaluate import evaluate_run
from harvib.foreign import read_foreign
from harvib.metrics import Evaluation
from harvib.pruning import prune
from harvib.report.run import command as repeating
from harvib.rundir import RunFolder
from harvib.settings import TrainSettings
from harvib.source import Source, source_of
from harvib.weighting import best_weights, fuse
from harvib.weights import load_model

CPU = torch.device("cpu")
FOUR = ("hop fast", "hop slow", "run fast", "run slow")
"""Class 2 a + b: the stream rgb sees only a, flow only b."""

FIELDS: dict[str, Any] = {
    "hidden": 6, "plain_epochs": 15, "vib_epochs": 10, "finetune_epochs": 15, "batch": 8, "lr": 2e-2,
    "vib_lr": 2e-3, "mask_lr": 0.2, "beta": 0.02, "beta_input": 0.02, "distill": 0.0, "weight_decay": 0.0,
    "dropout": 0.0, "finetune_dropout": 0.0, "validation": 0.3,
}  # fmt: skip

Rows = tuple[list[ClipRow], list[np.ndarray]]


def seeing(which: str, order: int = 0, without: Sequence[str] = (), **differing: Any) -> Change:
    """Features that tell one half of the class; clips in an order of their own, and some of them absent.

    `differing` changes what is told about the clip v_1_0_1.
    """

    def change(rows: list[ClipRow], features: list[np.ndarray]) -> Rows:
        rng = np.random.default_rng((order, len(which)))
        made = []
        for row, old in zip(rows, features, strict=True):
            values = rng.normal(size=old.shape)
            values[:, row.label // 2 if which == "rgb" else row.label % 2] += 5.0
            made.append((replace(row, **differing) if row.name == "v_1_0_1" else row, values))
        places = rng.permutation(len(made)) if order else np.arange(len(made))
        kept = [made[place] for place in places if made[place][0].name not in without]
        return [row for row, _ in kept], [values for _, values in kept]

    return change


def cache_of(path: Path, stream: str, change: Change | None = None, **options: Any) -> Path:
    chosen: dict[str, Any] = {"classes": FOUR, "clips_a_group": 3, "recipe": stream, "stream": stream} | options
    return made_up_cache(path, change=change or seeing(stream), **chosen)


def train(features: Sequence[Path], run_dir: Path, **fields: Any) -> dict[str, Any]:
    return fusion.train(features, TEST_SPLIT, TrainSettings(**{**FIELDS, **fields}), run_dir, device=CPU)


def command(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """RGB, and flow of the same clips in another order, without one train and one test clip."""
    folder = tmp_path_factory.mktemp("caches")
    flow = seeing("flow", order=1, without=("v_0_1_1", "v_3_4_0"))
    return [cache_of(folder / "rgb.h5", "rgb"), cache_of(folder / "flow.h5", "flow", flow, dim=9)]


@pytest.fixture(scope="module")
def finished(caches: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished fused run; tests must not change it."""
    run = tmp_path_factory.mktemp("finished") / "run"
    train(caches, run)
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def test_fusion_tells_classes_that_no_stream_can(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    for state in ("plain", "compact"):
        for stream in ("rgb", "flow"):
            assert report["streams"][stream][state]["accuracy"]["test"] < 0.7, "it sees half of what makes a class"
        assert report[state]["accuracy"]["test"] > 0.9
        assert report[state]["accuracy"]["validation"] > 0.9
    assert report["ratio"] > 1.5, "something must have been pruned"


def test_reported_figures_are_sums_of_the_streams_and_the_scores_of_their_files(
    finished: Path, caches: list[Path]
) -> None:
    report = RunFolder(finished).report()
    folders = {name: finished / name for name in ("rgb", "flow")}
    for state, file in (("plain", "plain"), ("masked", "masked"), ("compact", "model")):
        theirs = [RunFolder(folder).report()[state] for folder in folders.values()]
        for key in ("inputs", "units"):
            assert report[state][key] == sum(figures[key] for figures in theirs)
        for key in ("recurrent", "head", "total"):
            assert report[state]["parameters"][key] == sum(figures["parameters"][key] for figures in theirs)
        weights = report[state]["weights"]
        assert sum(weights.values()) == pytest.approx(1)
        models = {name: load_model(folder / f"{file}.safetensors")[0] for name, folder in folders.items()}
        right = total = 0
        with open_cache(caches[0]) as rgb, open_cache(caches[1]) as flow:
            places = {row.name: place for place, row in enumerate(flow.clips)}
            for clip in np.flatnonzero(rgb.split(TEST_SPLIT).roles == ROLES["test"]):
                row = rgb.clips[clip]
                if row.name not in places:
                    continue
                score = np.zeros(4)
                for name, values in (
                    ("rgb", rgb.read(int(clip))),
                    ("flow", flow.read(places[row.name], "flow")),
                ):
                    x = torch.from_numpy(values.features)[None]
                    logits = models[name](x, torch.tensor([x.shape[1]]))[0].detach().double().numpy()
                    score += weights[name] * (logits - np.log(np.exp(logits).sum()))
                right += int(score.argmax()) == row.label
                total += 1
        assert total == 23, "24 test clips, of which one is in rgb alone"
        assert report[state]["accuracy"]["test"] == pytest.approx(right / total)
    assert report["ratio"] == report["plain"]["parameters"]["total"] / report["compact"]["parameters"]["total"]
    assert np.sum(report["confusion"]) == 23


def test_only_common_clips_are_used_and_what_is_left_out_is_told(
    finished: Path, caches: list[Path], tmp_path: Path
) -> None:
    assert RunFolder(finished).report()["left_out"] == {"rgb": [], "flow": ["v_0_1_1", "v_3_4_0"]}
    told: list[str] = []
    settings = TrainSettings(**{**FIELDS, "method": "plain", "plain_epochs": 1})
    fusion.train(caches, TEST_SPLIT, settings, tmp_path / "run", device=CPU, tell=told.append)
    (note,) = [note for note in told if "left out" in note]
    assert note == f"2 clips are left out, for they are not in {caches[1]} (first: v_0_1_1)"


def names_of_parts(path: Path, stream: str, names: Sequence[str] | None, seed: int) -> list[set[str]]:
    with open_cache(path) as cache:
        parts = load_parts(cache, TEST_SPLIT, 0.3, seed, stream=stream, names=names)
        sets = (parts.train, parts.validation, parts.test)
        return [{cache.clips[clip].name for clip in part.clips} for part in sets]


def test_the_same_clips_are_held_out_in_every_stream_whatever_the_order_in_its_cache(caches: list[Path]) -> None:
    with open_cache(caches[0]) as rgb, open_cache(caches[1]) as flow:
        ours, theirs = ([row.name for row in cache.clips] for cache in (rgb, flow))
    common = [name for name in ours if name in theirs]
    assert common != [name for name in theirs if name in ours], "the orders differ"
    without_matching = False
    for seed in range(5):
        parts = [names_of_parts(path, "", common, seed) for path in caches]
        assert parts[0] == parts[1]
        assert set.union(*parts[0]) == set(common)
        alone = [names_of_parts(path, "", None, seed)[1] for path in caches]
        without_matching |= alone[0] - {"v_0_1_1"} != alone[1]
    assert without_matching, "caches in other orders hold out other groups, or this test could not fail"


def test_features_lie_with_their_clip_in_every_order(caches: list[Path]) -> None:
    names = ["v_2_0_1", "v_0_0_0", "v_1_4_2", "v_3_3_1", "v_0_2_2", "v_2_1_0"]
    with open_cache(caches[1]) as cache:
        places = {row.name: place for place, row in enumerate(cache.clips)}
        parts = load_parts(cache, TEST_SPLIT, 0.5, 0, stream="flow", names=names)
        batch = next(parts.test.batches(9, CPU))
        for row, name in enumerate(["v_1_4_2", "v_3_3_1"]):
            values = cache.read(places[name], "flow").features
            assert np.array_equal(batch.features[row, : len(values)].numpy(), values)
            assert batch.labels[row] == int(name[2])


def test_a_stream_is_trained_exactly_as_by_itself(tmp_path: Path) -> None:
    paths = [cache_of(tmp_path / f"{stream}.h5", stream) for stream in ("rgb", "flow")]
    few = {"plain_epochs": 3, "finetune_epochs": 2}
    train(paths, tmp_path / "fused", **few)
    for path in paths:
        methods.train(path, TEST_SPLIT, TrainSettings(**{**FIELDS, **few}), tmp_path / path.stem, device=CPU)
        for file in ("plain.safetensors", "masked.safetensors", "model.safetensors"):
            ours, alone = (folder / path.stem / file for folder in (tmp_path / "fused", tmp_path))
            assert ours.read_bytes() == alone.read_bytes()


def evaluation(*right: bool, margin: float = 2.0) -> Evaluation:
    """Two classes, all clips of the second, so that a tie is wrong; right or wrong by this margin."""
    logits = np.array([[0.0, margin] if yes else [margin, 0.0] for yes in right], np.float32)
    return Evaluation(logits, np.ones(len(right), int))


def test_weights_are_the_best_on_validation_and_equal_where_that_does_not_matter() -> None:
    assert best_weights([evaluation(True, True), evaluation(True, True)]) == (0.5, 0.5)
    assert best_weights([evaluation(True, True)] * 3) == (1 / 3, 1 / 3, 1 / 3)
    assert best_weights([evaluation(False, False)] * 4) == (0.25,) * 4
    # Of the weights above a half that all are right, the one nearest to a half.
    assert best_weights([evaluation(True, True), evaluation(False, False)]) == (13 / 24, 11 / 24)
    # 2 w > 5 (1 - w): the first needs more than 5/7, which is 17.1 of 24.
    assert best_weights([evaluation(True, margin=2), evaluation(False, margin=5)]) == (18 / 24, 6 / 24)


def test_no_weights_on_the_grid_beat_the_chosen_ones() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 40)
    streams = [Evaluation(rng.normal(size=(40, 3)) + np.eye(3)[labels], labels) for _ in range(3)]
    chosen = best_weights(streams)
    assert sum(chosen) == pytest.approx(1)
    found = fuse(streams, chosen).accuracy
    logs = np.stack([s.logits - np.log(np.exp(s.logits).sum(1, keepdims=True)) for s in streams])
    accuracies = []
    for a, b in itertools.product(range(25), repeat=2):
        if a + b <= 24:
            scores = np.tensordot(np.array([a, b, 24 - a - b]) / 24, logs, 1)
            accuracies.append((scores.argmax(1) == labels).mean())
    assert found == pytest.approx(max(accuracies))
    assert found > max(stream.accuracy for stream in streams)


def test_the_fused_model_is_a_module_of_few_lines(finished: Path, caches: list[Path]) -> None:
    model, cards = fusion.load_fused(finished)
    assert {name: card.stream for name, card in cards.items()} == {"rgb": "rgb", "flow": "flow"}
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([3, 5])
    clips = {
        name: (torch.randn(2, 5, dim, generator=generator), lengths) for name, dim in (("rgb", 6), ("flow", 9))
    }
    weights = RunFolder(finished).report()["compact"]["weights"]
    expected = torch.zeros(2, 4)
    for name, (x, length) in clips.items():
        single = load_model(finished / name / "model.safetensors")[0]
        expected += weights[name] * torch.log_softmax(single(x, length), 1)
    torch.testing.assert_close(model(clips), expected)
    with pytest.raises(InputError, match="a run of a single stream"):
        fusion.load_fused(finished / "rgb")


@pytest.mark.parametrize("budget", [{"target_params": 400}, {"target_ratio": 2.0}])
def test_a_budget_is_that_of_all_streams_together(
    caches: list[Path], tmp_path: Path, budget: dict[str, Any]
) -> None:
    report = train(caches, tmp_path / "run", hidden=8, **budget)
    target = budget.get("target_params", report["plain"]["parameters"]["total"] // 2)
    reached = report["compact"]["parameters"]["total"]
    assert report["budget"]["reached"] == reached <= target
    assert reached >= 0.8 * target, "one unit more or less is a large step in models this small"
    shares = [RunFolder(tmp_path / "run" / name).report()["budget"]["target"] for name in ("rgb", "flow")]
    assert target - 1 <= sum(shares) <= target
    assert shares[0] < shares[1], "flow has more inputs, so its plain model is larger"


def test_budgets_that_cannot_be_are_refused(caches: list[Path], tmp_path: Path) -> None:
    for fields, words in (
        ({"max_drop": 1.0}, "--max-drop: what the fused model loses"),
        ({"target_params": 20}, "--target-params 20: 20 parameters; it must be from 48 to "),
        ({"target_params": 10_000}, "for these streams together"),
        ({"target_ratio": 1e5}, "--target-ratio 100000: 0 parameters"),
    ):
        with pytest.raises(InputError, match=words):
            train(caches, tmp_path / "run", **fields)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("stream", "stage"), [("rgb", "vib"), ("flow", "plain"), ("flow", "finetune")])
def test_an_interrupted_run_resumes_to_the_very_same_models(
    caches: list[Path], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: str, stage: str
) -> None:
    record = RunFolder.record

    def stop(self: RunFolder, row: dict[str, Any]) -> None:
        record(self, row)
        if self.path.name == stream and (row["stage"], row["epoch"]) == (stage, 2):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "record", stop)
        with pytest.raises(KeyboardInterrupt):
            train(caches, tmp_path / "run")
    assert not (tmp_path / "run" / "report.json").exists()
    report = train(caches, tmp_path / "run")
    for path in finished.rglob("*.safetensors"):
        assert (tmp_path / "run" / path.relative_to(finished)).read_bytes() == path.read_bytes()
    ours, theirs = (
        {key: value for key, value in figures.items() if key != "seconds"}
        for figures in (report, RunFolder(finished).report())
    )
    assert ours == theirs


def test_a_finished_run_is_taken_as_it_is_and_other_settings_need_another_folder(
    caches: list[Path], run: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert train(caches, run) == RunFolder(run).report()
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    with pytest.raises(InputError, match="holds a run with settings = hidden: 6, not 7"):
        train(caches, run, hidden=7)
    with pytest.raises(InputError, match="holds a run with clips"):
        train(caches[::-1], run)


def test_plain_models_are_taken_over_from_a_fused_run(caches: list[Path], finished: Path, tmp_path: Path) -> None:
    settings = TrainSettings(**{**FIELDS, "beta": 0.01})
    fusion.train(caches, TEST_SPLIT, settings, tmp_path / "run", init=finished, device=CPU)
    for name in ("rgb", "flow"):
        ours, theirs = (run / name / "plain.safetensors" for run in (tmp_path / "run", finished))
        assert ours.read_bytes() == theirs.read_bytes()
        ours, theirs = (run / name / "masked.safetensors" for run in (tmp_path / "run", finished))
        assert ours.read_bytes() != theirs.read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"change": seeing("flow", label=2)}, "clip v_1_0_1: its class is 'hop slow' in "),
        ({"change": seeing("flow", group="c9/g0")}, "clip v_1_0_1: its group is 'c1/g0' in "),
        ({"classes": (*FOUR[:3], "swim")}, "classes differ from those of "),
        ({"classes": FOUR[:3]}, "classes differ from those of "),
    ],
)
def test_caches_that_do_not_agree_are_refused_in_one_line(
    caches: list[Path], tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    other = cache_of(tmp_path / "other.h5", "flow", **options)
    given = ("--features", caches[0], "--features", other)
    code, text, errors = command("train", *given, "--split", TEST_SPLIT, "--run-dir", tmp_path / "run")
    assert (code, text) == (2, "")
    assert words in errors
    assert errors.startswith("harvib: ")
    assert errors.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_clip_on_both_sides_of_the_split_is_refused(caches: list[Path], tmp_path: Path) -> None:
    other = cache_of(tmp_path / "other.h5", "flow", groups=6)
    with pytest.raises(InputError, match=r"clip v_0_3_0: its part of split held is 'test' in .* and 'train' in"):
        train([caches[0], other], tmp_path / "run")


def test_caches_that_cannot_be_fused_are_refused(caches: list[Path], tmp_path: Path) -> None:
    def nothing(rows: list[ClipRow], features: list[np.ndarray]) -> Rows:
        return [], []

    empty = cache_of(tmp_path / "empty.h5", "flow", nothing)
    lacking = cache_of(tmp_path / "lacking.h5", "flow", failures=[Failure("v_9", "one frame, no flow")])
    for features, words in (
        ([caches[0], caches[0]], "the stream rgb of this cache is given twice"),
        ([caches[0], empty], "no clip of one name is in all caches"),
        ([caches[0], lacking], r"lacks 1 clips \(first: v_9: one frame, no flow\); .*--allow-missing"),
        (caches[:1], "1 streams: from 2 to 4"),
    ):
        with pytest.raises(InputError, match=words):
            train(features, tmp_path / "run")


def both_in_one(path: Path, caches: Sequence[Path]) -> Path:
    """One cache with the streams rgb and flow, and a view of flow, of the clips of the second, in its order."""
    with open_cache(caches[0]) as rgb, open_cache(caches[1]) as flow:
        places = {row.name: place for place, row in enumerate(rgb.clips)}
        clips = [
            {"rgb": rgb.read(places[row.name]), "flow": flow.read(place, "flow")}
            for place, row in enumerate(flow.clips)
        ]
        head = replace(flow.head, recipe={"kind": "both"})
    for clip in clips:
        values = clip["flow"].features
        clip["flow-view-1"] = ClipFeatures(values + 5, np.arange(len(values)))
    layouts = {
        stream: StreamLayout(
            [len(clip[stream].features) for clip in clips], clips[0][stream].features.shape[1], np.dtype("f4")
        )
        for stream in clips[0]
    }
    write_cache(path, CacheHead(**vars(head)), layouts, clips)
    return path


def test_streams_of_one_cache_are_chosen_by_name(caches: list[Path], tmp_path: Path) -> None:
    both = both_in_one(tmp_path / "both.h5", caches)
    fields = {"method": "plain", "plain_epochs": 2}
    with pytest.raises(InputError, match=r"holds the streams flow, rgb: say which one, as in .*both\.h5::rgb"):
        methods.train(both, TEST_SPLIT, TrainSettings(**FIELDS), tmp_path / "x", device=CPU)
    report = train([Path(f"{both}::rgb"), Path(f"{both}::flow")], tmp_path / "run", **fields)
    assert report["left_out"] == {"rgb": [], "flow": []}
    files = {name: tmp_path / "run" / name / "plain.safetensors" for name in report["streams"]}
    dims = {name: load_model(file)[0].spec.features for name, file in files.items()}
    assert dims == {"rgb": 6, "flow": 9}
    assert RunFolder(tmp_path / "run" / "flow").report()["views"] == 1
    assert RunFolder(tmp_path / "run" / "rgb").report()["views"] == 0
    # The model knows its stream, so the file alone is enough; another stream of the same width would be refused.
    result = evaluate_run(tmp_path / "run" / "flow", both, TEST_SPLIT, "test", CPU)
    assert result["accuracy"] == report["streams"]["flow"]["plain"]["accuracy"]["test"]
    with pytest.raises(InputError, match="its stream rgb is not the model's, flow"):
        evaluate_run(tmp_path / "run" / "flow", Source(both, "rgb"), TEST_SPLIT, "test", CPU)
    fused = evaluate_run(tmp_path / "run", [both], TEST_SPLIT, "test", CPU)
    assert fused["accuracy"] == report["plain"]["accuracy"]["test"]
    with pytest.raises(CacheError, match="no stream 'depth'; this cache has: flow, flow-view-1, rgb"):
        evaluate_run(tmp_path / "run" / "flow", Path(f"{both}::depth"), None, "test", CPU)


def test_streams_of_one_name_go_by_the_names_of_their_files(caches: list[Path], tmp_path: Path) -> None:
    other = cache_of(tmp_path / "flow v1.2.h5", "rgb", seeing("flow"))
    report = train([caches[0], other], tmp_path / "run", method="plain", plain_epochs=1)
    assert set(report["streams"]) == {"rgb", "flow-v1-2"}
    assert (tmp_path / "run" / "flow-v1-2" / "report.json").is_file()


def test_a_file_named_like_a_stream_of_another_is_still_that_file(tmp_path: Path) -> None:
    path = tmp_path / "a::b"
    assert source_of(path) == Source(tmp_path / "a", "b")
    path.touch()
    assert source_of(path) == Source(path)
    for wrong in ("::flow", "a.h5::"):
        with pytest.raises(InputError, match="FILE::STREAM"):
            source_of(Path(wrong))


def test_commands_of_a_fused_run(caches: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = [word for path in caches for word in ("--features", path)]
    epochs = ("--plain-epochs=2", "--vib-epochs=2", "--finetune-epochs=1")
    quick = ("--hidden=4", *epochs, "--validation=0.3", "--device=cpu")
    code, text, errors = command("train", *given, "--split", TEST_SPLIT, *quick)
    assert code == 0, errors
    run = Path("runs/rgb+flow-held-lstm-s0")
    assert text.rstrip().endswith(f"run folder: {run}")
    report = RunFolder(run).report()
    assert f"note: 2 clips are left out, for they are not in {caches[1]} (first: v_0_1_1)" in errors
    for stream, figures in (("rgb", report["streams"]["rgb"]), ("fused", report)):
        (line,) = [line for line in text.splitlines() if line.startswith(f"{stream} compact")]
        assert f"{figures['compact']['parameters']['total']:,}" in line
        assert f"{figures['compact']['accuracy']['test']:.1%}" in line

    # In any order, each stream finds its features.
    code, text, errors = command(
        "evaluate", "--model", run, "--features", caches[1], "--features", caches[0], "--split", TEST_SPLIT
    )
    assert code == 0, errors
    assert text.startswith(f"accuracy {report['compact']['accuracy']['test']:.2%} on 23 clips")
    assert "note: 1 clips without flow are left out (first: v_3_4_0)" in errors
    code, text, errors = command("evaluate", "--model", run, *given, "--json")
    assert json.loads(text)["clips"] == 58
    assert code == 0

    code, text, errors = command("bench", "--model", run, "--steps=3", "--repeats=2", "--no-memory", "--json")
    assert code == 0, errors
    measured = json.loads(text)
    assert measured["features"] == 15
    assert measured["compact"]["parameters"] == report["compact"]["parameters"]["total"]

    code, text, errors = command("report", run)
    assert code == 0, errors
    assert text.splitlines()[-1] == f"page: {run / 'report.html'}"
    page = (run / "report.html").read_text()
    for stream in ("rgb", "flow"):
        assert f"<summary><b>{stream}</b>" in page
    assert f"{measured['compact']['median_ms']:.3f}" in text
    again = shlex.split(repeating(RunFolder(run).config(), "again").replace("\\\n", ""))[1:]
    given = [str(caches[0].name), f"{caches[1].name}::flow"]
    assert [again[place + 1] for place, word in enumerate(again) if word == "--features"] == given
    monkeypatch.chdir(caches[0].parent)
    code, text, errors = command(*again, "--device=cpu", "--run-dir", tmp_path / "again")
    assert code == 0, errors
    for stream in ("rgb", "flow"):
        ours, theirs = (folder / stream / "model.safetensors" for folder in (tmp_path / "again", tmp_path / run))
        assert ours.read_bytes() == theirs.read_bytes()


def test_wrong_features_for_a_fused_run_are_refused(finished: Path, caches: list[Path], tmp_path: Path) -> None:
    other = cache_of(tmp_path / "other.h5", "flow", recipe="another flow")
    refusals: list[tuple[Path, list[Path], str]] = [
        (finished, caches[:1], "no --features for its stream flow"),
        (finished, [caches[0], other], "no --features for its stream flow"),
        (finished, [*caches, other], "other.h5: no stream of "),
        (finished / "rgb", caches, "a model of one stream; give --features once, not 2 times"),
    ]
    for run, features, words in refusals:
        given = [word for path in features for word in ("--features", path)]
        code, text, errors = command("evaluate", "--model", run, *given)
        assert (code, text) == (2, "")
        assert words in errors
        assert errors.count("\n") == 1


def test_commands_for_a_single_model_name_the_streams_of_a_fused_run(
    finished: Path, caches: list[Path], tmp_path: Path
) -> None:
    code, _, errors = command("export", "--model", finished, "--out", tmp_path / "x.safetensors")
    assert (code, errors.count("\n")) == (2, 1)
    assert f"name {finished / 'rgb'} or {finished / 'flow'}" in errors
    settings = TrainSettings(**FIELDS)
    with pytest.raises(InputError, match=f"a fused run; name one of its streams, such as {finished / 'rgb'}"):
        methods.train(caches[0], TEST_SPLIT, settings, tmp_path / "run", finished, CPU)
    with pytest.raises(InputError, match="none, it is a run of one stream"):
        fusion.train(caches, TEST_SPLIT, settings, tmp_path / "fused", finished / "rgb", CPU)


def test_an_exported_stream_is_pruned_again_on_its_own_stream_alone(caches: list[Path], tmp_path: Path) -> None:
    both = both_in_one(tmp_path / "both.h5", caches)
    plain = TrainSettings(**{**FIELDS, "method": "plain", "plain_epochs": 1})
    methods.train(Source(both, "flow"), TEST_SPLIT, plain, tmp_path / "run", device=CPU)
    file = tmp_path / "flow.safetensors"
    code, _, errors = command("export", "--model", tmp_path / "run", "--out", file)
    assert code == 0, errors
    found = read_foreign(file)
    settings = TrainSettings(**{**FIELDS, "vib_epochs": 2, "finetune_epochs": 1})
    prune(found, both, TEST_SPLIT, settings, tmp_path / "pruned", CPU)
    assert RunFolder(tmp_path / "pruned").config()["stream"] == "flow"
    view = Path(f"{both}::flow-view-1")
    with pytest.raises(InputError, match=r"was made for the stream flow, .* is flow-view-1"):
        prune(found, view, TEST_SPLIT, settings, tmp_path / "other", CPU)


Spoil = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("file", "spoil", "words"),
    [
        ("report.json", lambda value: value["compact"].pop("weights"), "no weight for each stream"),
        ("config.json", lambda value: value["streams"].append({"name": "../../x"}), "cannot be understood"),
    ],
)
def test_a_damaged_run_folder_is_told(run: Path, file: str, spoil: Spoil, words: str) -> None:
    value = json.loads((run / file).read_text())
    spoil(value)
    (run / file).write_text(json.dumps(value))
    with pytest.raises(InputError, match=words):
        fusion.load_fused(run)
