"""Exports, read back by the tools they are made for: numpy alone, safetensors, webdataset, tarfile."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from harfeat.cache import (
    Cache,
    CacheError,
    CacheHead,
    ClipFeatures,
    ClipRow,
    Failure,
    StreamLayout,
    open_cache,
    write_cache,
)
from harfeat.cli import main
from harfeat.errors import InputError
from harfeat.exporters import EXPORTERS, ExportSettings
from harfeat.exporters.webdataset import key_of_clip
from harfeat.exporting import export
from harfeat.splits import fixed_split

NAMES = ("jump/a.b.avi", "jump/a_b.avi", "öl/../x.avi", "run/.hidden", "run/" + "long." * 60 + "avi")
LENGTHS = {"rgb": (3, 1, 4, 2, 3), "rgb-view-1": (2, 2, 1, 5, 3)}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("source") / "cache.h5")


def written(
    path: Path, dtype: str = "float16", streams: tuple[str, ...] = tuple(LENGTHS), split: str = "1"
) -> Path:
    rng = np.random.default_rng(0)
    rows = [
        ClipRow(name, index % 3, f"g {index // 2}", 30 + index, 25.0 if index else float("nan"), f"{index:064x}")
        for index, name in enumerate(NAMES)
    ]
    groups = [row.group for row in rows]
    clips = [
        {
            stream: ClipFeatures(
                (rng.normal(size=(LENGTHS.get(stream, LENGTHS["rgb"])[index], 6)) * 9).astype(dtype),
                rng.integers(0, 30, LENGTHS.get(stream, LENGTHS["rgb"])[index]),
            )
            for stream in streams
        }
        for index in range(len(NAMES))
    ]
    head = CacheHead(
        {"kind": "video", "frames": 3},
        ["jump", "öl", "run", "unseen"],
        rows,
        [fixed_split(split, [1, 2, 1, 0, 2], groups, "by hand"), fixed_split("2", [1] * 5, groups, "all train")],
        [Failure("gone/x.avi", "broken: é")],
        {"by": "test"},
    )
    layouts = {
        stream: StreamLayout([len(clip[stream].features) for clip in clips], 6, np.dtype(dtype))
        for stream in streams
    }
    write_cache(path, head, layouts, clips)
    return path


def expected_numbers(cache: Cache) -> dict[str, np.ndarray]:
    """By reading the cache clip by clip."""
    found: dict[str, Any] = {"labels": [], "fps": [], "source_frames": []}
    for row in cache.clips:
        for what, value in (("labels", row.label), ("fps", row.fps), ("source_frames", row.source_frames)):
            found[what].append(value)
    for name, split in cache.splits.items():
        found[f"splits/{name}"] = split.roles
    for stream in cache.streams:
        prefix = "" if stream == "rgb" else f"{stream}/"
        clips = [cache.read(index, stream) for index in range(len(cache.clips))]
        found[f"{prefix}features"] = np.concatenate([clip.features for clip in clips])
        found[f"{prefix}frame_index"] = np.concatenate([clip.frame_index for clip in clips])
        found[f"{prefix}offsets"] = np.cumsum([0] + [len(clip.features) for clip in clips])
    return {key: np.asarray(value) for key, value in found.items()}


def assert_numbers(found: dict[str, np.ndarray], cache: Cache) -> None:
    expected = expected_numbers(cache)
    assert expected.keys() <= found.keys()
    for key, values in expected.items():
        np.testing.assert_array_equal(found[key], values, err_msg=key)
        assert not key.endswith("features") or found[key].dtype == values.dtype


def expected_texts(cache: Cache) -> dict[str, list[str]]:
    return {
        "names": [row.name for row in cache.clips],
        "groups": [row.group for row in cache.clips],
        "sha256": [row.sha256 for row in cache.clips],
        "classes": list(cache.classes),
        "failures/name": ["gone/x.avi"],
        "failures/reason": ["broken: é"],
    }


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8"])
def test_npz_is_read_by_numpy_without_pickle(dtype: str, tmp_path: Path) -> None:
    path = written(tmp_path / "c.h5", dtype)
    assert export(path, "npz", tmp_path / "c.npz") == ("rgb", "rgb-view-1")
    with open_cache(path) as cache, np.load(tmp_path / "c.npz", allow_pickle=False) as archive:
        found = {key: archive[key] for key in archive.files}
        assert_numbers(found, cache)
        for key, texts in expected_texts(cache).items():
            assert found[key].tolist() == texts
        assert json.loads(str(found["provenance"])) == cache.provenance
        assert str(found["content"]) == cache.content
        assert str(found["fingerprint"]) == cache.fingerprint
        assert json.loads(str(found["split_rules"]))["1"]["rule"] == "by hand"


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8"])
def test_safetensors_is_read_by_its_library(dtype: str, tmp_path: Path) -> None:
    path = written(tmp_path / "c.h5", dtype)
    export(path, "safetensors", tmp_path / "c.safetensors")
    with open_cache(path) as cache, safe_open(tmp_path / "c.safetensors", "numpy") as file:
        assert_numbers({key: file.get_tensor(key) for key in file.keys()}, cache)  # noqa: SIM118
        told = file.metadata()
        for key, texts in expected_texts(cache).items():
            assert json.loads(told[key]) == texts
        assert json.loads(told["provenance"]) == cache.provenance
        assert (told["content"], told["fingerprint"]) == (cache.content, cache.fingerprint)


def test_tensors_begin_where_their_type_may(source: Path, tmp_path: Path) -> None:
    """At multiples of their values' size in the file, as memory maps of it need."""
    export(source, "safetensors", tmp_path / "c.safetensors")
    data = (tmp_path / "c.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    size = {"F16": 2, "I8": 1, "I32": 4, "I64": 8, "F64": 8}
    del header["__metadata__"]
    assert {entry["dtype"] for entry in header.values()} == set(size)
    for entry in header.values():
        assert (8 + length + entry["data_offsets"][0]) % size[entry["dtype"]] == 0


def samples(folder: Path, pattern: str = "*.tar") -> list[dict[str, Any]]:
    shards = [str(path) for path in sorted(folder.glob(pattern))]
    return list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).decode())


