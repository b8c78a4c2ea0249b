"""Feature files of other people: what comes in is what was there, and what is wrong is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from payload import Payload

from harfeat.cache import open_cache
from harfeat.errors import InputError
from harfeat.importers import Keys
from harfeat.importing import import_features

KEYS = Keys("features", "label", "name", "group", "classes")
FEATURES = np.random.default_rng(0).normal(size=(6, 3, 5)).astype(np.float32)
ARRAYS: dict[str, Any] = {
    "features": FEATURES,
    "label": np.array([0, 1, 2, 0, 1, 2]),
    "name": np.array([f"clip é{i}" for i in range(6)]),
    "group": np.array([1, 1, 1, 2, 2, 2]),
    "classes": np.array(["run", "walk", "wave"]),
}


def save(folder: Path, kind: str, arrays: dict[str, Any]) -> Path:
    path = folder / f"foreign.{kind}"
    if kind == "npz":
        np.savez(path, **arrays)
        return path
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            text = isinstance(value, np.ndarray) and value.dtype.kind == "U"
            file[key] = value.astype(h5py.string_dtype()) if text else value
    return path


@pytest.mark.parametrize("kind", ["h5", "npz"])
@pytest.mark.parametrize("labels", ["integers", "text", "bytes"])
@pytest.mark.parametrize("classes", [True, False])
def test_arrays_become_clips(kind: str, labels: str, classes: bool, tmp_path: Path) -> None:
    names = ("wave", "run", "walk")  # not sorted: the order given is the order of the classes
    arrays = ARRAYS | {"classes": np.array(names)}
    texts = np.array([names[i] for i in ARRAYS["label"]])
    arrays["label"] = {"integers": ARRAYS["label"], "text": texts, "bytes": texts.astype("S")}[labels]
    source, out = save(tmp_path, kind, arrays), tmp_path / "out.h5"
    import_features(source, kind, KEYS if classes else replace(KEYS, classes=None), out)
    with open_cache(out) as cache:
        if classes:
            assert cache.classes == names
        else:
            assert cache.classes == (
                ("class0", "class1", "class2") if labels == "integers" else tuple(sorted(names))
            )
        if labels != "integers":
            assert [cache.classes[clip.label] for clip in cache.clips] == texts.tolist()
        else:
            assert [clip.label for clip in cache.clips] == ARRAYS["label"].tolist()
        assert [clip.name for clip in cache.clips] == ARRAYS["name"].tolist()
        assert [clip.group for clip in cache.clips] == ["1", "1", "1", "2", "2", "2"]
        assert cache.dtype() == np.float32
        np.testing.assert_array_equal(cache.read_all().reshape(FEATURES.shape), FEATURES)
        assert cache.read(2).frame_index.tolist() == [-1, -1, -1]
        assert set(cache.splits) == {"random", "group"}


@pytest.mark.parametrize("kind", ["h5", "npz"])
def test_one_row_a_clip_without_names_and_groups(kind: str, tmp_path: Path) -> None:
    source, out = save(tmp_path, kind, ARRAYS | {"features": FEATURES[:, 0].astype(">f2")}), tmp_path / "out.h5"
    import_features(source, kind, Keys("features", "label"), out)
    with open_cache(out) as cache:
        assert cache.lengths().tolist() == [1] * 6
        assert [clip.name for clip in cache.clips] == [f"clip{i:06d}" for i in range(6)]
        assert set(cache.splits) == {"random"}
        np.testing.assert_array_equal(cache.read_all(), FEATURES[:, 0].astype(np.float16))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no such key": ({"features": None}, "no array 'features'.*it holds: .*label"),
    "labels too few": ({"label": np.zeros(5, int)}, r"labels have shape \(5,\) for 6"),
    "groups too many": ({"group": np.zeros(7, int)}, "groups have shape"),
    "names twice": ({"name": np.array(["a"] * 6)}, "names are not unique"),
    "names with a zero byte": ({"name": np.array([f"a\0{i}" for i in range(6)], dtype="S3")}, "zero byte"),
    "names not utf-8": ({"name": np.array([b"\xff%d" % i for i in range(6)])}, "names are not utf-8"),
    "names that are fractions": ({"name": np.arange(6) / 2}, "names are float64"),
    "labels beyond the classes": ({"label": np.array([0, 1, 2, 3, 0, 1])}, "labels run from 0 to 3 for 3 classes"),
    "labels below zero": ({"label": np.array([-1, 1, 2, 0, 0, 1])}, "labels run from -1"),
    "labels that are fractions": ({"label": np.zeros(6)}, "labels are float64"),
    "label not among the classes": ({"label": np.array(["run"] * 5 + ["fly"])}, "label 'fly' is not among"),
    "a class twice": ({"classes": np.array(["run", "run", "walk"])}, "classes holds a name twice"),
    "classes of two axes": ({"classes": np.array([["run", "walk", "wave"]])}, "classes have shape"),
    "features of four axes": ({"features": np.zeros((6, 1, 1, 1))}, "expected floats of shape"),
    "features of integers": ({"features": np.zeros((6, 4), int)}, "expected floats of shape"),
    "no features": ({"features": np.zeros((6, 0))}, "expected floats of shape"),
    "no clips": ({"features": np.zeros((0, 4))}, "expected floats of shape"),
    "NaN": ({"features": np.where(np.arange(6)[:, None] == 4, np.nan, np.ones((6, 2)))}, "é4.*NaN or infinity"),
    "infinity": ({"features": np.full((6, 2), np.inf)}, "NaN or infinity"),
}


@pytest.mark.parametrize("kind", ["h5", "npz"])
@pytest.mark.parametrize("name", BAD)
def test_arrays_that_do_not_fit_are_refused(name: str, kind: str, tmp_path: Path) -> None:
    changes, match = BAD[name]
    arrays = {key: value for key, value in (ARRAYS | changes).items() if value is not None}
    source = save(tmp_path, kind, arrays)
    with pytest.raises(InputError, match=match) as caught:
        import_features(source, kind, KEYS, tmp_path / "out.h5")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.filterwarnings("ignore")
def test_pickled_arrays_are_refused_and_not_run(tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    arrays = ARRAYS | {"name": np.array([Payload(proof)] * 6, dtype=object)}
    with pytest.raises(InputError, match="'name'"):
        import_features(save(tmp_path, "npz", arrays), "npz", KEYS, tmp_path / "out.h5")
    np.save(tmp_path / "foreign.npy", arrays["name"], allow_pickle=True)
    with pytest.raises(InputError, match="not a readable npz"):
        import_features(tmp_path / "foreign.npy", "npz", KEYS, tmp_path / "out.h5")
    assert not proof.exists()


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", FEATURES)
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("features\n")
    for kind in ("h5", "npz"):
        whole = save(tmp_path, kind, ARRAYS).read_bytes()
        (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
        for name in ("a.npy", "empty", "text", "cut", "absent"):
            with pytest.raises(InputError) as caught:
                import_features(tmp_path / name, kind, KEYS, tmp_path / "out.h5")
            assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"a single array.*np\.savez"):
        import_features(tmp_path / "a.npy", "npz", KEYS, tmp_path / "out.h5")


def test_an_npz_member_that_is_damaged_is_refused(tmp_path: Path) -> None:
    source = save(tmp_path, "npz", ARRAYS)
    data = bytearray(source.read_bytes())
    data[400] ^= 255
    source.write_bytes(data)
    with pytest.raises(InputError, match=r"'features'.*cannot be read"):
        import_features(source, "npz", KEYS, tmp_path / "out.h5")


def test_an_existing_file_is_left_as_it_is(tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    out.write_text("mine")
    with pytest.raises(InputError, match="exists"):
        import_features(save(tmp_path, "npz", ARRAYS), "npz", KEYS, out)
    assert out.read_text() == "mine"


def test_links_to_other_files_are_not_followed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["features"] = FEATURES
    source = save(tmp_path, "h5", {key: value for key, value in ARRAYS.items() if key != "features"})
    with h5py.File(source, "r+") as file:
        file["features"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "features")
    with pytest.raises(InputError, match="no array 'features'"):
        import_features(source, "h5", KEYS, tmp_path / "out.h5")


def test_the_same_recipe_name_makes_two_files_of_one_kind(tmp_path: Path) -> None:
    first = save(tmp_path, "npz", ARRAYS)
    second = save(tmp_path, "npz", ARRAYS | {"features": FEATURES + 1}).rename(tmp_path / "second.npz")
    first = save(tmp_path, "npz", ARRAYS)
    fingerprints = {}
    for name, source, recipe in (("a", first, None), ("b", second, None), ("c", first, "x"), ("d", second, "x")):
        import_features(source, "npz", KEYS, tmp_path / f"{name}.h5", features_id=recipe)
        with open_cache(tmp_path / f"{name}.h5") as cache:
            fingerprints[name] = cache.fingerprint
    assert fingerprints["a"] != fingerprints["b"]
    assert fingerprints["c"] == fingerprints["d"]


def test_the_real_ucf101_features_import_with_the_protocols_split(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "ucf101_vgg16" / "ucf101_14cls_vgg16fc6_25f.h5"
    out = tmp_path / "ucf101.h5"
    import_features(source, "h5", KEYS, out, test_groups=tuple(str(group) for group in range(8, 15)))
    with h5py.File(source) as file, open_cache(out) as cache:
        groups = file["group"][:]
        roles = cache.split("listed").roles
        np.testing.assert_array_equal(roles, np.where((groups >= 8) & (groups <= 14), 2, 1))
        assert np.bincount(roles, minlength=3).tolist() == [0, 826, 515]
        assert cache.split("listed").leaking_groups == 0
        assert [clip.name for clip in cache.clips] == [name.decode() for name in file["name"]]
        assert cache.labels.tolist() == file["label"][:].tolist()
        assert cache.classes == tuple(name.decode() for name in file["classes"])
        for index in (0, 700, 1340):
            np.testing.assert_array_equal(cache.read(index).features, file["features"][index])
