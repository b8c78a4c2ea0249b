"""Runs on videos: the block is trained and shrinks with the model, the trunk stays, and the files tell it all."""

from __future__ import annotations

import copy
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caches import TEST_SPLIT, made_up_cache
from click.testing import CliRunner
from frames import HEIGHT, TINY, WIDTH, lively, made_up_frames, weights_file
from safetensors.torch import load_file
from small_runs import epochs_of, interrupt
from torch import Tensor

from harfeat.cache import open_cache
from harvib import videos
from harvib.backbones import FILE, build, load_backbone
from harvib.bench import BenchSettings, bench_run
from harvib.cli import main
from harvib.commands.train import train as train_command
from harvib.division import divide
from harvib.errors import InputError
from harvib.evaluate import evaluate_run
from harvib.interrupt import Stop
from harvib.manner import Manner
from harvib.report.page import page
from harvib.report.run import command as command_of
from harvib.rundir import RunFolder
from harvib.seen import SeenCache
from harvib.settings import BackboneSettings, TrainSettings
from harvib.weights import load_model

CPU = torch.device("cpu")
FIELDS: dict[str, Any] = {
    "hidden": 6, "plain_epochs": 8, "vib_epochs": 8, "finetune_epochs": 4, "batch": 4, "lr": 3e-2, "vib_lr": 2e-3,
    "mask_lr": 0.2, "beta": 0.01, "beta_input": 0.01, "distill": 0.3, "validation": 0.3, "standardize": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with frames.h5 and weights.safetensors."""
    folder = tmp_path_factory.mktemp("made")
    made_up_frames(folder / "frames.h5")
    weights_file(folder / "weights.safetensors")
    return folder


def train(
    made: Path,
    run_dir: Path,
    lr: float = 1e-4,
    cache: str = "frames.h5",
    manner: Manner | None = None,
    **fields: Any,
) -> dict[str, Any]:
    chosen = BackboneSettings(TINY, str(made / "weights.safetensors"), lr)
    return videos.train(
        made / cache, TEST_SPLIT, TrainSettings(**{**FIELDS, **fields}), chosen, run_dir, CPU, manner=manner
    )


@pytest.fixture(scope="module")
def finished(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests must not change it."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    train(made, run_dir)
    return run_dir


def contents(run_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(run_dir.glob("*.safetensors"))}


def clips_of(made: Path, part: str = "test") -> list[tuple[Tensor, int]]:
    """The frames (T, 3, H, W) and the label of each clip of a part, read without harvib."""
    with open_cache(made / "frames.h5") as cache:
        division = divide(cache, TEST_SPLIT, FIELDS["validation"], 0)
        chosen = division.test if part == "test" else division.train
        frames = [torch.from_numpy(cache.read(clip).features).view(-1, HEIGHT, WIDTH, 3) for clip in chosen]
        labels = [cache.clips[clip].label for clip in chosen]
    return [(found.permute(0, 3, 1, 2), label) for found, label in zip(frames, labels, strict=True)]


def test_the_folder_holds_the_small_backbone_and_no_leftovers(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    models = {"plain.safetensors", "masked.safetensors", "model.safetensors", FILE}
    blocks = {"plain-block.safetensors", "masked-block.safetensors"}
    assert names == models | blocks | {"config.json", "metrics.csv", "report.json"}


def test_the_backbone_shrinks_by_the_dropped_features(finished: Path) -> None:
    report = RunFolder(finished).report()
    figures, kept = report["backbone"], report["compact"]["inputs"]
    assert 0 < kept < 200, "little was pruned"
    assert (figures["before"]["features"], figures["after"]["features"]) == (256, kept)
    # A row of conv_head has 64 weights; its normalisation has scale and shift.
    gone = figures["before"]["parameters"] - figures["after"]["parameters"]
    assert gone == (256 - kept) * 66
    network = lively(TINY)
    assert figures["before"]["parameters"] == sum(weight.numel() for weight in network.parameters())
    loaded = load_backbone(finished)
    assert figures["after"]["parameters"] == sum(weight.numel() for weight in loaded.parameters())
    assert figures["after"]["bytes"] == (finished / FILE).stat().st_size
    assert figures["after"]["bytes"] < figures["before"]["bytes"] - (256 - kept) * 68 * 4 + 2000
    assert figures["after"]["multiply_adds"] < figures["before"]["multiply_adds"]
    # The parameters of the model do not hold those of the backbone.
    units = report["compact"]["units"]
    assert report["compact"]["parameters"]["recurrent"] == 4 * units * (kept + units) + 8 * units
    assert load_model(finished / "model.safetensors")[0].spec.features == kept


def test_training_changes_the_block_and_nothing_of_the_trunk(finished: Path, made: Path, tmp_path: Path) -> None:
    network = lively(TINY)
    before, loaded = build(TINY, network), load_backbone(finished)
    kept = loaded.block.kept
    for name, value in before.trunk.state_dict().items():
        assert torch.equal(loaded.trunk.state_dict()[name], value), name
    ours, theirs = loaded.block.state_dict(), before.block.state_dict()
    for name in ("conv.weight", "norm.weight", "norm.bias"):
        assert ((ours[name] - theirs[name][kept]).abs().amax(tuple(range(1, ours[name].ndim))) > 1e-5).all(), name
    for name in ("norm.running_mean", "norm.running_var"):
        assert torch.equal(ours[name], theirs[name][kept])
    # Each stage goes on from the block of the one before.
    blocks = [load_file(finished / f"{stage}-block.safetensors") for stage in ("plain", "masked")]
    assert not torch.equal(blocks[0]["block.conv.weight"], theirs["conv.weight"])
    assert not torch.equal(blocks[0]["block.conv.weight"], blocks[1]["block.conv.weight"])
    train(made, tmp_path / "frozen", lr=0.0, plain_epochs=1)
    frozen = load_backbone(tmp_path / "frozen").block
    for name, value in frozen.state_dict().items():
        assert name == "kept" or torch.equal(value, theirs[name][frozen.kept] if value.ndim else theirs[name])


@pytest.mark.parametrize("model", [TINY, "test_resnet"])
@torch.no_grad()
def test_the_small_pipeline_computes_what_the_masked_one_does(model: str, made: Path, tmp_path: Path) -> None:
    """Without fine-tuning the exported files hold the masked model compacted: compared from frames to logits."""
    weights = weights_file(tmp_path / "w.safetensors", model)
    chosen = BackboneSettings(model, str(weights), 1e-3)
    settings = TrainSettings(**{**FIELDS, "finetune_epochs": 0})
    with torch.enable_grad():
        report = videos.train(made / "frames.h5", TEST_SPLIT, settings, chosen, tmp_path / "run", CPU)
    assert report["compact"]["inputs"] < report["masked"]["inputs"] + 1 < report["plain"]["inputs"]
    assert report["compaction"]["max_abs_difference"] <= 1e-5
    assert report["backbone"]["max_abs_difference"] <= 1e-4
    full, masked = (
        build(model, lively(model)),
        load_model(RunFolder(tmp_path / "run").masked)[0],
    )
    trained = load_file(tmp_path / "run" / "masked-block.safetensors")
    full.block.load_state_dict({name.removeprefix("block."): value for name, value in trained.items()})
    small, compact = load_backbone(tmp_path / "run"), load_model(tmp_path / "run" / "model.safetensors")[0]
    for images, _ in clips_of(made):
        lengths = torch.tensor([len(images)])
        wanted, found = masked(full(images)[None], lengths), compact(small(images)[None], lengths)
        assert float((wanted - found).abs().max()) <= 1e-4 * max(1.0, float(wanted.abs().max()))


@torch.no_grad()
def test_reported_accuracy_is_that_of_the_exported_files(finished: Path, made: Path) -> None:
    report = RunFolder(finished).report()
    backbone, model = load_backbone(finished), load_model(finished / "model.safetensors")[0]
    right = [
        int(model(backbone(images)[None], torch.tensor([len(images)])).argmax()) == label
        for images, label in clips_of(made)
    ]
    assert report["compact"]["accuracy"]["test"] == pytest.approx(np.mean(right))
    assert report["plain"]["accuracy"]["test"] > 0.5, "nothing was learned"
    result = evaluate_run(finished, made / "frames.h5", TEST_SPLIT, "test", CPU, videos=True)
    assert result["accuracy"] == report["compact"]["accuracy"]["test"]
    assert result["loss"] == pytest.approx(report["compact"]["loss"]["test"], rel=1e-4)
    assert result["confusion"] == report["confusion"]


@pytest.mark.parametrize(("stage", "epoch"), [("plain", 3), ("vib", 1), ("vib", 4), ("finetune", 2)])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    finished: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, epoch: int
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, stage, epoch)
        with pytest.raises(KeyboardInterrupt):
            train(made, tmp_path / "run")
    # What the trunk made of the frames is still there.
    with monkeypatch.context() as patch:
        patch.setattr(SeenCache, "rows_of", _only_once(set()))
        report = train(made, tmp_path / "run")
    assert contents(tmp_path / "run") == contents(finished)
    assert epochs_of(tmp_path / "run") == epochs_of(finished)
    assert report | {"seconds": None} == RunFolder(finished).report() | {"seconds": None}


@pytest.mark.parametrize(("stage", "epoch"), [("plain", 2), ("vib", 7), ("finetune", 1)])
def test_a_run_that_is_asked_to_stop_leaves_a_backbone_and_goes_on_later(
    finished: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, epoch: int
) -> None:
    run, stop, genuine = tmp_path / "run", Stop(), RunFolder.record

    def record(self: RunFolder, row: dict[str, Any]) -> None:
        genuine(self, row)
        if (row["stage"], row["epoch"]) == (stage, epoch):
            stop.ask()

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "record", record)
        report = train(made, run, manner=Manner(stop))
    assert report["interrupted"]["stage"] == stage
    state = "plain" if stage == "plain" else "compact"
    assert report["backbone"]["after"]["features"] == report[state]["inputs"]
    found = evaluate_run(run, made / "frames.h5", TEST_SPLIT, "test", CPU, videos=True)
    assert found["accuracy"] == report[state]["accuracy"]["test"]
    train(made, run)
    assert contents(run) == contents(finished)
    assert sorted(path.name for path in run.iterdir()) == sorted(path.name for path in finished.iterdir())


def _only_once(seen: set[tuple[int, str]], stop_after: int = 10**9) -> Any:
    """A `rows_of` that notes the clips it has seen, and is interrupted; the export sees one clip again."""
    genuine = SeenCache.rows_of

    def rows_of(self: SeenCache, clip: int, stream: str) -> np.ndarray:
        if self.dtype() == np.float16:
            if len(seen) == stop_after:
                raise KeyboardInterrupt
            assert stop_after < 10**9, "the trunk is run again"
            assert (clip, stream) not in seen, "a clip is computed twice"
            seen.add((clip, stream))
        return genuine(self, clip, stream)

    return rows_of


def test_an_interrupted_trunk_goes_on_where_it_stopped(
    finished: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[int, str]] = set()
    for stop in (11, 20, 10**6):
        with monkeypatch.context() as patch:
            patch.setattr(SeenCache, "rows_of", _only_once(seen, stop))
            if stop == 10**6:
                train(made, tmp_path / "run")
                break
            with pytest.raises(KeyboardInterrupt):
                train(made, tmp_path / "run")
    assert len(seen) == 30
    assert contents(tmp_path / "run") == contents(finished)


@pytest.mark.parametrize("damage", ["done.json", "rgb.rows", "cut"])
def test_lost_maps_are_made_anew(damage: str, made: Path, tmp_path: Path) -> None:
    with open_cache(made / "frames.h5") as frames:

        def computed(offset: float) -> np.ndarray:
            seen = SeenCache(
                frames, "rgb", lambda x: x.flatten(1)[:, :2] + offset, 2, np.float32, CPU, tmp_path / "maps"
            )
            seen.compute({"rgb": np.arange(5)})
            return np.array(seen.read_all()[: frames.lengths()[:5].sum()])

        first = computed(0.0)
        assert np.array_equal(computed(1.0), first), "what is whole is kept"
        rows = tmp_path / "maps" / "rgb.rows"
        if damage == "cut":
            rows.write_bytes(rows.read_bytes()[:-1])
        else:
            (tmp_path / "maps" / damage).unlink()
        assert np.array_equal(computed(1.0), first + 1)


def test_a_finished_run_returns_at_once_and_leaves_no_maps(
    finished: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "maps").mkdir()  # killed after the report was written
    monkeypatch.setattr(videos, "SeenCache", None)
    assert train(made, tmp_path / "run") == RunFolder(finished).report()
    assert not (tmp_path / "run" / "maps").exists()
    with pytest.raises(InputError, match=r"holds a run with backbone = lr: 0.0001, not 0.1"):
        train(made, tmp_path / "run", lr=0.1)


def test_views_are_trained_on_and_main_frames_tested(made: Path, tmp_path: Path) -> None:
    made_up_frames(tmp_path / "f.h5", views=2)
    shutil.copy(made / "weights.safetensors", tmp_path)
    report = train(tmp_path, tmp_path / "run", cache="viewed-f.h5")
    assert report["views"] == 2
    again = evaluate_run(tmp_path / "run", tmp_path / "viewed-f.h5", TEST_SPLIT, "test", CPU, videos=True)
    assert again["accuracy"] == report["compact"]["accuracy"]["test"]
    without = train(tmp_path, tmp_path / "without", cache="viewed-f.h5", views=False)
    assert without["views"] == 0
    assert without["plain"]["loss"] != report["plain"]["loss"]


def test_a_budget_and_a_largest_drop_end_with_a_small_backbone(made: Path, tmp_path: Path) -> None:
    report = train(made, tmp_path / "budget", target_params=500)
    assert report["compact"]["parameters"]["total"] <= 500
    assert report["backbone"]["after"]["features"] == report["compact"]["inputs"]
    report = train(made, tmp_path / "drop", max_drop=60.0, plain_epochs=2, vib_epochs=3, finetune_epochs=1)
    assert len(load_backbone(tmp_path / "drop").block.kept) == report["compact"]["inputs"] < 256
    again = evaluate_run(tmp_path / "drop", made / "frames.h5", TEST_SPLIT, "test", CPU, videos=True)
    assert again["accuracy"] == report["compact"]["accuracy"]["test"]


@pytest.mark.parametrize("method", ["plain", "lasso"])
def test_other_methods_train_the_block_too(method: str, made: Path, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"method": "plain"}
    if method == "lasso":
        fields = {"method": "lasso", "lasso_input": 0.01, "lasso": 0.003, "lasso_epochs": 6, "lasso_lr": 1e-2}
    report = train(made, tmp_path / "run", **fields)
    state = "compact" if method == "lasso" else "plain"
    kept = report[state]["inputs"]
    assert report["backbone"]["after"]["features"] == kept
    assert (kept < 256) == (method == "lasso")
    again = evaluate_run(tmp_path / "run", made / "frames.h5", TEST_SPLIT, "test", CPU, videos=True)
    assert again["accuracy"] == report[state]["accuracy"]["test"]


def test_latency_and_page_are_those_of_any_run(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    result = bench_run(run, BenchSettings(steps=3, repeats=2), memory=False)
    assert result["compact"]["parameters"] < result["plain"]["parameters"]
    figures = RunFolder(run).report()["backbone"]
    text = page([run])
    for side in ("before", "after"):
        assert f"{figures[side]['parameters']:,}" in text


def test_the_command_on_the_page_repeats_the_run(finished: Path) -> None:
    config = RunFolder(finished).config()
    program, verb, *words = shlex.split(command_of(config, "again").replace("\\\n", ""))
    assert (program, verb) == ("harvib", "train")
    given = train_command.make_context("train", words).params
    assert (given["features"], given["videos"]) == ((), Path("frames.h5"))
    names = BackboneSettings.__dataclass_fields__
    assert BackboneSettings(**{name: given[name] for name in names}) == BackboneSettings(
        TINY, "weights.safetensors", 1e-4
    )
    settings = {name: given[name] for name in config["settings"]}
    assert TrainSettings(**settings) == TrainSettings(**FIELDS)


def command(*words: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, list(map(str, words)))
    return result.exit_code, result.stdout, result.stderr


def test_the_command_trains_and_evaluates(made: Path, tmp_path: Path) -> None:
    options = [f"--{name.replace('_', '-')}={value}" for name, value in FIELDS.items() if name != "standardize"]
    ours: list[str | Path] = [
        "--backbone",
        TINY,
        "--backbone-weights",
        made / "weights.safetensors",
        "--backbone-lr",
        "3e-3",
    ]
    run = tmp_path / "run"
    where: list[str | Path] = ["--videos", made / "frames.h5", "--split", TEST_SPLIT]
    code, text, _ = command("train", *where, "--run-dir", run, *ours, *options, "--standardize", "--device", "cpu")
    assert code == 0
    figures = json.loads((run / "report.json").read_text())["backbone"]
    for side in ("before", "after"):
        assert f"{figures[side]['parameters']:,}" in text
    assert f"backbone {TINY}, not counted above: features 256 -> {figures['after']['features']}" in text
    code, text, _ = command("evaluate", "--model", run, *where, "--json", "--device", "cpu")
    assert code == 0
    assert json.loads(text)["accuracy"] == RunFolder(run).report()["compact"]["accuracy"]["test"]


def test_wrong_use_is_told_in_one_line(finished: Path, made: Path, tmp_path: Path) -> None:
    features, frames = made_up_cache(tmp_path / "f.h5"), made / "frames.h5"
    split = ("--split", TEST_SPLIT)
    weights = ("--backbone", TINY, "--backbone-weights", made / "weights.safetensors")
    cases: list[tuple[tuple[str | Path, ...], str]] = [
        (("train", "--features", features, "--videos", frames, *split), "give one of --features"),
        (("train", *split), "give one of --features"),
        (("train", "--features", features, *split, "--backbone-lr", "0.1"), "--backbone-lr: goes with --videos"),
        (("train", "--videos", frames, *split, "--init", finished), "--init: a run on --videos"),
        (("train", "--videos", features, *split, *weights), "harfeat extract --model pixels"),
        (("train", "--videos", frames, *split, "--backbone-lr", "-1"), "--backbone-lr -1.0: must be at least 0"),
        (("train", "--videos", frames, *split, "--backbone", "test_vit"), "supported are"),
        (("train", "--videos", frames, "--split", "x", *weights), "no split 'x'"),
        (("train", "--videos", frames, *split, *weights, "--target-params", "3"), "--target-params 3"),
        (("evaluate", "--model", finished, *split), "give one of --features"),
        (("evaluate", "--model", finished, "--features", frames), "a run on videos; give --videos"),
        (
            ("evaluate", "--model", finished / "plain.safetensors", "--videos", frames),
            "the model was made for 256",
        ),
        (("evaluate", "--model", finished, "--videos", features), "fingerprint"),
    ]
    for words, told in cases:
        if words[0] == "train":
            words = (*words, "--run-dir", tmp_path / "run")  # noqa: PLW2901
        code, text, errors = command(*words)
        assert (code, text) == (2, ""), words
        assert told in errors, (words, errors)
        assert errors.count("\n") == 1, errors
        assert not (tmp_path / "run").exists()


def test_maps_beyond_half_precision_are_refused(made: Path, tmp_path: Path) -> None:
    backbone = build(TINY, lively(TINY))
    loud = copy.deepcopy(backbone)
    for value in loud.mean, loud.std:
        value.mul_(1e-9)
    with open_cache(made / "frames.h5") as frames:
        seen = SeenCache(
            frames, "rgb", lambda images: loud.maps(images).flatten(1), 64 * 4, np.float16, CPU, tmp_path
        )
        with pytest.raises(InputError, match=r"clip v_0_0_0: the backbone gives values beyond float16"):
            seen.compute({"rgb": np.arange(3)})
