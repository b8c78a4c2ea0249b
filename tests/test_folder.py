"""A folder of shards: what survives a kill, what is dropped, and that it reads as the file packed from it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harfeat.cache import Cache, CacheError, CacheHead, ClipFeatures, ClipRow, Failure, open_cache
from harfeat.cache.folder import WorkFolder, work_folder, write_shard
from harfeat.cache.manifest import Manifest, dump_manifest, parse_manifest, read_manifest
from harfeat.cache.packing import pack
from harfeat.cache.schema import StreamLayout
from harfeat.cache.writer import write_cache
from harfeat.errors import InputError
from harfeat.splits import Split, leaking_groups

RECIPE: dict[str, Any] = {"kind": "video", "sampling": {"frames": 3}}
CLASSES = ("a", "b")
NAMES = tuple(f"c{index}.avi" for index in range(6))


def row(name: str, **changes: Any) -> ClipRow:
    number = NAMES.index(name)
    return replace(ClipRow(name, number % 2, f"g{number // 2}", 10 + number, 25.0, f"hash{number}"), **changes)


def clip(name: str, salt: int = 0) -> dict[str, ClipFeatures]:
    rng = np.random.default_rng((NAMES.index(name), salt))
    return {
        stream: ClipFeatures(
            rng.normal(size=(3 + NAMES.index(name) % 2, 4)).astype(np.float16),
            np.arange(3 + NAMES.index(name) % 2),
        )
        for stream in ("rgb", "rgb-view-1")
    }


def head(names: tuple[str, ...] = NAMES, failures: tuple[Failure, ...] = ()) -> CacheHead:
    roles = np.array([1 + NAMES.index(name) % 2 for name in names], np.int8)
    rows = [ClipRow(name, row(name).label, row(name).group) for name in names]
    leaks = leaking_groups(roles, [one.group for one in rows])
    return CacheHead(RECIPE, CLASSES, rows, (Split("1", roles, "odd", None, leaks),), failures, {"by": "test"})


def folder_of(out: Path, recipe: dict[str, Any] | None = None) -> WorkFolder:
    return WorkFolder(out, Manifest(recipe or RECIPE, len(NAMES)))


def shard(folder: WorkFolder, *names: str) -> str:
    entry = write_shard(
        folder.path, RECIPE, CLASSES, [row(name) for name in names], [clip(name) for name in names]
    )
    folder.add([entry])
    return entry.name


def finished(out: Path) -> Path:
    """All six clips in three shards, complete."""
    folder = folder_of(out)
    folder.open()
    for first in range(0, 6, 2):
        shard(folder, *NAMES[first : first + 2])
    folder.finish(head())
    folder.close()
    return out


def assert_same(one: Cache, other: Cache) -> None:
    assert one.content == other.content
    assert (one.clips, one.classes, one.failures) == (other.clips, other.classes, other.failures)
    assert (one.streams, one.fingerprint) == (other.streams, other.fingerprint)
    for stream in one.streams:
        np.testing.assert_array_equal(one.read_all(stream), other.read_all(stream))
        for index in range(len(one.clips)):
            np.testing.assert_array_equal(one.read(index, stream).features, other.read(index, stream).features)
            np.testing.assert_array_equal(
                one.read(index, stream).frame_index, other.read(index, stream).frame_index
            )


def test_folder_packed_file_and_packed_folder_are_one_cache(tmp_path: Path) -> None:
    folder, direct = finished(tmp_path / "folder"), finished(tmp_path / "direct.h5")
    assert sorted(item.suffix for item in folder.iterdir()) == [".h5"] * 4 + [".json"]
    assert [item.name for item in tmp_path.iterdir() if item.name.startswith("direct")] == ["direct.h5"]
    content = pack(folder, tmp_path / "packed.h5")
    with open_cache(folder) as one, open_cache(direct) as two, open_cache(tmp_path / "packed.h5") as three:
        assert content == one.content
        assert_same(one, two)
        assert_same(one, three)
        for index, name in enumerate(NAMES):
            for stream, values in clip(name).items():
                np.testing.assert_array_equal(one.read(index, stream).features, values.features)
        assert one.head.provenance == {"by": "test"} == three.head.provenance
    with pytest.raises(InputError, match=r"packed\.h5 exists"):
        pack(folder, tmp_path / "packed.h5")


def test_the_content_hash_is_of_values_and_not_of_the_file(tmp_path: Path) -> None:
    whole = finished(tmp_path / "whole.h5")
    with h5py.File(whole) as source, h5py.File(tmp_path / "repacked.h5", "w") as target:
        for key, value in source.attrs.items():
            target.attrs[key] = np.bytes_(value) if isinstance(value, bytes) else value
        for key in ("streams", "splits", "failures", "clips", "classes"):
            source.copy(key, target)
        for stream in ("rgb", "rgb-view-1"):
            values = source[f"streams/{stream}/features"][...]
            del target[f"streams/{stream}/features"]
            target.create_dataset(f"streams/{stream}/features", data=values, compression="gzip", chunks=(2, 4))
        target["classes"].attrs["note"] = "kept by h5repack"
    with open_cache(whole) as one, open_cache(tmp_path / "repacked.h5") as two:
        assert_same(one, two)


def test_a_shard_stands_under_its_hash_and_is_never_changed(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "out")
    folder.open()
    name = shard(folder, NAMES[0])
    before = (folder.path / name).stat()
    shard(folder, *NAMES[1:])
    folder.finish(head())
    folder.close()
    assert (folder.path / name).stat().st_mtime_ns == before.st_mtime_ns
    manifest = read_manifest(folder.path)
    assert manifest.complete
    assert {entry.name for entry in manifest.files} == {path.name for path in folder.path.glob("*.h5")}
    for entry in manifest.files:
        assert entry.name.split("-")[1] == f"{entry.sha256[:16]}.h5"


def test_unfinished_is_told_and_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "out")
    folder.open()
    shard(folder, *NAMES[:2])
    folder.close()
    with pytest.raises(CacheError, match=r"unfinished, 2 of 6 clips are there"):
        open_cache(tmp_path / "out")
    with pytest.raises(CacheError, match="unfinished"):
        pack(tmp_path / "out", tmp_path / "x.h5")
    assert not (tmp_path / "x.h5").exists()


def test_two_processes_are_kept_apart(tmp_path: Path) -> None:
    first, second = folder_of(tmp_path / "out.h5"), folder_of(tmp_path / "out.h5")
    first.open()
    with pytest.raises(InputError, match="another process"):
        second.open()
    second.close()
    shard(first, NAMES[1])
    first.close()
    second.open()
    assert list(second.done) == [NAMES[1]]
    second.close()


def test_damage_and_leftovers_of_a_kill_are_dropped_and_unlisted_shards_are_found(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "out")
    folder.open()
    kept, broken = shard(folder, NAMES[0]), shard(folder, NAMES[1])
    unlisted = write_shard(folder.path, RECIPE, CLASSES, [row(NAMES[2])], [clip(NAMES[2])])
    torn = write_shard(folder.path, RECIPE, CLASSES, [row(NAMES[3])], [clip(NAMES[3])])
    folder.close()
    data = bytearray((folder.path / broken).read_bytes())
    data[-1] ^= 1
    (folder.path / broken).write_bytes(data)
    (folder.path / torn.name).write_bytes((folder.path / torn.name).read_bytes()[:-10])
    (folder.path / ".shard-00.part").write_bytes(b"half")
    folder = folder_of(tmp_path / "out")
    folder.open()
    assert set(folder.done) == {NAMES[0], NAMES[2]}
    assert folder.dropped == [broken]
    names = {kept, unlisted.name, "lock", "manifest.json"}
    assert {item.name for item in folder.path.iterdir()} == names
    folder.close()
    assert {item.name for item in folder.path.iterdir()} == names - {"lock"}


@pytest.mark.parametrize("out", ["out.h5", "out"])
def test_a_forgotten_clip_leaves_its_shard_and_the_rest_stays(out: str, tmp_path: Path) -> None:
    finished(tmp_path / out)
    folder = folder_of(tmp_path / out)
    folder.open()
    folder.forget([NAMES[2]])
    assert set(folder.done) == set(NAMES) - {NAMES[2]}
    changed = row(NAMES[2], sha256="new")
    folder.add([write_shard(folder.path, RECIPE, CLASSES, [changed], [clip(NAMES[2], salt=1)])])
    folder.finish(head())
    folder.close()
    with open_cache(tmp_path / out) as cache:
        assert [c.name for c in cache.clips] == list(NAMES)
        assert cache.clips[2].sha256 == "new"
        for index, name in enumerate(NAMES):
            salt = 1 if index == 2 else 0
            np.testing.assert_array_equal(cache.read(index).features, clip(name, salt)["rgb"].features)
    if out == "out":
        listed = {entry.name for entry in read_manifest(tmp_path / out).files}
        assert {path.name for path in (tmp_path / out).glob("*.h5")} == listed


def test_an_interruption_waits_for_hdf5_and_not_for_the_end(tmp_path: Path) -> None:
    """A signal amid a write takes effect after that clip; before, it left HDF5 with what it could not close."""
    told: list[str] = []

    def features() -> Iterator[dict[str, ClipFeatures]]:
        for name in NAMES:
            if name == NAMES[2]:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0)  # where Python would raise it
            told.append(name)
            yield {"rgb": clip(name)["rgb"]}

    layouts = {"rgb": StreamLayout([len(clip(name)["rgb"].frame_index) for name in NAMES], 4, np.dtype("f2"))}
    with pytest.raises(KeyboardInterrupt):
        write_cache(tmp_path / "x.h5", head(), layouts, features())
    assert told == list(NAMES[:3])
    assert not any(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_parts_may_lie_on_another_file_system(tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    elsewhere = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else tmp_path))
    (tmp_path / "x.h5.parts").symlink_to(elsewhere)
    try:
        assert finished(tmp_path / "x.h5").is_file()
        with open_cache(tmp_path / "x.h5") as cache:
            assert len(cache.read_all()) == cache.lengths().sum() > 0
        assert not any(elsewhere.iterdir())
    finally:
        shutil.rmtree(elsewhere)


def test_a_damaged_manifest_may_be_deleted(tmp_path: Path) -> None:
    finished(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_bytes(b"{")
    folder = folder_of(tmp_path / "out")
    with pytest.raises(InputError, match="if you delete it, the shards beside it are taken up again"):
        folder.open()
    folder.close()
    (tmp_path / "out" / "manifest.json").unlink()
    folder = folder_of(tmp_path / "out")
    folder.open()
    assert set(folder.done) == set(NAMES)
    folder.finish(head())
    folder.close()
    with open_cache(tmp_path / "out") as cache:
        assert len(cache.clips) == 6


def test_many_shards_are_packed_with_few_open_files(tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    folder = WorkFolder(out, Manifest(RECIPE, 60))
    folder.open()
    rows = [ClipRow(f"clip{i}", i % 2, sha256="x") for i in range(60)]
    for index, one in enumerate(rows):
        values = {"rgb": ClipFeatures(np.full((2, 3), index, np.float16), np.array([0, index]))}
        folder.add([write_shard(folder.path, RECIPE, CLASSES, [one], [values])])
    opened = [link for link in Path("/proc/self/fd").iterdir() if "out.h5.parts/shard-" in str(_target(link))]
    assert 0 < len(opened) < 40
    folder.finish(CacheHead(RECIPE, CLASSES, rows[::-1]))
    folder.close()
    assert list(tmp_path.iterdir()) == [out]
    with open_cache(out) as cache:
        assert [c.name for c in cache.clips] == [one.name for one in rows[::-1]]
        assert cache.read_all()[::2, 0].tolist() == list(range(59, -1, -1))
        assert cache.read(0).frame_index.tolist() == [0, 59]


def _target(link: Path) -> Path:
    try:
        return link.readlink()
    except FileNotFoundError:  # the handle by which the folder itself is listed
        return link


def test_what_is_complete_already_is_left_alone(tmp_path: Path) -> None:
    for out in (finished(tmp_path / "out"), finished(tmp_path / "out.h5")):
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.h5")}
        folder = folder_of(out)
        folder.open()
        folder.finish(head())
        folder.close()
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.h5")} == before
        folder.open()
        folder.finish(replace(head(), classes=("a", "z")))  # other names over the same features
        folder.close()
        with open_cache(out) as cache:
            assert cache.classes == ("a", "z")


def test_failures_are_remembered_until_they_are_tried_again(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "out")
    folder.open()
    shard(folder, *NAMES[:5])
    folder.add(failures=[Failure(NAMES[5], "broken")])
    folder.close()
    assert read_manifest(tmp_path / "out").failures == (Failure(NAMES[5], "broken"),)
    folder = folder_of(tmp_path / "out")
    folder.open()
    assert set(folder.failures) == {NAMES[5]}
    folder.finish(head(NAMES[:5], (Failure(NAMES[5], "broken"),)))
    folder.close()
    with open_cache(tmp_path / "out") as cache:
        assert cache.failures == (Failure(NAMES[5], "broken"),)
    folder = folder_of(tmp_path / "out")
    folder.open()
    folder.retry([NAMES[5]])
    shard(folder, NAMES[5])
    folder.finish(head())
    folder.close()
    with open_cache(tmp_path / "out") as cache:
        assert (cache.failures, len(cache.clips)) == ((), 6)


def test_a_folder_that_is_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "beach.avi").touch()
    for name, match in (("holiday", "holds beach.avi and no manifest"), ("holiday/beach.avi", "is a file but no")):
        folder = folder_of(tmp_path / name)
        with pytest.raises(InputError, match=match):
            folder.open()
        folder.close()
    assert [item.name for item in (tmp_path / "holiday").iterdir()] == ["beach.avi"]


def test_another_recipe_is_refused_with_the_field(tmp_path: Path) -> None:
    for out in (finished(tmp_path / "out"), finished(tmp_path / "out.h5")):
        folder = folder_of(out, {"kind": "video", "sampling": {"frames": 5}})
        with pytest.raises(InputError, match=r"sampling\.frames: 3 against 5"):
            folder.open()
        folder.close()
        with open_cache(out) as cache:
            assert len(cache.clips) == 6


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("complete") / "out")


@pytest.fixture
def spoilt(complete: Path, tmp_path: Path) -> Path:
    return shutil.copytree(complete, tmp_path / "out")


def test_a_flipped_bit_in_a_shard_shows_when_the_clip_is_read(spoilt: Path) -> None:
    with open_cache(spoilt) as cache:
        values = cache.read(3).features.tobytes()
    for path in spoilt.glob("shard-*.h5"):
        data = path.read_bytes()
        if values in data:
            place = data.index(values)
            path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    with open_cache(spoilt) as cache:
        assert cache.read(0).features.shape == (3, 4)
        with pytest.raises(CacheError, match=r"c3\.avi do not match their hash"):
            cache.read(3)
        with pytest.raises(CacheError, match=r"c3\.avi do not match their hash"):
            cache.read_all()


@pytest.mark.parametrize("kind", ["shard", "head"])
def test_a_missing_or_short_file_is_named(kind: str, spoilt: Path) -> None:
    path = next(spoilt.glob(f"{kind}-*.h5"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CacheError, match=rf"{path.name}: has \d+ bytes where the manifest states"):
        open_cache(spoilt)
    path.unlink()
    with pytest.raises(CacheError, match=rf"{path.name}: is missing"):
        open_cache(spoilt)


def test_a_manifest_comes_back_as_it_was(complete: Path) -> None:
    manifest = replace(read_manifest(complete), failures=(Failure("x", "y é"),), slice=(1, 3))
    assert parse_manifest(dump_manifest(manifest).encode(), "here") == manifest


JUNK: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.just([]) | st.just({}) | st.just("../x")
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_forged_manifest_is_refused_or_means_what_it_says(complete: Path, data: st.DataObject) -> None:
    """Any one value replaced: an error that names the manifest, or a manifest whose names stay in the folder."""
    fields = json.loads((complete / "manifest.json").read_text())
    places = [(fields, key) for key in fields] + [(entry, key) for entry in fields["files"] for key in entry]
    owner, key = data.draw(st.sampled_from(places))
    owner[key] = data.draw(JUNK)
    told = ""
    try:
        manifest = parse_manifest(json.dumps(fields).encode(), "there")
    except CacheError as error:
        told = str(error)
    if told:
        assert told.startswith("there: ")
        assert "\n" not in told
        return
    assert manifest.fingerprint == fields["fingerprint"]
    for entry in manifest.files:
        assert Path(entry.name).name == entry.name
        assert not entry.name.startswith(".")
        assert entry.bytes >= 0
        assert entry.clips >= 0


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b"\xff", b"[" * 10_000, b'{"format": "harfeat-manifest"}', b'{"a": NaN}']
)
def test_what_is_no_manifest_is_refused(text: bytes) -> None:
    with pytest.raises(CacheError, match=r"^here: ") as caught:
        parse_manifest(text, "here")
    assert "\n" not in str(caught.value)


def test_where_shards_gather() -> None:
    for name in ("b.h5", "b.H5", "b.hdf5"):
        assert work_folder(Path("a", name)) == Path(f"a/{name}.parts")
    assert work_folder(Path("a/b")) == Path("a/b")
