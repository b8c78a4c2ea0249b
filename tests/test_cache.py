"""The cache file: what other tools see in it, that it is whole or absent, and that nothing in it is trusted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tampering import assert_refused_with

from harfeat.cache import (
    CacheError,
    CacheHead,
    ClipFeatures,
    ClipRow,
    Failure,
    open_cache,
    single_stream,
    write_cache,
)
from harfeat.cache.fingerprint import differing_fields, fingerprint
from harfeat.splits import Split

RECIPE: dict[str, Any] = {
    "kind": "video",
    "schema": 1,
    "sampling": {"rule": "uniform", "frames": 4},
    "transform": {"mean": [0.5, 0.4], "input_size": [160, 160]},
    "dtype": "float16",
}
ROWS = (
    ClipRow("walk/a#1.avi", 1, "g1", 48, 25.0, "aa"),
    ClipRow("run/[é];&.avi", 0, "g1", 30, float("nan"), "bb"),
    ClipRow("walk/c.avi", 1, "g2", 7, 29.97, "cc"),
)
ROLES = np.array([1, 2, 0], np.int8)
LENGTHS = (4, 1, 3)
FEATURES = tuple(
    ClipFeatures(np.random.default_rng(i).normal(size=(n, 6)).astype(np.float16), np.arange(n, dtype=np.int32) * 2)
    for i, n in enumerate(LENGTHS)
)
HEAD = CacheHead(
    RECIPE,
    ("run", "walk"),
    ROWS,
    (Split("random", ROLES, "by chance", 3, 1), Split("1", ROLES, "official", None, 1)),
    (Failure("walk/d.avi", "empty"),),
    {"versions": {"harfeat": "0"}},
)
COLUMNS = ("name", "group", "sha256", "label", "source_frames", "fps", "damaged")
DATASETS = (
    *(f"clips/{column}" for column in COLUMNS),
    *("classes", "splits/random", "failures/name", "failures/reason"),
    *("streams/rgb/features", "streams/rgb/offsets", "streams/rgb/frame_index", "streams/rgb/sha256"),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "new" / "cache.h5"
    write_cache(target, HEAD, *single_stream(LENGTHS, iter(FEATURES), 6, np.float16))
    return target


def test_what_is_written_is_read(path: Path) -> None:
    with open_cache(path) as cache:
        assert repr(cache.clips) == repr(ROWS)  # repr, since NaN is not equal to itself
        assert cache.classes == HEAD.classes
        assert cache.failures == HEAD.failures
        assert cache.recipe == RECIPE
        assert cache.fingerprint == fingerprint(RECIPE)
        assert cache.provenance["versions"] == {"harfeat": "0"}
        for split in HEAD.splits:
            found = cache.split(split.name)
            assert (found.rule, found.seed, found.leaking_groups) == (split.rule, split.seed, 1)
            np.testing.assert_array_equal(found.roles, ROLES)
        assert cache.lengths().tolist() == list(LENGTHS)
        assert (cache.dim(), cache.dtype(), cache.streams) == (6, np.float16, ("rgb",))
        for index, clip in enumerate(FEATURES):
            np.testing.assert_array_equal(cache.read(index).features, clip.features)
            np.testing.assert_array_equal(cache.read(index).frame_index, clip.frame_index)
        np.testing.assert_array_equal(cache.read_all(), np.concatenate([clip.features for clip in FEATURES]))


def test_plain_h5py_finds_the_layout_that_is_promised(path: Path) -> None:
    with h5py.File(path) as file:
        assert file.attrs["format"] == b"harfeat"
        assert file.attrs["version"] == 1
        assert json.loads(file.attrs["provenance"])["recipe"] == RECIPE
        expected = {
            **{"streams/rgb/features": "float16", "streams/rgb/offsets": "int64"},
            **{"streams/rgb/frame_index": "int32", "clips/label": "int32", "clips/source_frames": "int32"},
            **{"clips/damaged": "int8", "clips/fps": "float64", "splits/random": "int8", "splits/1": "int8"},
        }
        for key, dtype in expected.items():
            assert file[key].dtype == dtype
        assert file["streams/rgb/offsets"][:].tolist() == [0, 4, 5, 8]
        assert [name.decode() for name in file["clips/name"]] == [row.name for row in ROWS]
        assert file["clips/label"][:].tolist() == [1, 0, 1]
        assert file["splits/random"][:].tolist() == [1, 2, 0]
        for key in ("clips/name", "clips/group", "clips/sha256", "classes"):
            assert h5py.check_string_dtype(file[key].dtype).encoding == "utf-8"


def test_a_cache_without_clips_or_splits_is_read(tmp_path: Path) -> None:
    write_cache(tmp_path / "e.h5", CacheHead({}, (), ()), *single_stream((), (), 5, np.float32))
    with open_cache(tmp_path / "e.h5") as cache:
        assert (cache.clips, dict(cache.splits), cache.dim()) == ((), {}, 5)
        assert cache.read_all().shape == (0, 5)


def test_writing_is_all_or_nothing(tmp_path: Path, path: Path) -> None:
    def broken() -> Iterator[ClipFeatures]:
        yield FEATURES[0]
        raise ZeroDivisionError

    short = FEATURES[:2]
    wrong = (*short, FEATURES[1])  # one row where three are due must not be spread over them
    before = path.read_bytes()
    for target in (path, tmp_path / "absent" / "x.h5"):
        with pytest.raises(ZeroDivisionError):
            write_cache(target, HEAD, *single_stream(LENGTHS, broken(), 6, np.float16))
        for features in (short, wrong):
            with pytest.raises(ValueError, match=r"2 clips of features for 3 rows|rows of 6"):
                write_cache(target, HEAD, *single_stream(LENGTHS, iter(features), 6, np.float16))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    assert list((tmp_path / "absent").iterdir()) == []


@pytest.mark.parametrize("limit", [0, 2000, 9000, 40_000])
def test_a_full_disk_ends_in_one_line_and_leaves_nothing(limit: int, tmp_path: Path) -> None:
    """In a process of its own, since HDF5 can crash the process in which a write failed."""
    script = f"""
