"""Caches whose clips have several labels, or none: what is written is read, and nothing in the file is trusted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from caches import made_up_cache
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tampering import assert_refused_with

from harfeat.cache import (
    Cache,
    CacheError,
    CacheHead,
    ClipFeatures,
    ClipRow,
    StreamLayout,
    label_fields,
    open_cache,
    single_stream,
    write_cache,
)
from harfeat.splits import fixed_split

CLASSES = ("cat", "dog", "fox", "owl")
SETS = ((2,), (0, 3), (), (1,), (0, 1, 2, 3))


def row(name: str, classes: tuple[int, ...], group: str = "") -> ClipRow:
    label, labels = label_fields(classes)
    return ClipRow(name, label, group, labels=labels)


def several(
    path: Path,
    sets: tuple[tuple[int, ...], ...] = SETS,
    recipe: dict[str, Any] | None = None,
    kind: Any = np.float16,
) -> Path:
    """A cache of clips with these classes; clip v has v + 1 rows that hold v."""
    rows = [row(f"clip{number}", classes, f"g{number // 2}") for number, classes in enumerate(sets)]
    split = fixed_split("1", [1, 2, 0, 1, 2][: len(rows)], [clip.group for clip in rows], "by hand")
    features = [ClipFeatures(np.full((n + 1, 3), n, kind), np.arange(n + 1)) for n in range(len(rows))]
    head = CacheHead(recipe or {}, CLASSES, rows, [split])
    write_cache(path, head, *single_stream([n + 1 for n in range(len(rows))], iter(features), 3, kind))
    return path


def sets_of(cache: Cache) -> list[tuple[int, ...]]:
    """The classes of every clip, from `label_sets` alone."""
    offsets, index = cache.label_sets
    return [tuple(index[offsets[clip] : offsets[clip + 1]].tolist()) for clip in range(len(cache.clips))]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(st.lists(st.sets(st.integers(0, 3)), max_size=5))
def test_what_is_written_is_read(tmp_path: Path, sets: list[set[int]]) -> None:
    wanted = tuple(tuple(sorted(classes)) for classes in sets)
    with open_cache(several(tmp_path / "x.h5", wanted)) as cache:
        assert sets_of(cache) == list(wanted)
        assert cache.has_several == any(len(classes) != 1 for classes in wanted)
        assert cache.labels.tolist() == [classes[0] if len(classes) == 1 else -1 for classes in wanted]
        assert [clip.all_labels for clip in cache.clips] == list(wanted)
        assert cache.clips_per_class.tolist() == [sum(index in c for c in wanted) for index in range(4)]
        assert [values.dtype for values in cache.label_sets] == [np.int64, np.int32]
    with h5py.File(tmp_path / "x.h5") as file:
        assert ("labels" in file) == any(len(classes) != 1 for classes in wanted)


def test_plain_h5py_finds_the_labels_of_all_clips(tmp_path: Path) -> None:
    with h5py.File(several(tmp_path / "x.h5")) as file:
        assert file.attrs["version"] == 1
        assert file["clips/label"][:].tolist() == [2, -1, -1, 1, -1]
        assert file["labels/offsets"][:].tolist() == [0, 1, 3, 3, 4, 8]
        assert file["labels/index"][:].tolist() == [2, 0, 3, 1, 0, 1, 2, 3]
        assert (file["labels/offsets"].dtype, file["labels/index"].dtype) == (np.int64, np.int32)
        assert {"labels/offsets", "labels/index"} < json.loads(file.attrs["digests"]).keys()


def test_a_cache_of_one_label_a_clip_is_what_it_always_was(tmp_path: Path) -> None:
    """Names and hash are those of files written before there were several labels."""
    with open_cache(made_up_cache(tmp_path / "x.h5")) as cache:
        assert cache.content == "1846d6fcbd8da871ad93b0213edaa06a8a82183ebc81bfb96bf0ac390ed447e5"
        assert not cache.has_several
        offsets, index = cache.label_sets
        assert offsets.tolist() == list(range(len(cache.clips) + 1))
        assert index.tolist() == cache.labels.tolist()
    with h5py.File(tmp_path / "x.h5") as file:
        assert set(file) == {"classes", "clips", "failures", "splits", "streams"}
        assert not [key for key in json.loads(file.attrs["digests"]) if "labels" in key]


def test_one_label_more_or_less_is_another_content(tmp_path: Path) -> None:
    contents = []
    for number, sets in enumerate((SETS, (*SETS[:4], (0, 1, 2)), (*SETS[:2], (1, 2), *SETS[3:]))):
        with open_cache(several(tmp_path / f"{number}.h5", sets)) as cache:
            contents.append(cache.content)
    assert len(set(contents)) == 3


@pytest.mark.parametrize(
    "bad",
    [
        ClipRow("x", 1, labels=(1,)),
        ClipRow("x", 1, labels=(0, 2)),
        ClipRow("x", -1, labels=(1,)),
        ClipRow("x", -1, labels=(2, 1)),
        ClipRow("x", -1, labels=(1, 1)),
    ],
)
def test_rows_that_contradict_themselves_are_not_written(bad: ClipRow, tmp_path: Path) -> None:
    rows = [ClipRow("a", -1, labels=(0, 1)), bad, ClipRow("b", -1)]
    features = (ClipFeatures(np.ones((1, 3)), np.arange(1)) for _ in rows)
    head = CacheHead({}, CLASSES, rows)
    with pytest.raises(ValueError, match=r"clip x: .*see label_fields"):
        write_cache(tmp_path / "x.h5", head, *single_stream([1] * 3, features, 3, np.float32))
    assert not list(tmp_path.iterdir())


def _put(key: str, values: Any, kind: str = "i4") -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[key]
        file[key] = np.asarray(values, kind)

    return change


def _as(key: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[key]
        file[key] = value

    return change


_OFFSETS, _INDEX = [0, 1, 3, 3, 4, 8], [2, 0, 3, 1, 0, 1, 2, 3]
TAMPERED: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
    "no labels": (lambda f: f.__delitem__("labels"), "labels/index is missing"),
    "no offsets": (lambda f: f.__delitem__("labels/offsets"), "labels/offsets is missing"),
    "no index": (lambda f: f.__delitem__("labels/index"), "labels/index is missing"),
    "labels are data": (_as("labels", [1]), "labels/index is missing"),
    "an offset too many": (_put("labels/offsets", [*_OFFSETS, 8], "i8"), r"labels/offsets is .*expected \(6,\)"),
    "offsets that fall": (_put("labels/offsets", [0, 1, 3, 2, 4, 8], "i8"), "labels/offsets do not cover the 8"),
    "offsets from one": (_put("labels/offsets", [1, 1, 3, 3, 4, 8], "i8"), "labels/offsets do not cover"),
    "offsets beyond": (_put("labels/offsets", [0, 1, 3, 3, 4, 9], "i8"), "labels/offsets do not cover the 8"),
    "offsets that wrap": (_put("labels/offsets", [0, 2**63 - 1, -(2**62), 3, 4, 8], "i8"), "do not cover"),
    "offsets of floats": (_put("labels/offsets", _OFFSETS, "f8"), "labels/offsets is float64"),
    "index of floats": (_put("labels/index", _INDEX, "f4"), "labels/index is float32"),
    "an index of two axes": (_put("labels/index", [_INDEX]), r"labels/index has the shape \(1, 8\)"),
    "an index too short": (_put("labels/index", _INDEX[:-1]), "labels/offsets do not cover the 7"),
    "an index that is nothing": (_as("labels/index", h5py.Empty("i4")), "labels/index"),
    "a class too high": (_put("labels/index", [*_INDEX[:-1], 4]), "labels/index points outside of the 4 classes"),
    "a class too low": (_put("labels/index", [*_INDEX[:1], -1, *_INDEX[2:]]), "labels/index points outside"),
    "classes that fall": (_put("labels/index", [2, 3, 0, 1, 0, 1, 2, 3]), "labels/index of clip clip1 does not"),
    "a class twice": (_put("labels/index", [2, 0, 3, 1, 0, 1, 1, 3]), "of clip clip4 does not ascend, or holds"),
    "another single label": (_put("labels/index", [1, 0, 3, 1, 0, 1, 2, 3]), "disagree on clip clip0"),
    "another column": (_put("clips/label", [2, -1, -1, 2, -1]), "disagree on clip clip3"),
    "one label said of several": (_put("clips/label", [2, 0, -1, 1, -1]), "disagree on clip clip1"),
    "several said of one label": (_put("clips/label", [-1, -1, -1, 1, -1]), "disagree on clip clip0"),
    "labels moved on": (_put("labels/offsets", [0, 1, 3, 4, 4, 8], "i8"), "disagree on clip clip2"),
    "other labels": (_put("labels/index", [2, 0, 2, 1, 0, 1, 2, 3]), "labels/index does not match its hash"),
    "labels that nobody needs": (_put("clips/label", [2, 0, 1, 1, 2]), "labels is there though clips/label"),
    "a link": (_as("labels/index", h5py.SoftLink("/clips/label")), "labels/index is a link"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_file_is_refused_in_one_line_that_names_the_field(name: str, tmp_path: Path) -> None:
    change, match = TAMPERED[name]
    assert_refused_with(change, several(tmp_path / "x.h5"), match)


def test_what_bytes_stand_for(tmp_path: Path) -> None:
    told = {"quantisation": {"scale": 4 / 255, "shift": 4 / 512 - 2}}
    for name, kind, recipe, wanted in (
        ("a", np.uint8, None, (1 / 255, 0.0)),
        ("b", np.uint8, told, (4 / 255, 4 / 512 - 2)),
        ("c", np.float16, None, (1.0, 0.0)),
        ("d", np.float16, told, (1.0, 0.0)),
    ):
        with open_cache(several(tmp_path / f"{name}.h5", SETS, recipe, kind)) as cache:
            assert cache.quantisation() == cache.quantisation("rgb") == wanted
            with pytest.raises(CacheError, match="no stream 'flow'"):
                cache.quantisation("flow")


@pytest.mark.parametrize(
    "told",
    [
        *(None, 4, [], {}, {"scale": 1.0}, {"scale": "1", "shift": 0}, {"scale": True, "shift": 0}),
        *({"scale": 0, "shift": 0}, {"scale": -1.0, "shift": 0.0}, {"scale": 1, "shift": 10**400}),
    ],
)
def test_a_quantisation_that_is_none_is_refused(told: Any, tmp_path: Path) -> None:
    several(tmp_path / "x.h5", SETS, {"quantisation": told})
    with pytest.raises(CacheError, match=r"x\.h5: the recipe in provenance cannot be: its quantisation"):
        open_cache(tmp_path / "x.h5")


def test_two_streams_and_several_labels(tmp_path: Path) -> None:
    rows = [row("a", (0, 1)), row("b", (2,))]
    layouts = {"rgb": StreamLayout([2, 3], 4, np.dtype("u1")), "audio": StreamLayout([2, 3], 2, np.dtype("u1"))}
    clips = [
        {name: ClipFeatures(np.full((n, layout.dim), n, "u1"), np.arange(n)) for name, layout in layouts.items()}
        for n in (2, 3)
    ]
    write_cache(tmp_path / "x.h5", replace(CacheHead({}, CLASSES, rows)), layouts, clips)
    with open_cache(tmp_path / "x.h5") as cache:
        assert (cache.main_stream, cache.dim("audio"), sets_of(cache)) == ("rgb", 2, [(0, 1), (2,)])
