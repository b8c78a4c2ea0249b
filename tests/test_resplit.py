"""New splits for a finished cache: the roles are right, and nothing else in it changes."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from caches import TEST_SPLIT, made_up_cache
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from harfeat.cache import CacheHead, ClipFeatures, ClipRow, Failure, StreamLayout, open_cache, write_cache
from harfeat.cache.folder import WorkFolder, write_shard
from harfeat.cache.manifest import Manifest
from harfeat.cli import main
from harfeat.datasets import REGISTRY, DatasetOptions, load_dataset
from harfeat.errors import InputError
from harfeat.resplit import SplitChanges, read_roles, resplit
from harfeat.splits import group_split, random_split


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up_cache(tmp_path_factory.mktemp("source") / "cache.h5", failures=[Failure("lost", "broken")])


def named(path: Path, names: Sequence[str], groups: Sequence[str] = ()) -> Path:
    """A cache of clips of these names, one row each."""
    rows = [ClipRow(name, 0, group) for name, group in zip(names, groups or [""] * len(names), strict=True)]
    values = {"rgb": ClipFeatures(np.ones((1, 2), np.float16), np.zeros(1, np.int32))}
    layout = {"rgb": StreamLayout([1] * len(rows), 2, np.dtype(np.float16))}
    write_cache(path, CacheHead({"kind": "x"}, ["a"], rows), layout, [values] * len(rows))
    return path


def roles_of(path: Path, split: str) -> dict[str, int]:
    with open_cache(path) as cache:
        return dict(zip((clip.name for clip in cache.clips), cache.split(split).roles.tolist(), strict=True))


def test_nothing_but_the_splits_changes(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.h5"
    result = resplit(source, out, SplitChanges(random=True, group=True, seed=3, drop=(TEST_SPLIT,)))
    assert {split.name for split in result.splits} == {"random", "group"}
    with h5py.File(source) as one, h5py.File(out) as two:
        keys: list[str] = []
        one.visititems(lambda key, item: keys.append(key) if isinstance(item, h5py.Dataset) else None)
        assert len([key for key in keys if not key.startswith("splits/")]) > 10
        for key in keys:
            if not key.startswith("splits/"):
                assert one[key][...].tobytes() == two[key][...].tobytes(), key
        assert one.attrs["fingerprint"] == two.attrs["fingerprint"]
    with open_cache(source) as before, open_cache(out) as after:
        assert {key for key in before.digests if before.digests[key] != after.digests.get(key)} == {
            "@provenance",
            f"splits/{TEST_SPLIT}",
        }
        assert after.provenance["resplit"] == [{"random": True, "group": True, "seed": 3, "drop": [TEST_SPLIT]}]
        assert after.content == result.content


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 99), share=st.floats(0.1, 0.9))
def test_draws_are_those_of_the_data_sets(
    source: Path, tmp_path_factory: pytest.TempPathFactory, seed: int, share: float
) -> None:
    out = tmp_path_factory.mktemp("draw") / "new.h5"
    resplit(source, out, SplitChanges(random=True, group=True, seed=seed, train_share=share))
    with open_cache(out) as cache:
        groups = [clip.group for clip in cache.clips]
        for draw in (random_split, group_split):
            expected = draw(cache.labels.tolist(), groups, seed, share)
            found = cache.split(expected.name)
            np.testing.assert_array_equal(found.roles, expected.roles)
            assert (found.rule, found.seed) == (expected.rule, seed)
        train = {group for group, role in zip(groups, cache.split("group").roles, strict=True) if role == 1}
        test = {group for group, role in zip(groups, cache.split("group").roles, strict=True) if role == 2}
        assert not train & test


def test_test_groups(source: Path, tmp_path: Path) -> None:
    resplit(source, tmp_path / "n.h5", SplitChanges(test_groups=("c0/g1", "c2/g4"), name="mine"))
    found = roles_of(tmp_path / "n.h5", "mine")
    assert {name for name, role in found.items() if role == 2} == {"v_0_1_0", "v_0_1_1", "v_2_4_0", "v_2_4_1"}
    assert set(found.values()) == {1, 2}
    with open_cache(tmp_path / "n.h5") as cache:
        assert set(cache.splits) == {TEST_SPLIT, "mine"}


@settings(max_examples=8, deadline=None)
@given(roles=st.dictionaries(st.integers(0, 29), st.sampled_from(["train", "test", "unused"]), min_size=1))
@pytest.mark.parametrize("form", ["csv", "heading.csv", "map.json", "lists.json"])
def test_roles_from_a_file(
    form: str, source: Path, tmp_path_factory: pytest.TempPathFactory, roles: dict[int, str]
) -> None:
    where = tmp_path_factory.mktemp("file")
    with open_cache(source) as cache:
        names = [clip.name for clip in cache.clips]
    listed = {names[index]: role for index, role in roles.items()}
    file = where / f"roles.{form}"
    if form.endswith("csv"):
        with file.open("w", newline="") as stream:
            csv.writer(stream).writerows([("clip", "role")] * form.startswith("heading") + list(listed.items()))
    elif form == "map.json":
        file.write_text(json.dumps(listed))
    else:
        kinds = sorted(set(listed.values()))
        file.write_text(json.dumps({kind: [name for name in listed if listed[name] == kind] for kind in kinds}))
    result = resplit(source, where / "new.h5", SplitChanges(file=file, name="given"))
    told = {"train": 1, "test": 2, "unused": 0}
    found = roles_of(where / "new.h5", "given")
    assert found == {name: told[listed.get(name, "unused")] for name in names}
    assert bool(result.notes) == (len(listed) < len(names))
    sides = {role: {name.rsplit("_", 1)[0] for name in names if found[name] == role} for role in (1, 2)}
    assert result.splits[-1].leaking_groups == len(sides[1] & sides[2])


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("a.csv", "v_0_0_0,train\nv_0_0_0,test", "names the clip 'v_0_0_0' twice"),
        ("a.json", '{"v_0_0_0": "train", "v_0_0_0": "test"}', "names the clip 'v_0_0_0' twice"),
        ("a.json", '{"train": ["v_0_0_0"], "test": ["v_0_0_0"]}', "names the clip 'v_0_0_0' twice"),
        ("a.csv", "v_0_0_0,validation", "'validation' is no role"),
        ("a.csv", "v_0_0_0", "expected lines clip,role"),
        ("a.csv", "", "names no clip"),
        ("a.json", "[1]", "expected"),
        ("a.json", '{"train": [1]}', "expected"),
        ("a.json", '{"train": [["v_0_0_0"]]}', "expected"),
        ("a.json", '{"v_0_0_0": 1.5}', "expected"),
        ("a.json", '{"\\ud800": 1}', r"first '.ud800'"),
        ("a.json", "[" * 100_000, "is no JSON"),
        ("a.csv", "else,train\nelsewhere,train", "names 2 clips that .* does not have, first 'else'"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(name: str, text: str, match: str, source: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=match) as error:
        resplit(source, tmp_path / "n.h5", SplitChanges(file=tmp_path / name, name="x"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "n.h5").exists()


def test_a_listed_clip_that_failed_is_told_and_not_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("lost,test\nv_0_0_0,1\n")
    result = resplit(source, tmp_path / "n.h5", SplitChanges(file=tmp_path / "r.csv", name="x"))
    assert "1 clips of" in result.notes[0]
    assert "failures" in result.notes[0]


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@settings(max_examples=100, deadline=None)
def test_no_file_of_roles_crashes_the_reader(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    where = tmp_path_factory.mktemp("junk")
    for name in ("r.csv", "r.json"):
        (where / name).write_bytes(data)
        told, roles = "", {}
        try:
            roles = read_roles(where / name)
        except InputError as error:
            told = str(error)
        assert told.startswith(str(where / name)) if told else roles
        assert "\n" not in told
        assert set(roles.values()) <= {0, 1, 2}


def test_official_splits_of_ucf101_are_those_of_the_data_set(shared_data: Path, tmp_path: Path) -> None:
    """By names alone, against what reading the videos' folder gives, with and without the lists."""
    names = [f"{c}/v_{c}_g{g:02d}_c01.avi" for c in ("Archery", "Biking") for g in range(1, 26)]
    for name in names:
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).touch()
    groups = [name.split("/")[1][:-8] for name in names]
    path = named(tmp_path / "c.h5", names, groups)
    lists = next(shared_data.rglob("testlist01.txt")).parent
    for folder in (None, lists):
        expected = load_dataset("ucf101", tmp_path / "videos", DatasetOptions(splits_dir=folder))
        out = tmp_path / f"out-{folder is None}.h5"
        result = resplit(path, out, SplitChanges(official="ucf101", lists=folder))
        assert [split.name for split in result.splits] == ["1", "2", "3"]
        for split, other in zip(result.splits, expected.splits, strict=True):
            assert split.roles.tolist() == other.roles.tolist()
            assert (split.rule, split.leaking_groups) == (other.rule, 0)