import resource, signal, sys, numpy as np
from pathlib import Path
from harfeat.cache import *
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
rows = [ClipRow(f"clip{{i}}", 0) for i in range(200)]
clips = (ClipFeatures(np.ones((4, 64), np.float32), np.arange(4)) for _ in rows)
try:
    head = CacheHead({{}}, ["k"], rows)
    write_cache(Path("{tmp_path}/x.h5"), head, *single_stream([4] * 200, clips, 64, np.float32))
except CacheError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{tmp_path}/x.h5: cannot be written (File too large)"]
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for target in (tmp_path / "folder", tmp_path / "file" / "x.h5"):
        with pytest.raises(CacheError, match=str(target)):
            write_cache(target, HEAD, *single_stream(LENGTHS, iter(FEATURES), 6, np.float16))
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file", "folder"]


def _set(key: str, value: Any, **options: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        attributes = dict(file[key].attrs)
        del file[key]
        file.create_dataset(key, data=value, **options)
        file[key].attrs.update(attributes)

    return change


def _edit(key: str, index: Any, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[key][index] = value

    return change


def _attribute(key: str, value: Any, owner: str = "/") -> Callable[[h5py.File], None]:
    """Text as fixed width, as the writer does it."""
    stored = np.bytes_(value.encode()) if isinstance(value, str) else value
    return lambda file: file[owner].attrs.__setitem__(key, stored)


def _soft(file: h5py.File) -> None:
    del file["clips/group"]
    file["clips/group"] = h5py.SoftLink("/clips/name")


def _external(file: h5py.File) -> None:
    file["streams/other"] = h5py.ExternalLink("/etc/passwd", "/x")


def _virtual(file: h5py.File) -> None:
    del file["streams/rgb/features"]
    layout = h5py.VirtualLayout((8, 6), "float16")
    layout[:] = h5py.VirtualSource("/secret.h5", "x", (8, 6), "float16")
    file.create_virtual_dataset("streams/rgb/features", layout)


def _stored_elsewhere(file: h5py.File) -> None:
    del file["streams/rgb/features"]
    external = [("/etc/passwd", 0, 96)]
    file.create_dataset("streams/rgb/features", (8, 6), "float16", external=external)


def _bad_utf8(file: h5py.File) -> None:
    names = file["clips/name"]
    names[0] = b"\xff\xfe"


def _endless(file: h5py.File) -> None:
    file["clips/more"] = file["/"]


def _deep_json(file: h5py.File) -> None:
    file.attrs["provenance"] = "[" * 100_000


def _recipe(text: str) -> Callable[[h5py.File], None]:
    return _attribute("provenance", text)


def _unwritten(file: h5py.File) -> None:
    del file["streams/rgb/features"]
    file.create_dataset("streams/rgb/features", (8, 6), "float16")


def _huge(file: h5py.File) -> None:
    del file["clips/label"]
    file.create_dataset("clips/label", (10**12,), "int32", chunks=(1024,))


_FINGERPRINT = fingerprint({})
HUGE = 2**62
MUTATIONS: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
    "another format": (_attribute("format", "kaldi"), "not a harfeat cache"),
    "format is an array": (_attribute("format", ["harfeat", "harfeat"]), "format"),
    "a newer version": (_attribute("version", 2), "version 2.*update"),
    "version zero": (_attribute("version", 0), "version 0"),
    "version is text": (_attribute("version", "one"), "version"),
    "no version": ((lambda f: f.attrs.__delitem__("version")), "version"),
    "no fingerprint": ((lambda f: f.attrs.__delitem__("fingerprint")), "fingerprint"),
    "another fingerprint": (_attribute("fingerprint", "0" * 64), "fingerprint"),
    "no provenance": ((lambda f: f.attrs.__delitem__("provenance")), "provenance"),
    "provenance is no JSON": (_recipe("{'a': 1}"), "provenance is not JSON"),
    "provenance is a list": (_recipe("[1]"), "provenance is not a JSON object"),
    "provenance is deep": (_deep_json, "provenance"),
    "provenance holds NaN": (_recipe('{"recipe": {"a": NaN}}'), "provenance is not JSON"),
    "provenance in a heap": (
        (lambda f: f.attrs.__setitem__("provenance", "{}")),
        "provenance is missing or no text",
    ),
    "names in a heap": (_set("clips/name", [row.name for row in ROWS]), "clips/name.*fixed width"),
    "another provenance": (
        _recipe(json.dumps({"recipe": RECIPE})),
        "attribute provenance does not match its hash",
    ),
    "another label": (_edit("clips/label", 0, 0), "clips/label does not match its hash"),
    "another group": (_edit("clips/group", 2, "g1"), "clips/group does not match its hash|leaking"),
    "frames beyond 32 bits": (_set("clips/source_frames", np.full(3, 2**40)), "clips/source_frames holds numbers"),
    "damage of two": (_edit("clips/damaged", 0, 2), "clips/damaged holds numbers"),
    "no damage any more": (_edit("clips/damaged", 0, 0), "clips/damaged does not match its hash"),
    "another rate": (_edit("clips/fps", 0, 24.0), "clips/fps does not match its hash"),
    "another class name": (_edit("classes", 0, "ran"), "classes does not match its hash"),
    "another split seed": (_attribute("seed", 4, "splits/random"), "splits/random does not match its hash"),
    "another reason": (_edit("failures/reason", 0, "full"), "failures/reason does not match its hash"),
    "another clip hash": (_edit("streams/rgb/sha256", (1, 5), 0), "streams/rgb/features does not match its hash"),
    "a split without hash": ((lambda f: f["splits"].copy("random", "again")), "splits/again does not match"),
    "a line end in a name": ((lambda f: f["splits"].copy("random", "a\nb")), r"splits/a\\nb does not match"),
    "a split less": ((lambda f: f["splits"].__delitem__("1")), "splits/1 does not match"),
    "no digests": ((lambda f: f.attrs.__delitem__("digests")), "digests"),
    "provenance is bytes": (_attribute("provenance", np.bytes_(b"\xff\xff")), "provenance"),
    "recipe is a number": (_recipe('{"recipe": 5}'), "recipe"),
    "another recipe": (_recipe('{"recipe": {}}'), "fingerprint does not match"),
    "a label too high": (_edit("clips/label", 0, 2), "clips/label"),
    "a label too low": (_edit("clips/label", 0, -2), "clips/label"),
    "a name twice": (_edit("clips/name", 0, ROWS[1].name), "clips/name holds a name twice"),
    "a class twice": (_edit("classes", 0, "walk"), "classes holds a name twice"),
    "a name that is not utf-8": (_bad_utf8, "clips/name is not utf-8"),
    "another role": (_edit("splits/random", 0, 3), "splits/random"),
    "a negative role": (_edit("splits/random", 0, -1), "splits/random"),
    "leaks denied": (_attribute("leaking_groups", 0, "splits/random"), "leaking_groups"),
    "seed is text": (_attribute("seed", "x", "splits/random"), "splits/random@seed"),
    "rule is a number": (_attribute("rule", 5, "splits/random"), "splits/random@rule"),
    "offsets that fall": (_edit("streams/rgb/offsets", slice(None), [0, 5, 4, 8]), "offsets"),
    "offsets beyond": (_edit("streams/rgb/offsets", -1, 9), "offsets"),
    "offsets from one": (_edit("streams/rgb/offsets", 0, 1), "offsets"),
    "offsets that wrap": (_edit("streams/rgb/offsets", slice(1, 3), [HUGE * 2 - 1, -HUGE]), "offsets"),
    "features of one axis": (_set("streams/rgb/features", np.zeros(8, np.float16)), "features"),
    "features of text": (_set("streams/rgb/features", "x"), "features"),
    "features never written": (_unwritten, "streams/rgb/features.*more values than the file holds"),
    "features that are long doubles": (_set("streams/rgb/features", np.zeros((8, 6), "f16")), "features"),
    "features turned in memory": (_set("streams/rgb/features", np.zeros((8, 6), ">f4")), "features"),
    "fewer feature rows": (_set("streams/rgb/features", np.zeros((7, 6), np.float16)), "offsets"),
    "frame_index of floats": (_set("streams/rgb/frame_index", np.zeros(8)), "frame_index"),
    "frame_index too short": (_set("streams/rgb/frame_index", np.zeros(7, np.int32)), "frame_index"),
    "no streams": ((lambda f: f["streams"].__delitem__("rgb")), "streams"),
    "streams are data": (_set("streams", np.zeros(3)), "streams"),
    "a stream is data": (_set("streams/rgb", np.zeros(3)), "streams/rgb"),
    "clips are data": (_set("clips", np.zeros(3)), "clips/name"),
    "an absurd size": (_huge, "clips/label.*more values than the file holds"),
    "a null dataspace": (_set("clips/label", h5py.Empty("i4")), "clips/label"),
    "a scalar": (_set("clips/name", "walk"), "clips/name"),
    "a soft link": (_soft, "clips/group is a link"),
    "an external link": (_external, "streams/other is a link"),
    "a virtual dataset": (_virtual, "features stores its data outside"),
    "an external dataset": (_stored_elsewhere, "features stores its data outside"),
    "a named type": ((lambda f: f.__setitem__("clips/t", np.dtype("i4"))), "clips/t"),
    "a group in itself": (_endless, "stands in two places"),
}
for _key in DATASETS:
    MUTATIONS[f"no {_key}"] = ((lambda f, k=_key: f.__delitem__(k)), _key.removesuffix("/random"))  # type: ignore[misc]
    if _key not in ("splits/random",):
        MUTATIONS[f"{_key} is a group"] = (
            (lambda f, k=_key: (f.__delitem__(k), f.create_group(k))),  # type: ignore[misc]
            _key,
        )
    MUTATIONS[f"{_key} of another type"] = (_set(_key, np.zeros((8, 6), "c8") if "feat" in _key else 1j), _key)
    if _key.startswith(("clips", "splits", "failures")):
        _text = _key.split("/")[1] in ("name", "group", "sha256", "reason")
        _four = np.array([b"a", b"b", b"c", b"d"], h5py.string_dtype("utf-8", 1)) if _text else [1, 1, 1, 1]
        MUTATIONS[f"{_key} too long"] = (_set(_key, _four), "has 4 rows|has 1 rows|4,|holds a name")
del MUTATIONS["no splits/random"]  # a cache may have any splits


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_tampered_file_is_refused_in_one_line_that_names_the_field(name: str, path: Path) -> None:
    change, match = MUTATIONS[name]
    assert_refused_with(change, path, match)


def test_what_is_no_cache_is_refused(path: Path, tmp_path: Path) -> None:
    whole = path.read_bytes()
    foreign = tmp_path / "foreign.h5"
    with h5py.File(foreign, "w") as file:
        file["features"] = np.zeros(3)
    cases: dict[str, tuple[bytes, str]] = {
        "text": (b"features\n" * 100, "not a readable HDF5 file"),
        "empty": (b"", "not a readable HDF5 file"),
        "signature": (b"\x89HDF\r\n\x1a\n", "not a readable HDF5 file"),
        "half": (whole[: len(whole) // 2], "not a readable HDF5 file"),
        "less a byte": (whole[:-1], "not a readable HDF5 file"),
        "foreign": (foreign.read_bytes(), "not a harfeat cache"),
    }
    for name, (data, match) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CacheError, match=match):
            open_cache(tmp_path / name)
    with pytest.raises(CacheError, match=r"holds no manifest\.json"):
        open_cache(tmp_path)
    with pytest.raises(CacheError, match="no such file"):
        open_cache(tmp_path / "absent")


def test_a_long_provenance_is_kept(tmp_path: Path) -> None:
    notes = [f"folder {i} holds no video" for i in range(20_000)]
    told = replace(HEAD, provenance={"notes": notes})
    write_cache(tmp_path / "x.h5", told, *single_stream(LENGTHS, iter(FEATURES), 6, np.float16))
    with open_cache(tmp_path / "x.h5") as cache:
        assert cache.provenance["notes"] == notes


def test_asking_for_what_is_not_there_lists_what_is(path: Path) -> None:
    with open_cache(path) as cache:
        with pytest.raises(CacheError, match=r"no split '9'; this cache has: 1, random"):
            cache.split("9")
        with pytest.raises(CacheError, match=r"no stream 'flow'; this cache has: rgb"):
            cache.dim("flow")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, min_size=1, max_size=5), st.data())
def test_the_fingerprint_changes_with_every_field_and_with_nothing_else(
    recipe: dict[str, Any], data: st.DataObject
) -> None:
    turned = dict(reversed(list(recipe.items())))
    assert fingerprint(turned) == fingerprint(recipe)
    assert fingerprint(json.loads(json.dumps(recipe))) == fingerprint(recipe)
    key = data.draw(st.sampled_from(list(recipe)))
    assert fingerprint(recipe | {key: [recipe[key]]}) != fingerprint(recipe)
    assert fingerprint({name: value for name, value in recipe.items() if name != key}) != fingerprint(recipe)


def test_differences_are_named_down_to_the_nested_field() -> None:
    other = json.loads(json.dumps(RECIPE))
    assert differing_fields(RECIPE, other) == []
    other["sampling"]["frames"] = 8
    other["transform"]["input_size"] = [224, 224]
    del other["dtype"]
    assert differing_fields(RECIPE, other) == [
        "dtype: 'float16' against None",
        "sampling.frames: 4 against 8",
        "transform.input_size: [160, 160] against [224, 224]",
    ]