def test_webdataset_is_read_by_its_package(source: Path, tmp_path: Path) -> None:
    export(source, "webdataset", tmp_path / "out", ExportSettings(shard_clips=2))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "clips-000000.tar",
        "clips-000001.tar",
        "clips-000002.tar",
        "dataset.json",
    }
    found = samples(tmp_path / "out")
    with open_cache(source) as cache:
        assert [sample["json"]["name"] for sample in found] == list(NAMES)
        for index, sample in enumerate(found):
            row = cache.clips[index]
            for stream, key in (("rgb", "npy"), ("rgb-view-1", "rgb-view-1.npy")):
                values = cache.read(index, stream)
                np.testing.assert_array_equal(sample[key], values.features)
                assert sample[key].dtype == np.float16
                assert sample["json"]["frame_index"][stream] == values.frame_index.tolist()
            assert sample["cls"] == sample["json"]["label"] == row.label
            assert sample["json"]["class"] == cache.classes[row.label]
            assert sample["json"]["group"] == row.group
            assert sample["json"]["fps"] == (row.fps if index else None)
        assert [sample["json"]["splits"]["1"] for sample in found] == ["train", "test", "train", "unused", "test"]
        told = json.loads((tmp_path / "out" / "dataset.json").read_text())
        assert told["classes"] == list(cache.classes)
        assert told["failures"] == {"gone/x.avi": "broken: é"}
        assert told["provenance"] == cache.provenance


def test_webdataset_is_a_plain_tar(source: Path, tmp_path: Path) -> None:
    export(source, "webdataset", tmp_path / "out")
    with tarfile.open(tmp_path / "out" / "clips-000000.tar") as tar, open_cache(source) as cache:
        names = tar.getnames()
        assert len(names) == len(set(names)) == 4 * len(NAMES)
        for name in names:
            assert "/" not in name
            assert name.isascii()
        one = tar.extractfile(names[0])
        assert one is not None
        values = np.load(io.BytesIO(one.read()), allow_pickle=False)
        np.testing.assert_array_equal(values, cache.read(0).features)


def test_webdataset_by_split_and_in_a_drawn_order(source: Path, tmp_path: Path) -> None:
    export(source, "webdataset", tmp_path / "a", ExportSettings(split="1", shard_clips=1, shuffle=4))
    by_role = {
        role: {sample["json"]["name"] for sample in samples(tmp_path / "a", f"{role}-*.tar")}
        for role in ("train", "test", "unused")
    }
    assert by_role == {"train": {NAMES[0], NAMES[2]}, "test": {NAMES[1], NAMES[4]}, "unused": {NAMES[3]}}
    orders = []
    for number, seed in enumerate((4, 4, 5)):
        export(source, "webdataset", tmp_path / f"b{number}", ExportSettings(shuffle=seed))
        orders.append([sample["json"]["name"] for sample in samples(tmp_path / f"b{number}")])
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[2]) == sorted(NAMES)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=300), unique=True, max_size=6))
def test_keys_are_distinct_and_safe_whatever_the_names(names: list[str]) -> None:
    keys = [key_of_clip(index, name) for index, name in enumerate(names)]
    assert len(set(keys)) == len(keys)
    for key in keys:
        assert key.isascii()
        assert not set(key) & set("./\\ \n")
        assert len(key) <= 70