def test_official_splits_of_hmdb51_come_from_the_lists(shared_data: Path, tmp_path: Path) -> None:
    lists = next(shared_data.rglob("wave_test_split2.txt")).parent
    lines = (lists / "wave_test_split2.txt").read_text().split("\n")
    listed = {line.split()[0]: int(line.split()[1]) for line in lines if line.strip()}
    path = named(tmp_path / "c.h5", [f"wave/{name}" for name in sorted(listed)])
    resplit(path, tmp_path / "n.h5", SplitChanges(official="hmdb51", lists=lists))
    assert roles_of(tmp_path / "n.h5", "2") == {f"wave/{name}": role for name, role in listed.items()}
    with pytest.raises(InputError, match="--splits DIR"):
        resplit(path, tmp_path / "m.h5", SplitChanges(official="hmdb51"))


@pytest.mark.parametrize("official", [name for name in REGISTRY if REGISTRY[name].official_splits])
@pytest.mark.parametrize(
    "name", ["Archery/x.avi", "(((/v_(((_g01_c01.avi", "no slash", "archery/v_archery_g01_c01.avi"]
)
def test_foreign_names_have_no_official_split(official: str, name: str, tmp_path: Path) -> None:
    path = named(tmp_path / "c.h5", [name])
    with pytest.raises(InputError, match=f"is not named as {official} names its clips"):
        resplit(path, tmp_path / "n.h5", SplitChanges(official=official))


