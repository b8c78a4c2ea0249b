"""Several labels a clip through everything that harfeat does with a cache: none is lost, moved or made up."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import mlcroissant
import numpy as np
import pytest
import webdataset
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from harfeat.cache import (
    Cache,
    CacheHead,
    ClipFeatures,
    ClipRow,
    StreamLayout,
    label_fields,
    open_cache,
    write_cache,
)
from harfeat.cache.folder import WorkFolder, write_shard
from harfeat.cache.manifest import Manifest
from harfeat.cache.merging import merge
from harfeat.cache.packing import pack
from harfeat.cli import main
from harfeat.preview.page import PreviewSettings, chosen_clips
from harfeat.share import pull, push
from harfeat.splits import TEST, TRAIN, UNUSED, fixed_split

CLASSES = ("cat", "dog", "fox", "owl", "yak")
SETS: dict[str, tuple[int, ...]] = {
    **{"a": (1,), "b": (0, 3), "c": (), "d": (0, 1, 2), "e": (0,), "f": (0, 2), "g": (1, 2), "h": ()}
}
SCALE, SHIFT = 4 / 255, 4 / 512 - 2
RECIPE: dict[str, Any] = {"kind": "import", "quantisation": {"scale": SCALE, "shift": SHIFT}}


def row(name: str, classes: tuple[int, ...]) -> ClipRow:
    label, labels = label_fields(classes)
    return ClipRow(name, label, f"g{ord(name[0]) % 4}", 9, 1.0, f"hash {name}", labels=labels)


def features(name: str) -> dict[str, ClipFeatures]:
    rng, length = np.random.default_rng(ord(name[0])), 1 + ord(name[0]) % 3
    return {
        stream: ClipFeatures(rng.integers(0, 256, (length, dim)).astype(np.uint8), np.arange(length))
        for stream, dim in (("rgb", 4), ("audio", 2))
    }


def head_of(sets: dict[str, tuple[int, ...]], classes: tuple[str, ...] = CLASSES) -> CacheHead:
    rows = [row(name, labels) for name, labels in sets.items()]
    split = fixed_split("1", [1 + ord(r.group[1]) % 2 for r in rows], [r.group for r in rows], "even groups train")
    return CacheHead(RECIPE, classes, rows, (split,))


def cache_of(path: Path, sets: dict[str, tuple[int, ...]] = SETS, classes: tuple[str, ...] = CLASSES) -> Path:
    clips = [features(name) for name in sets]
    layouts = {
        stream: StreamLayout([len(clip[stream].features) for clip in clips], dim, np.dtype(np.uint8))
        for stream, dim in (("rgb", 4), ("audio", 2))
    }
    write_cache(path, head_of(sets, classes), layouts, clips)
    return path


def folder_of(path: Path, sets: dict[str, tuple[int, ...]] = SETS) -> Path:
    """A folder of shards of three clips, some of which have no clip of several labels."""
    work = WorkFolder(path, Manifest(RECIPE, len(sets)))
    work.open()
    names = list(sets)
    for first in range(0, len(names), 3):
        few = names[first : first + 3]
        rows = [row(name, sets[name]) for name in few]
        work.add([write_shard(work.path, RECIPE, CLASSES, rows, [features(name) for name in few])])
    work.finish(head_of(sets))
    work.close()
    return path


def named(cache: Cache) -> dict[str, set[str]]:
    """The class names of every clip."""
    offsets, index = cache.label_sets
    return {
        clip.name: {cache.classes[label] for label in index[offsets[place] : offsets[place + 1]]}
        for place, clip in enumerate(cache.clips)
    }


WANTED = {name: {CLASSES[label] for label in labels} for name, labels in SETS.items()}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return cache_of(tmp_path / "cache.h5")


def run(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done.output


def test_shards_and_the_file_packed_from_them_are_one_cache(cache: Path, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "shards")
    content = pack(folder, tmp_path / "packed.h5")
    for path in (folder, tmp_path / "packed.h5", cache):
        with open_cache(path) as opened:
            assert named(opened) == WANTED
            assert opened.content == content
            assert opened.has_several
            assert opened.quantisation("audio") == (SCALE, SHIFT)
    # The head is written again with what it is told: labels, too.
    other = {**SETS, "a": (1, 4), "d": (2,)}
    work = WorkFolder(folder, Manifest(RECIPE, len(SETS)))
    work.open()
    work.finish(head_of(other))
    work.close()
    with open_cache(folder) as opened:
        assert named(opened) == {name: {CLASSES[label] for label in labels} for name, labels in other.items()}


@settings(deadline=None, max_examples=15)
@given(st.permutations(CLASSES), st.permutations(CLASSES), st.sets(st.sampled_from("abcdefgh")))
def test_merging_keeps_every_clips_classes_in_any_order_of_the_classes(
    tmp_path_factory: pytest.TempPathFactory, ours: list[str], theirs: list[str], here: set[str]
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    for number, classes in enumerate((ours, theirs)):
        sets = {
            name: tuple(sorted(classes.index(one) for one in WANTED[name]))
            for name in SETS
            if (name in here) == (number == 0)
        }
        cache_of(folder / f"{number}.h5", sets, tuple(classes))
    merge([folder / "0.h5", folder / "1.h5"], folder / "all.h5")
    with open_cache(folder / "all.h5") as merged:
        assert named(merged) == WANTED
        assert merged.classes == tuple(ours)
        for place, clip in enumerate(merged.clips):
            assert clip.all_labels == tuple(sorted(clip.all_labels))
            np.testing.assert_array_equal(
                merged.read(place, "audio").features, features(clip.name)["audio"].features
            )


def test_resplit_keeps_labels_and_never_divides_groups(cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.h5"
    run("split", cache, "--random", "--group", "--seed", 5, "--test-groups", "g2", "--out", out)
    with open_cache(out) as opened, open_cache(cache) as before:
        assert named(opened) == WANTED
        assert opened.fingerprint == before.fingerprint
        assert set(opened.splits) == {"1", "random", "group", "listed"}
        for name in ("random", "group", "listed"):
            split = opened.split(name)
            assert split.leaking_groups == 0
            assert {TRAIN, TEST} <= set(split.roles.tolist())
            unused = {clip.name for clip, role in zip(opened.clips, split.roles, strict=True) if role == UNUSED}
            assert unused == {"c", "h"}


def test_diff_names_the_clips_whose_labels_differ(cache: Path, tmp_path: Path) -> None:
    same = tuple(reversed(CLASSES))
    turned = {name: tuple(sorted(same.index(one) for one in WANTED[name])) for name in SETS}
    cache_of(tmp_path / "turned.h5", turned, same)
    told = run("diff", cache, tmp_path / "turned.h5", code=1)
    assert "class the same, in another order" in told
    assert "another label" not in told
    cache_of(tmp_path / "other.h5", {**SETS, "a": (), "b": (0, 4), "e": (0, 1)})
    assert "clips with another label: 3: a, b, e" in run("diff", cache, tmp_path / "other.h5", code=1)
    assert "equal content" in run("diff", cache, cache_of(tmp_path / "again.h5"))


def test_info_tells_how_many_labels_and_which(cache: Path) -> None:
    told = run("info", cache)
    assert "several labels a clip: 1.38 in the mean, 3 at most; 4 clips have several, 2 none" in told
    assert "most frequent: cat (4), dog (3), fox (3), owl (1)\n" in told
    assert "rows of 4 uint8, which stand for value * 0.0156863 + -1.99219" in told
    known = json.loads(run("info", cache, "--json"))
    assert known["clips_per_class"] == [4, 3, 3, 1, 0]
    assert known["labels_per_clip"] == {"mean": 11 / 8, "most": 3, "several": 4, "none": 2}
    assert known["streams"]["audio"]["quantisation"] == [SCALE, SHIFT]


def test_verify_counts_every_label(cache: Path) -> None:
    told = run("verify", cache)
    assert "8 clips in 4 of 5 classes, 1 to 4 a class" in told
    assert "1 classes have no clip: yak" in told
    assert "4 clips have several labels, 1.38 a clip in the mean of all" in told
    assert "2 clips have no label: c, h" in told


def test_verify_finds_a_class_that_only_the_test_clips_have(tmp_path: Path) -> None:
    sets: dict[str, tuple[int, ...]] = {"a": (1, 4), "b": (0, 3), "c": (), "d": (0, 3)}  # a, c test
    told = run("verify", cache_of(tmp_path / "x.h5", sets))
    assert "2 classes are tested but not trained: dog, yak" in told or "cat, owl" in told


def assert_exported(found: Any) -> None:
    """Labels as arrays."""
    assert found("labels").tolist() == [1, -1, -1, -1, 0, -1, -1, -1]
    offsets, index = found("label_offsets").tolist(), found("label_index").tolist()
    assert [tuple(index[a:b]) for a, b in pairwise(offsets)] == list(SETS.values())


def test_exports_hold_the_labels_and_come_back_by_import(cache: Path, tmp_path: Path) -> None:
    run("export", cache, "--to", "safetensors", "--out", tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", "np") as file:
        assert_exported(file.get_tensor)
        assert json.loads(file.metadata()["provenance"])["recipe"] == RECIPE
    run("export", cache, "--to", "npz", "--out", tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as archive:
        assert_exported(archive.__getitem__)
    keys = [f"--{key}={key}" for key in ("features", "offsets", "names", "groups", "classes")]
    command = ("import", tmp_path / "x.npz", "--from", "npz", *keys, "--out", tmp_path / "back.h5")
    told = run(*command, "--labels=labels", code=2)
    assert "labels run from -1 to 1 for 5 classes; of several labels a clip name --label-offsets" in told
    quantised = (f"--scale={SCALE!r}", f"--shift={SHIFT!r}")
    run(*command, "--labels=label_index", "--label-offsets=label_offsets", *quantised)
    with open_cache(tmp_path / "back.h5") as back:
        assert named(back) == WANTED
        assert back.quantisation() == (SCALE, SHIFT)
        assert set(back.splits) == {"random"}


def test_webdataset_holds_the_labels(cache: Path, tmp_path: Path) -> None:
    run("export", cache, "--to", "webdataset", "--out", tmp_path / "shards")
    samples = list(webdataset.WebDataset(str(tmp_path / "shards" / "clips-000000.tar"), shardshuffle=False))
    assert len(samples) == len(SETS)
    for sample in samples:
        told = json.loads(sample["json"])
        assert tuple(told["labels"]) == SETS[told["name"]]
        assert set(told["classes"]) == WANTED[told["name"]]
        assert ("cls" in sample) == (len(told["labels"]) == 1)


def test_an_export_of_one_label_a_clip_is_what_it_always_was(tmp_path: Path) -> None:
    cache_of(tmp_path / "x.h5", {"a": (1,), "b": (0,)})
    run("export", tmp_path / "x.h5", "--to", "npz", "--out", tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as archive:
        assert not [key for key in archive if key.startswith("label_")]


@pytest.mark.parametrize("kind", ["npz", "h5"])
@pytest.mark.parametrize("dtype", [bool, np.int64, np.uint8, np.float32])
@pytest.mark.parametrize("classes", [True, False])
def test_a_matrix_of_labels_is_imported(kind: str, dtype: Any, classes: bool, tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).random((9, 4)) < 0.4
    arrays: dict[str, Any] = {
        "f": np.ones((9, 2, 3), np.float32),
        "l": matrix.astype(dtype),
        "c": np.array([b"w", b"x", b"y", b"z"]),
    }
    source = tmp_path / f"x.{kind}"
    if kind == "npz":
        np.savez(source, **arrays)
    else:
        with h5py.File(source, "w") as file:
            file.update(arrays)
    keys = ("--features=f", "--labels=l", *(("--classes=c",) if classes else ()))
    run("import", source, "--from", kind, *keys, "--out", tmp_path / "out.h5")
    with open_cache(tmp_path / "out.h5") as opened:
        offsets, index = opened.label_sets
        found = np.zeros_like(matrix)
        found[np.repeat(np.arange(9), np.diff(offsets)), index] = True
        np.testing.assert_array_equal(found, matrix)
        assert opened.classes == (tuple("wxyz") if classes else ("class0", "class1", "class2", "class3"))
        roles = opened.split("random").roles
        np.testing.assert_array_equal(roles == UNUSED, matrix.sum(axis=1) == 0)


BAD: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
    "a column of indices": ({"l": np.array([[0], [1], [2]])}, (), "should be 0 and 1"),
    "a column of 0 and 1": ({"l": np.array([[0], [1], [1]])}, (), "should be 0 and 1"),
    "other numbers": ({"l": np.array([[0, 2], [1, 1], [0, 1]])}, (), "should be 0 and 1"),
    "NaN": ({"l": np.array([[0, np.nan], [1, 1], [0, 1]])}, (), "should be 0 and 1"),
    "text": ({"l": np.array([["0", "1"]] * 3)}, (), "should be 0 and 1"),
    "too few clips": ({"l": np.ones((2, 4), int)}, (), r"labels have shape \(2, 4\) for 3 clips"),
    "too many axes": ({"l": np.ones((3, 4, 1), int)}, (), "labels have shape"),
    "other classes": (
        {"l": np.ones((3, 4), int), "c": np.array(["x"])},
        ("--classes=c",),
        "for 3 clips of 1 classes",
    ),
    "offsets too short": ({"o": np.array([0, 3])}, ("--label-offsets=o",), "with --label-offsets"),
    "offsets of floats": ({"o": np.arange(4.0)}, ("--label-offsets=o",), "with --label-offsets"),
    "offsets beyond": ({"o": np.array([0, 1, 2, 9])}, ("--label-offsets=o",), "do not cover the 3 labels"),
    "offsets that fall": ({"o": np.array([0, 2, 1, 3])}, ("--label-offsets=o",), "do not cover the 3 labels"),
    "a scale of floats": ({}, ("--scale=2",), "for bytes, leave them out"),
    "a shift alone": ({}, ("--shift=2",), "name the --scale too"),
    "no scale": ({"f": np.ones((3, 2), np.uint8)}, ("--scale=0",), "a scale is above 0"),
    "a scale that is no number": ({"f": np.ones((3, 2), np.uint8)}, ("--scale=nan",), "a scale is above 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_labels_that_do_not_fit_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    arrays, options, match = BAD[name]
    np.savez(tmp_path / "x.npz", **{"f": np.ones((3, 2), np.float32), "l": np.array([0, 1, 1]), **arrays})
    command = ("import", tmp_path / "x.npz", "--from", "npz", "--features=f", "--labels=l", *options)
    told = run(*command, "--out", tmp_path / "out.h5", code=2)
    assert re.search(match, told), told
    assert len(told.strip().splitlines()) == 1
    assert not (tmp_path / "out.h5").exists()


def test_a_shared_cache_tells_of_its_labels_and_comes_back_whole(cache: Path, tmp_path: Path) -> None:
    push(cache, str(tmp_path / "shared"))
    text = (tmp_path / "shared" / "README.md").read_text()
    assert "A clip may have several labels: 1.38 in the mean, 3 at most; 2 clips have none" in text
    assert "| 0 | cat | 4 |" in text
    assert "Bytes stand for value * 0.0156862745 + -1.9921875" in text
    records = list(mlcroissant.Dataset(jsonld=tmp_path / "shared" / "croissant.json").records("classes"))
    assert [record["classes/clips"] for record in records] == [4, 3, 3, 1, 0]
    pull(str(tmp_path / "shared"), tmp_path / "back")
    with open_cache(tmp_path / "back") as back, open_cache(cache) as before:
        assert back.content == before.content
        assert named(back) == WANTED


def test_a_preview_shows_clips_of_each_of_their_classes(cache: Path) -> None:
    with open_cache(cache) as opened:
        chosen = chosen_clips(opened, PreviewSettings(0, 99, 1))
        assert {
            opened.classes[label]: {opened.clips[clip].name for clip in clips} for label, clips in chosen.items()
        } == {one: {name for name in WANTED if one in WANTED[name]} for one in CLASSES if one != "yak"}


def test_labels_alone_make_another_content(cache: Path, tmp_path: Path) -> None:
    cache_of(tmp_path / "other.h5", {**SETS, "d": (0, 1)})
    with open_cache(cache) as one, open_cache(tmp_path / "other.h5") as two:
        assert {key for key in one.digests if one.digests[key] != two.digests[key]} == {
            "labels/offsets",
            "labels/index",
        }
        assert replace(one.clips[3], labels=(0, 1)) == two.clips[3]
