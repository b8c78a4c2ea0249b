"""Training on views: drawn evenly and repeatably, never tested on; and training on folders of shards."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caches import CLASSES, TEST_SPLIT
from click.testing import CliRunner
from torch import Tensor

from harfeat.cache import (
    CacheHead,
    ClipFeatures,
    ClipRow,
    Failure,
    StreamLayout,
    open_cache,
    write_cache,
)
from harfeat.cache.folder import WorkFolder, write_shard
from harfeat.cache.manifest import Manifest
from harfeat.splits import fixed_split
from harvib import methods
from harvib.checkpoint import Checkpoint
from harvib.cli import main
from harvib.data import ClipSet, load_parts
from harvib.errors import InputError
from harvib.models import SequenceClassifier
from harvib.rundir import RunFolder
from harvib.settings import TrainSettings

CPU = torch.device("cpu")
FIELDS: dict[str, Any] = {
    "hidden": 5, "plain_epochs": 3, "vib_epochs": 4, "finetune_epochs": 3, "batch": 4, "lr": 2e-2, "vib_lr": 2e-3,
    "mask_lr": 0.1, "beta": 0.01, "beta_input": 0.01, "distill": 0.3, "validation": 0.3, "dropout": 0.0,
    "finetune_dropout": 0.0,
}  # fmt: skip
WEIGHTS = ("plain.safetensors", "masked.safetensors", "model.safetensors")
RECIPE = {"kind": "made up"}
ROWS = [ClipRow(f"v{n}", n // 2 % 3, f"g{n // 2}", sha256=str(n)) for n in range(36)]


def features(clip: int, view: int) -> np.ndarray:
    """Rows whose first value tells the view (0: the main stream) and whose second the clip; lengths differ."""
    rng = np.random.default_rng((clip, view))
    values = rng.normal(size=(2 + (clip + 2 * view) % 5, 6))
    values[:, 0], values[:, 1] = view, clip
    values[:, 2 + ROWS[clip].label] += 2
    return values.astype(np.float32)


def streams_of(clip: int, views: Sequence[int]) -> dict[str, ClipFeatures]:
    found = {view: features(clip, view) for view in views}
    return {
        "rgb" if view == 0 else f"rgb-view-{view}": ClipFeatures(values, np.arange(len(values)))
        for view, values in found.items()
    }


def head(failures: Sequence[Failure] = ()) -> CacheHead:
    roles = [2 if int(row.group[1:]) >= 12 else 1 for row in ROWS]
    split = fixed_split(TEST_SPLIT, roles, [row.group for row in ROWS], "the last groups test")
    return CacheHead(RECIPE, CLASSES, ROWS, [split], failures)


def cache_with(path: Path, views: Sequence[int]) -> Path:
    clips = [streams_of(clip, views) for clip in range(len(ROWS))]
    layouts = {
        name: StreamLayout([len(clip[name].features) for clip in clips], 6, np.dtype(np.float32))
        for name in clips[0]
    }
    write_cache(path, head(), layouts, clips)
    return path


def folder_with(path: Path, views: Sequence[int], failures: Sequence[Failure] = ()) -> Path:
    work = WorkFolder(path, Manifest(RECIPE, len(ROWS) + len(failures)))
    work.open()
    for first in range(0, len(ROWS), 5):
        few = range(first, min(first + 5, len(ROWS)))
        clips = [streams_of(clip, views) for clip in few]
        work.add([write_shard(work.path, RECIPE, CLASSES, [ROWS[clip] for clip in few], clips)])
    work.finish(head(failures))
    work.close()
    return path


@pytest.fixture(scope="module")
def viewed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with three views beside the main stream."""
    return cache_with(tmp_path_factory.mktemp("viewed") / "c.h5", (0, 1, 2, 3))