def test_in_place(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    path.write_bytes(source.read_bytes())
    resplit(path, None, SplitChanges(group=True))
    resplit(path, None, SplitChanges(drop=("group",)))
    with open_cache(path) as cache, open_cache(source) as before:
        assert cache.content == before.content
        assert cache.provenance["resplit"] == [{"group": True}, {"drop": ["group"]}]
    assert list(tmp_path.iterdir()) == [path]
    kept = path.read_bytes()
    with pytest.raises(InputError, match="split held is there already: remove it with --drop held"):
        resplit(path, None, SplitChanges(random=True, name="held"))
    assert path.read_bytes() == kept


def test_a_folder_is_cut_to_a_file_and_never_in_place(tmp_path: Path) -> None:
    rows = [ClipRow(f"{i}", 0, f"g{i}") for i in range(4)]
    values: list[Mapping[str, ClipFeatures]] = [
        {"rgb": ClipFeatures(np.full((2, 3), i, np.float16), np.arange(2))} for i in range(4)
    ]
    work = WorkFolder(tmp_path / "f", Manifest({"kind": "x"}, 4))
    work.open()
    work.add([write_shard(work.path, {"kind": "x"}, ("a",), rows[i : i + 2], values[i : i + 2]) for i in (0, 2)])
    work.finish(CacheHead({"kind": "x"}, ("a",), rows))
    work.close()
    with pytest.raises(InputError, match="is a folder, whose files never change"):
        resplit(tmp_path / "f", None, SplitChanges(group=True))
    resplit(tmp_path / "f", tmp_path / "n.h5", SplitChanges(group=True))
    with open_cache(tmp_path / "f") as one, open_cache(tmp_path / "n.h5") as two:
        np.testing.assert_array_equal(one.read_all(), two.read_all())
        assert list(two.splits) == ["group"]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({}, "nothing to do"),
        ({"drop": ("9",)}, "no split '9'; this cache has: held"),
        ({"random": True, "group": True, "name": "x"}, "names one new split, this command makes 2"),
        ({"random": True, "name": "a/b"}, "use letters, digits"),
        ({"random": True, "train_share": 1.0}, "must lie between 0 and 1"),
        ({"seed": 1, "drop": ("held",)}, "--seed and --train-share are for"),
        ({"lists": Path("x"), "random": True}, "--splits is for --official"),
        ({"test_groups": ("nobody",)}, "'nobody' is not among the 15 groups"),
        ({"file": Path("r.csv")}, "say with --name"),
        ({"file": Path("r.csv"), "name": "x"}, r"r\.csv: cannot be read"),
    ],
)
def test_wrong_use_is_told_in_one_line(changes: dict[str, Any], match: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=match) as error:
        resplit(source, tmp_path / "n.h5", SplitChanges(**changes))
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_the_command(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "n.h5"
    command = ["split", str(source), "--group", "--seed", "5", "--name", "mine", "--drop", TEST_SPLIT]
    run = CliRunner().invoke(main, [*command, "--out", str(out)])
    assert run.exit_code == 0, run.output
    assert "split mine: 18 train, 12 test, no leaking group (whole groups on one side" in run.output
    assert CliRunner().invoke(main, [*command, "--out", str(out)]).exit_code == 2
    neither = CliRunner().invoke(main, command)
    assert neither.exit_code == 2
    assert "say either --out X.h5 or --in-place" in neither.output
    groups = CliRunner().invoke(main, ["split", str(out), "--in-place", "--test-groups", "c0/g0,c1/g0"])
    assert groups.exit_code == 0, groups.output
    assert "split listed: 26 train, 4 test" in groups.output