@pytest.mark.parametrize("kind", EXPORTERS)
def test_equal_caches_give_equal_bytes_and_nothing_is_overwritten(kind: str, source: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        export(source, kind, tmp_path / name)
    with pytest.raises(InputError, match=r"a exists: delete it"):
        export(source, kind, tmp_path / "a")
    files = [
        sorted(path for path in (tmp_path / name).rglob("*")) if kind == "webdataset" else [tmp_path / name]
        for name in ("a", "b")
    ]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    if kind == "npz":
        with zipfile.ZipFile(tmp_path / "a") as archive:
            assert {item.date_time[0] for item in archive.infolist()} == {1980}


@pytest.mark.parametrize("kind", EXPORTERS)
def test_some_streams(kind: str, source: Path, tmp_path: Path) -> None:
    assert export(source, kind, tmp_path / "x", ExportSettings(streams=("rgb-view-1",))) == ("rgb-view-1",)
    with pytest.raises(InputError, match="no stream 'flow'; this cache has: rgb, rgb-view-1"):
        export(source, kind, tmp_path / "y", ExportSettings(streams=("flow",)))
    if kind == "npz":
        with np.load(tmp_path / "x") as archive:
            assert {key for key in archive.files if key.endswith("features")} == {"rgb-view-1/features"}


@pytest.mark.parametrize("kind", EXPORTERS)
def test_damage_leaves_nothing_behind(kind: str, source: Path, tmp_path: Path) -> None:
    with open_cache(source) as cache:
        values = cache.read(2).features.tobytes()
    (tmp_path / "c.h5").write_bytes(source.read_bytes().replace(values, bytes(len(values))))
    with pytest.raises(CacheError, match="do not match their hash"):
        export(tmp_path / "c.h5", kind, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["c.h5"]
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written") as error:
        export(source, kind, tmp_path / "file" / "out")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", EXPORTERS)
def test_names_that_would_leave_an_archive_are_refused(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path / "c.h5", split="..")
    with pytest.raises(InputError, match=r"'\.\.' cannot be a name in an archive"):
        export(path, kind, tmp_path / "out")


@pytest.mark.parametrize(
    ("kind", "options", "match"),
    [
        ("npz", {"shuffle": 1}, "--shuffle is for --to webdataset only"),
        ("safetensors", {"split": "1"}, "--split is for --to webdataset only"),
        ("webdataset", {"split": "9"}, "no split '9'"),
        ("webdataset", {"shard_clips": 0}, "--shard-clips 0"),
        ("webdataset", {"shuffle": -1}, "--shuffle -1"),
        ("csv", {}, "choose one of npz, safetensors, webdataset"),
    ],
)
def test_wrong_use(kind: str, options: dict[str, Any], match: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=match):
        export(source, kind, tmp_path / "out", ExportSettings(**options))
    assert list(tmp_path.iterdir()) == []


def test_an_exported_npz_comes_back_by_import(source: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    run = runner.invoke(main, ["export", str(source), "--to", "npz", "--out", str(tmp_path / "c.npz")])
    assert run.exit_code == 0, run.output
    keys = [f"--{key}={key}" for key in ("features", "offsets", "labels", "names", "groups", "classes")]
    command = ["import", str(tmp_path / "c.npz"), "--from", "npz", *keys, "--out", str(tmp_path / "back.h5")]
    back = runner.invoke(main, command)
    assert back.exit_code == 0, back.output
    with open_cache(source) as one, open_cache(tmp_path / "back.h5") as two:
        assert one.classes == two.classes
        for what in ("name", "label", "group"):
            assert [getattr(row, what) for row in one.clips] == [getattr(row, what) for row in two.clips]
        for index in range(len(NAMES)):
            np.testing.assert_array_equal(one.read(index).features, two.read(index).features)
        assert one.dtype() == two.dtype()
        # What a file says of itself is no proof: only the extraction makes the fingerprint.
        assert one.fingerprint != two.fingerprint


@pytest.mark.parametrize(
    ("features", "offsets"),
    [
        ((6, 2), [0, 3, 7]),
        ((6, 2), [1, 3, 6]),
        ((6, 2), [0, 7, 6]),
        ((6, 2), [0.0, 3.0, 6.0]),
        ((6, 2), [[0, 6]]),
        ((6, 2, 2), [0, 3, 6]),
        ((6, 2), [6]),
    ],
)
def test_offsets_that_do_not_fit_are_refused(
    features: tuple[int, ...], offsets: list[Any], tmp_path: Path
) -> None:
    np.savez(tmp_path / "c.npz", f=np.ones(features, np.float32), o=np.array(offsets), l=np.zeros(2, int))
    command = ["import", str(tmp_path / "c.npz"), "--from", "npz", "--features", "f", "--labels", "l"]
    run = CliRunner().invoke(main, [*command, "--offsets", "o", "--out", str(tmp_path / "x.h5")])
    assert run.exit_code == 2
    assert "offsets" in run.output
    assert run.output.count("\n") == 1
