"""`harfeat diff`: equal caches are told in a line, and of others every difference, with its size."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cache_mutants
import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result

from harfeat.cache import CacheHead, ClipFeatures, ClipRow, Failure, open_cache, single_stream, write_cache
from harfeat.cli import main
from harfeat.differences import Difference, differences
from harfeat.splits import fixed_split

RECIPE: dict[str, Any] = {"kind": "video", "sampling": {"rule": "uniform", "frames": 4}}
ROWS = tuple(ClipRow(f"c{i}", i % 2, f"g{i}", 20, 25.0, f"h{i}") for i in range(4))
FEATURES = tuple(np.random.default_rng(i).normal(size=(3, 8)).astype(np.float32) for i in range(4))
SPLIT = fixed_split("1", [1, 1, 2, 2], [row.group for row in ROWS], "by hand")
HEAD = CacheHead(RECIPE, ("a", "b"), ROWS, (SPLIT,), (Failure("c9", "empty"),), {"versions": {"torch": "2"}})


def write(path: Path, head: CacheHead = HEAD, features: tuple[np.ndarray, ...] = FEATURES, shift: int = 0) -> Path:
    clips = [ClipFeatures(values, np.arange(len(values)) + shift) for values in features]
    lengths = [len(values) for values in features]
    write_cache(path, head, *single_stream(lengths, clips, features[0].shape[1], features[0].dtype))
    return path


def compare(a: Path, b: Path) -> Difference:
    with open_cache(a) as one, open_cache(b) as two:
        return differences(one, two)


def harfeat(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["diff", *(str(argument) for argument in arguments)])


@pytest.fixture
def a(tmp_path: Path) -> Path:
    return write(tmp_path / "a.h5")


def test_a_folder_and_its_packed_file_are_equal(tmp_path: Path) -> None:
    cache_mutants.prepare(tmp_path)
    result = harfeat(tmp_path / "shards", tmp_path / "packed.h5")
    assert result.exit_code == 0
    with open_cache(tmp_path / "packed.h5") as cache:
        assert result.stdout.splitlines()[2:] == [f"equal content {cache.content}"]
    other = harfeat(tmp_path / "packed.h5", tmp_path / "other.h5")
    assert other.exit_code == 1
    assert "features of rgb: 4 of 4 common clips differ" in other.stdout


def test_another_provenance_is_told_and_is_no_difference_of_content(a: Path, tmp_path: Path) -> None:
    b = write(tmp_path / "b.h5", replace(HEAD, provenance={"versions": {"torch": "3"}}))
    result = harfeat(a, b)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[3:] == ["provenance versions.torch: '2' against '3'"]


def _row(index: int, **changes: Any) -> Callable[[CacheHead], CacheHead]:
    return lambda head: replace(
        head, clips=[replace(row, **changes) if place == index else row for place, row in enumerate(head.clips)]
    )


CHANGES: dict[str, tuple[Callable[[CacheHead], CacheHead], list[str]]] = {
    "recipe": (
        lambda head: replace(head, recipe={**RECIPE, "sampling": {"rule": "uniform", "frames": 8}}),
        ["recipe sampling.frames: 4 against 8"],
    ),
    "class": (lambda head: replace(head, classes=("a", "z")), ["class b: in A only", "class z: in B only"]),
    "order of classes": (
        lambda head: replace(
            head, classes=("b", "a"), clips=[replace(row, label=1 - row.label) for row in head.clips]
        ),
        ["class the same, in another order"],
    ),
    "label": (_row(1, label=0), ["clips with another label: 1: c1"]),
    "group": (_row(2, group="x\ny"), ["clips with another group: 1: c2"]),
    "video": (_row(3, sha256="other"), ["clips with another sha256: 1: c3"]),
    "frames": (_row(0, source_frames=19), ["clips with another source_frames: 1: c0"]),
    "rate": (_row(0, fps=float("nan")), ["clips with another fps: 1: c0"]),
    "name": (_row(0, name="c\x1b[31m"), ["clips in A only: 1: c0", "clips in B only: 1: c\\x1b[31m"]),
    "roles": (
        lambda head: replace(head, splits=(replace(SPLIT, roles=np.array([1, 2, 2, 2], np.int8)),)),
        ["split 1: 1 of 4 clips have another role"],
    ),
    "rule": (
        lambda head: replace(head, splits=(replace(SPLIT, rule="by foot", seed=3),)),
        ["split 1.rule: 'by hand' against 'by foot'", "split 1.seed: None against 3"],
    ),
    "split": (
        lambda head: replace(head, splits=(replace(SPLIT, name="2"),)),
        ["split 1: in A only", "split 2: in B only"],
    ),
    "reason": (
        lambda head: replace(head, failures=(Failure("c9", "full"), Failure("c8", "cut"))),
        ["failure c8: failed in B only (cut)", "failure c9: 'empty' against 'full'"],
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_difference_is_named_and_no_other(name: str, a: Path, tmp_path: Path) -> None:
    change, expected = CHANGES[name]
    b = write(tmp_path / "b.h5", change(HEAD))
    result = harfeat(a, b)
    assert result.exit_code == 1
    lines = [line for line in result.stdout.splitlines()[3:] if not line.startswith("features of")]
    if name == "class":  # what was of class b is of class z now
        lines.remove("clips with another label: 2: c1, c3")
    assert lines == expected


def test_the_order_of_clips_is_told_and_features_follow_the_names(a: Path, tmp_path: Path) -> None:
    turned = replace(HEAD, clips=ROWS[::-1], splits=(replace(SPLIT, roles=SPLIT.roles[::-1]),))
    found = compare(a, write(tmp_path / "b.h5", turned, FEATURES[::-1]))
    assert found.order
    assert found.streams["rgb"].differing == 0
    assert (found.splits, found.clips) == ((), {})


def test_the_size_of_a_deviation_is_over_the_clips_that_differ(a: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(7).normal(size=(2, 3, 8)).astype(np.float32) * 0.1
    changed = (FEATURES[0] + noise[0], FEATURES[1], FEATURES[2] + noise[1], FEATURES[3])
    stream = compare(a, write(tmp_path / "b.h5", features=changed)).streams["rgb"]
    rows = np.concatenate([changed[0], changed[2]]).astype(float)
    before = np.concatenate([FEATURES[0], FEATURES[2]]).astype(float)
    cosines = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(rows, before, strict=True)]
    assert (stream.differing, stream.of, stream.first, stream.frames) == (2, 4, ("c0", "c2"), 0)
    assert stream.largest == pytest.approx(np.abs(rows - before).max())
    assert stream.mean == pytest.approx(np.abs(rows - before).mean())
    assert stream.least_cosine == pytest.approx(min(cosines))
    assert stream.mean_cosine == pytest.approx(np.mean(cosines))


def test_other_shapes_types_and_frames_are_told(a: Path, tmp_path: Path) -> None:
    wider = write(tmp_path / "wider.h5", features=tuple(np.ones((3, 9), np.float32) for _ in FEATURES))
    assert "stream rgb: 8 float32 against 9 float32" in harfeat(a, wider).stdout
    assert "no two of one shape" in harfeat(a, wider).stdout
    halves = compare(a, write(tmp_path / "half.h5", features=tuple(f.astype(np.float16) for f in FEATURES)))
    assert halves.layouts == ("rgb: 8 float32 against 8 float16",)
    assert 0.999 < halves.streams["rgb"].least_cosine < 1
    moved = compare(a, write(tmp_path / "moved.h5", shift=1)).streams["rgb"]
    assert (moved.differing, moved.frames, moved.largest) == (4, 4, 0.0)


def test_json_holds_everything(a: Path, tmp_path: Path) -> None:
    b = write(tmp_path / "b.h5", replace(HEAD, classes=("a", "z")))
    found = json.loads(harfeat(a, b, "--json").stdout)
    assert found["equal_content"] is False
    assert found["clips"] == {"label": ["c1", "c3"]}
    assert found["streams"]["rgb"]["of"] == 4
    assert json.loads(harfeat(a, a, "--json").stdout)["equal_content"] is True


def test_what_cannot_be_read_is_an_error_and_what_is_damaged_is_counted(a: Path, tmp_path: Path) -> None:
    assert harfeat(a, tmp_path / "absent.h5").exit_code == 2
    b = write(tmp_path / "b.h5", features=tuple(values + 1 for values in FEATURES))
    with h5py.File(b, "r+") as file:
        file["streams/rgb/features"][0, 0] = 7
    assert compare(a, b).streams["rgb"].unreadable == 1
    assert "1 are damaged (see harfeat verify)" in harfeat(a, b).stdout
