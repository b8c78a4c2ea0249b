"""The made-up set in YouTube-8M's format: same seed same bytes, readable topics, a true ceiling."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from tfrecords import MESSAGES, records

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import synthetic_yt8m
from synthetic_yt8m import NOISE, WORD, SetSettings, dequantised, directions, draw_clip, draw_labels, write_set

from harvib.gap import measures

TINY = SetSettings(train=7, validate=3, classes=5, min_frames=3, max_frames=6, shards=2)
SMALL = SetSettings(train=500, validate=200, classes=25, min_frames=15, max_frames=30)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """ceiling.json of a small set."""
    folder = tmp_path_factory.mktemp("synthetic")
    told = write_set(SMALL, folder)
    assert json.loads((folder / "ceiling.json").read_text()) == told
    return told


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_same_seed_gives_the_same_bytes_however_many_work(tmp_path: Path) -> None:
    for name, settings, jobs in (("a", TINY, 1), ("b", TINY, 2), ("c", replace(TINY, seed=1), 1)):
        write_set(settings, tmp_path / name, jobs)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    files = {f"{part}000{number}.tfrecord" for part in ("train", "validate") for number in (0, 1)}
    assert set(contents(tmp_path / "a")) == {"ceiling.json", *files}
    assert contents(tmp_path / "a")["train0000.tfrecord"] != contents(tmp_path / "c")["train0000.tfrecord"]


def test_files_are_read_by_others(tmp_path: Path) -> None:
    write_set(TINY, tmp_path)
    paths = sorted(tmp_path.glob("*.tfrecord"))
    found = [MESSAGES["SequenceExample"].FromString(payload) for path in paths for payload in records(path)]
    assert len(found) == 10
    assert len({message.context.feature["id"].bytes_list.value[0] for message in found}) == 10
    for message in found:
        labels = list(message.context.feature["labels"].int64_list.value)
        assert labels == sorted(set(labels))
        assert set(labels) <= set(range(5))
        assert labels
        lists = message.feature_lists.feature_list
        lengths = {name: len(lists[name].feature) for name in ("rgb", "audio")}
        assert lengths["rgb"] == lengths["audio"]
        assert 3 <= lengths["rgb"] <= 6
        for name, size in (("rgb", 1024), ("audio", 128)):
            assert {len(frame.bytes_list.value[0]) for frame in lists[name].feature} == {size}


def test_frames_tell_the_topics_for_certain() -> None:
    """How much of each word a frame holds, by least squares, is either a topic's or at most a decoy's."""
    settings = SetSettings()
    words, scenes = directions(settings)
    inverse = np.linalg.pinv(np.concatenate([words.reshape(-1, words.shape[-1]), scenes]))
    for index in range(60):
        clip = draw_clip(settings, words, scenes, "validate", index)
        rows = dequantised(np.concatenate([clip.rgb, clip.audio], 1))
        held = (rows @ inverse)[:, : words[..., 0].size].reshape(len(rows), *words.shape[:2])
        np.testing.assert_array_equal(held.max((0, 2)) > 0.6 * NOISE * WORD, clip.topics)


def test_the_posterior_is_the_sum_over_all_label_sets() -> None:
    settings = SetSettings(classes=4, topics=1.5, missed=0.3, added=0.5)
    topics = np.array([[0, 1, 0, 0], [1, 1, 0, 1], [0, 0, 0, 0]], bool)
    for row, got in zip(topics, settings.posterior(topics), strict=True):
        chance = settings.label_chance(row)
        sets = np.array(list(itertools.product((0, 1), repeat=4)))[1:]
        weight = np.where(sets, chance, 1 - chance).prod(1)
        np.testing.assert_allclose(got, (weight[:, None] * sets).sum(0) / weight.sum())


def test_labels_are_drawn_with_these_probabilities() -> None:
    settings = SetSettings(classes=4, topics=1.5, missed=0.3, added=0.5)
    topics, rng = np.array([False, True, False, False]), np.random.default_rng(0)
    share = np.mean([draw_labels(settings, topics, rng) for _ in range(5000)], axis=0)
    chance = settings.posterior(topics)
    assert (np.abs(share - chance) < 5 * np.sqrt(chance * (1 - chance) / 5000)).all()


def test_the_stated_ceiling_holds_on_fresh_clips(told: dict[str, Any]) -> None:
    settings = replace(SMALL, seed=99, min_frames=2, max_frames=2)  # frames do not matter here
    words, scenes = directions(settings)
    clips = [draw_clip(settings, words, scenes, "validate", index) for index in range(800)]
    topics, labels = np.stack([clip.topics for clip in clips]), np.stack([clip.labels for clip in clips])
    fresh = measures(settings.posterior(topics), labels)
    for name in ("gap", "hit", "perr"):
        # The deviation is of 200 clips with topics as they are; other topics add to it, 800 clips take from it.
        stated = told["ceiling_over_draws"][name]
        assert abs(fresh[name] - stated["mean"]) < 5 * stated["deviation"], name
        assert abs(told["ceiling"][name] - stated["mean"]) < 4 * stated["deviation"], name


def test_no_guess_beats_the_posterior() -> None:
    """Labels of the same topics: shuffled, sharpened by class or cut to the topics, scores do no better."""
    rng = np.random.default_rng(0)
    topics = np.stack([rng.random(SMALL.classes) < SMALL.prior for _ in range(2000)])
    labels = np.stack([draw_labels(SMALL, row, rng) for row in topics])
    best = SMALL.posterior(topics)
    gap = measures(best, labels)["gap"]
    for other in (
        topics.astype(float),
        np.broadcast_to(SMALL.prior, topics.shape),
        best * rng.uniform(0.8, 1.2, best.shape),
        best * np.arange(1, SMALL.classes + 1),
    ):
        assert measures(other, labels)["gap"] < gap


def test_the_ceiling_is_below_one_and_far_above_the_mean_over_time(told: dict[str, Any]) -> None:
    gap = {name: told[name]["gap"] for name in ("ceiling", "class_frequencies", "mean_linear", "mean_known_words")}
    assert 0.8 < gap["ceiling"] < 0.95
    assert gap["ceiling"] > 0.2 + max(gap["mean_linear"], gap["mean_known_words"])
    assert gap["mean_known_words"] > gap["class_frequencies"]


def test_frequent_classes_are_frequent_as_zipf_says(told: dict[str, Any]) -> None:
    prior = SMALL.prior
    np.testing.assert_allclose(prior[0] / prior[[1, 4, 9]], [2, 5, 10])
    assert prior.sum() == pytest.approx(SMALL.topics)
    assert 1.5 < told["labels_a_clip"] < 3.5


def test_the_command_tells_the_ceiling_and_refuses_bad_sizes(tmp_path: Path) -> None:
    values = {"train": 7, "validate": 3, "classes": 5, "min-frames": 3, "max-frames": 6, "shards": 1, "jobs": 1}
    sizes = [f"--{name}={value}" for name, value in values.items()]
    result = CliRunner().invoke(synthetic_yt8m.main, [str(tmp_path / "set"), *sizes])
    assert result.exit_code == 0, result.output
    assert "ceiling" in result.output
    assert (tmp_path / "set" / "validate0000.tfrecord").is_file()
    result = CliRunner().invoke(synthetic_yt8m.main, [str(tmp_path / "set"), *sizes])
    assert result.exit_code == 2
    assert "already holds a set" in result.output
    result = CliRunner().invoke(synthetic_yt8m.main, [str(tmp_path / "other"), *sizes, "--max-frames=301"])
    assert result.exit_code == 2
    assert "between 1 and 300" in result.output