@pytest.fixture(scope="module")
def finished(viewed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    train(viewed, run_dir)
    return run_dir


def train(cache: Path, run_dir: Path, allow_missing: bool = False, **fields: Any) -> dict[str, Any]:
    settings = TrainSettings(**{**FIELDS, **fields})
    return methods.train(cache, TEST_SPLIT, settings, run_dir, device=CPU, allow_missing=allow_missing)


def assert_same_run(one: Path, other: Path) -> None:
    for name in WEIGHTS:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    rows = []
    for folder in (one, other):
        with (folder / "metrics.csv").open(newline="") as stream:
            rows.append([{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(stream)])
    assert rows[0] == rows[1]


def train_set(path: Path, views: bool = True) -> ClipSet:
    with open_cache(path) as cache:
        return load_parts(cache, TEST_SPLIT, 0.3, 0, views).train


def test_training_sees_views_alone_and_everything_else_the_main_stream_alone(
    viewed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what enters the model, over all stages, soft targets, selection of epochs, figures and confusion."""
    seen: dict[bool, set[tuple[int, int]]] = {True: set(), False: set()}
    genuine = SequenceClassifier.forward

    def spy(self: SequenceClassifier, values: Tensor, lengths: Tensor) -> Tensor:
        seen[self.training] |= {(int(view), int(clip)) for view, clip in values[:, 0, :2].tolist()}
        return genuine(self, values, lengths)

    monkeypatch.setattr(SequenceClassifier, "forward", spy)
    report = train(viewed, tmp_path / "run")
    assert report["views"] == 3
    assert {view for view, _ in seen[True]} == {1, 2, 3}
    assert {view for view, _ in seen[False]} == {0}
    trained = {clip for _, clip in seen[True]}
    with open_cache(viewed) as cache:
        roles = cache.split(TEST_SPLIT).roles
        validation = load_parts(cache, TEST_SPLIT, 0.3, 0).validation.clips.tolist()
    assert trained == set(np.flatnonzero(roles == 1).tolist()) - set(validation)
    assert {clip for _, clip in seen[False]} == set(range(len(ROWS)))


def test_a_batch_holds_the_rows_of_the_views_that_were_drawn(viewed: Path) -> None:
    clips = train_set(viewed)
    for epoch in range(5):
        drawn = clips.drawn(3, epoch)
        assert drawn is not None
        for batch in clips.shuffled(4, CPU, 3, epoch):
            for row, position in enumerate(batch.positions.tolist()):
                expected = features(int(clips.clips[position]), int(drawn[position]) + 1)
                length = int(batch.lengths[row])
                np.testing.assert_array_equal(batch.features[row, :length].numpy(), expected)
                assert not batch.features[row, length:].any()
                assert int(batch.labels[row]) == ROWS[int(clips.clips[position])].label


def test_draws_are_even_and_independent_of_clip_and_epoch(viewed: Path) -> None:
    clips = train_set(viewed)
    draws = np.array([clips.drawn(0, epoch) for epoch in range(900)])  # (epochs, clips)
    expected = len(draws) / 3
    # 5.5 standard deviations of a count: one in 10^7 a count, were the draws even.
    spread = 5.5 * np.sqrt(len(draws) * 2 / 9)
    for clip in draws.T:
        np.testing.assert_allclose(np.bincount(clip, minlength=3), expected, atol=spread)
    for other in (np.roll(draws, 1, axis=0), np.roll(draws, 1, axis=1)):  # the epoch before, the clip beside
        pairs = np.bincount((3 * draws + other).ravel(), minlength=9)
        np.testing.assert_allclose(pairs, draws.size / 9, atol=5.5 * np.sqrt(draws.size * 8 / 81))


def test_a_draw_is_a_function_of_seed_epoch_and_clip(viewed: Path) -> None:
    clips = train_set(viewed)
    few = clips.subset(clips.clips[3:7])
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (2**32 - 1, 300_001)):
        once, again, part = clips.drawn(seed, epoch), clips.drawn(seed, epoch), few.drawn(seed, epoch)
        assert once is not None
        assert again is not None
        assert part is not None
        assert once.tolist() == again.tolist()
        assert once[3:7].tolist() == part.tolist()
    told = {tuple(np.asarray(clips.drawn(seed, epoch)).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(told) == 9


@pytest.mark.parametrize(("stage", "epoch"), [("plain", 2), ("vib", 3), ("finetune", 1)])
def test_an_interrupted_run_on_views_ends_as_an_uninterrupted_one(
    stage: str, epoch: int, finished: Path, viewed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = RunFolder.record

    def record(self: RunFolder, row: dict[str, Any]) -> None:
        genuine(self, row)
        if (row["stage"], row["epoch"]) == (stage, epoch):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "record", record)
        patch.setattr(RunFolder, "checkpoint", property(lambda self: Checkpoint(self.path / "last", 0.0)))
        with pytest.raises(KeyboardInterrupt):
            train(viewed, tmp_path / "run")
    train(viewed, tmp_path / "run")
    assert_same_run(finished, tmp_path / "run")


def test_without_views_all_is_as_on_a_cache_that_has_none(viewed: Path, finished: Path, tmp_path: Path) -> None:
    plain = cache_with(tmp_path / "plain.h5", (0,))
    assert train(viewed, tmp_path / "off", views=False)["views"] == 0
    assert train(plain, tmp_path / "on")["views"] == 0
    assert_same_run(tmp_path / "off", tmp_path / "on")
    assert (finished / "model.safetensors").read_bytes() != (tmp_path / "on" / "model.safetensors").read_bytes()


def test_statistics_and_selected_inputs_are_of_the_main_stream(viewed: Path) -> None:
    with_views, without = train_set(viewed), train_set(viewed, views=False)
    for one, other in zip(with_views.statistics(), without.statistics(), strict=True):
        assert torch.equal(one, other)
    assert float(with_views.statistics()[0][0]) == 0  # the value that tells the view
    for one_batch, other_batch in zip(with_views.batches(7, CPU), without.batches(7, CPU), strict=True):
        assert torch.equal(one_batch.features, other_batch.features)


def test_only_the_views_of_train_clips_are_read(viewed: Path) -> None:
    clips = train_set(viewed)
    main = sum(len(features(clip, 0)) for clip in range(len(ROWS)))
    views = sum(len(features(int(clip), view)) for clip in clips.clips for view in (1, 2, 3))
    assert len(clips.rows) == main + views


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (np.full((2, 6), np.nan, np.float32), "rgb-view-1 holds NaN or infinity"),
        (np.zeros((0, 6), np.float32), r"clip v\d+ has no row in rgb-view-1"),
        (np.zeros((2, 5), np.float32), "rgb-view-1 has other rows than rgb: train with --no-views"),
        (np.zeros((2, 6), np.float16), "rgb-view-1 has other rows than rgb: train with --no-views"),
    ],
)
def test_views_that_cannot_be_trained_on_are_refused(values: np.ndarray, match: str, tmp_path: Path) -> None:
    clips = [
        {**streams_of(clip, (0,)), "rgb-view-1": ClipFeatures(values, np.arange(len(values)))}
        for clip in range(len(ROWS))
    ]
    layouts = {
        name: StreamLayout([len(clip[name].features) for clip in clips], *shape)
        for name, *shape in (
            ("rgb", 6, np.dtype(np.float32)),
            ("rgb-view-1", values.shape[1], values.dtype),
        )
    }
    write_cache(tmp_path / "c.h5", head(), layouts, clips)
    with pytest.raises(InputError, match=match) as error:
        train(tmp_path / "c.h5", tmp_path / "run")
    assert "\n" not in str(error.value)
    assert train(tmp_path / "c.h5", tmp_path / "run", views=False, method="plain")["views"] == 0


def test_a_folder_of_shards_trains_as_the_packed_file(finished: Path, viewed: Path, tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "folder", (0, 1, 2, 3))
    report = train(folder, tmp_path / "run")
    assert_same_run(finished, tmp_path / "run")
    told = json.loads((finished / "report.json").read_text())
    different = {key for key in told if told[key] != report[key]}
    assert different <= {"seconds"}


def test_the_command_trains_on_a_folder_and_refuses_one_with_failures(tmp_path: Path) -> None:
    def run(cache: Path, *options: str) -> Any:
        command = ["train", "--features", str(cache), "--split", TEST_SPLIT, "--method=plain", "--plain-epochs=1"]
        return CliRunner().invoke(main, [*command, "--hidden=4", "--device=cpu", *options])

    whole = folder_with(tmp_path / "whole", (0, 1))
    done = run(whole, "--run-dir", str(tmp_path / "run"), "--no-views")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "run" / "model.safetensors").is_file()
    lacking = folder_with(tmp_path / "lacking", (0,), [Failure("gone.avi", "truncated")])
    refused = run(lacking, "--run-dir", str(tmp_path / "other"))
    assert refused.exit_code == 2
    assert "lacks 1 clips (first: gone.avi: truncated)" in refused.output
    assert not (tmp_path / "other").exists()
    assert run(lacking, "--run-dir", str(tmp_path / "other"), "--allow-missing").exit_code == 0
