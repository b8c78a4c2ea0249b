"""`harfeat verify`: every kind of damage and of doubtful content is told by name, and nothing sound is accused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cache_mutants
import h5py
import numpy as np
import pytest
from caches import made_up_cache, without_groups
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from videos import Recipe, make_video

from harfeat.cache import (
    CacheHead,
    ClipFeatures,
    ClipRow,
    Failure,
    guard,
    open_cache,
    single_stream,
    write_cache,
)
from harfeat.cache.manifest import read_manifest
from harfeat.cache.packing import write_packed
from harfeat.cli import main
from harfeat.deviation import deviation
from harfeat.errors import InputError
from harfeat.findings import OK, PROBLEM, WARNING, Finding
from harfeat.pipeline import extract
from harfeat.redecode import choose, redecode
from harfeat.sampling import SamplingSettings
from harfeat.settings import ExtractSettings
from harfeat.splits import Split, fixed_split
from harfeat.verify import verify


def findings(path: Path) -> list[Finding]:
    return list(verify(path, progress=False))


def problems(path: Path) -> list[str]:
    return [f"{one.check}: {one.text}" for one in findings(path) if one.level == PROBLEM]


def warnings(path: Path) -> list[str]:
    return [f"{one.check}: {one.text}" for one in findings(path) if one.level == WARNING]


def harfeat(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of two clips, each another picture."""
    root = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(("jump/g1", "jump/g2", "run/g1", "run/g2")):
        (root / name).parent.mkdir(exist_ok=True)
        recipe = Recipe("clip", ".avi", "mjpeg", frames=5 + number, pix_fmt="yuvj420p")
        make_video((root / name).parent, recipe).rename(root / f"{name}.avi")
    return root


@pytest.fixture(scope="module")
def extracted(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("extracted") / "x.h5"
    sampling = SamplingSettings(frames=3, views=1)
    made = ExtractSettings("folder", videos, out, "test_vit", "none", sampling, device="cpu", workers=0)
    extract(made, progress=False)
    return out


def test_a_sound_cache_is_found_sound_by_every_check(extracted: Path, tmp_path: Path) -> None:
    assert problems(extracted) == []
    assert warnings(extracted) == []
    checks = {one.check for one in findings(extracted) if one.level == OK}
    assert checks >= {"structure", "hashes", "values", "frames", "labels", "copies", "failures"}
    folder = cache_mutants.make_folder(tmp_path / "shards")
    assert problems(folder) == []
    assert str(findings(folder)[0]) == "ok       files: 3, each with the SHA-256 that manifest.json states"
    with open_cache(folder) as cache:
        assert any(cache.content in one.text for one in findings(folder))


def test_every_damaged_clip_is_named_and_not_the_first_alone(tmp_path: Path) -> None:
    path = made_up_cache(tmp_path / "x.h5")
    with h5py.File(path, "r+") as file:
        rows = file["streams/rgb/features"]
        offsets = file["streams/rgb/offsets"][:]
        for clip in (1, 4, 7):
            rows[offsets[clip], 0] += 1.0
        names = [name.decode() for name in file["clips/name"][:]]
    (found,) = problems(path)
    assert found.startswith("hashes: x.h5: streams/rgb: 3 of 30 clips do not match their hash")
    assert all(names[clip] in found for clip in (1, 4, 7))
    result = harfeat("verify", path)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1] == f"{path}: 1 PROBLEMS"


def test_shards_of_a_damaged_folder_are_all_looked_at(tmp_path: Path) -> None:
    folder = cache_mutants.make_folder(tmp_path / "shards")
    first, second = (folder / entry.name for entry in read_manifest(folder).of_kind("shard"))
    with h5py.File(first, "r+") as file:
        file["streams/rgb/features"][0, 0] += 1.0
    second.unlink()
    found = problems(folder)
    assert f"{second.name} is missing" in found[0]
    assert f"{first.name} has another SHA-256" in found[0]
    assert found[1].startswith(f"structure: {second}: is missing")
    assert found[2].startswith(f"hashes: {first.name}: streams/rgb: 1 of 2 clips do not match")
    (folder / "manifest.json").write_text("{")
    assert problems(folder) == [f"manifest: {folder}/manifest.json: is not JSON: file damaged"]


def test_a_file_nobody_lists_is_noted(tmp_path: Path) -> None:
    folder = cache_mutants.make_folder(tmp_path / "shards")
    (folder / "mine.h5").write_bytes(b"x")
    assert any("1 that manifest.json does not list are not used: mine.h5" in one.text for one in findings(folder))


def test_values_that_are_not_finite_are_a_problem(tmp_path: Path) -> None:
    def broken(rows: list[ClipRow], features: list[np.ndarray]) -> tuple[list[ClipRow], list[np.ndarray]]:
        features[2][0, 0], features[3][1, 1] = np.nan, np.inf
        return rows, features

    path = made_up_cache(tmp_path / "x.h5", change=broken)
    (found,) = problems(path)
    assert found.startswith("values: x.h5: streams/rgb: 2 of 30 clips hold NaN or infinity: v_0_1_0, v_0_1_1")


def rewritten(source: Path, out: Path, change: Callable[[CacheHead], CacheHead], shift: int = 0) -> Path:
    """A cache with another head and right hashes; `shift` is added to the frame indices of the first clip."""
    with open_cache(source) as cache:
        head = change(cache.head)
        clips = [cache.read_streams(index) for index in range(len(cache.clips))]
        layouts = {stream: cache.layout(stream) for stream in cache.streams}
    first = {
        stream: ClipFeatures(one.features, one.frame_index + shift if stream == "rgb" else one.frame_index)
        for stream, one in clips[0].items()
    }
    write_cache(out, head, layouts, [first, *clips[1:]])
    return out


def test_frames_other_than_the_rule_gives_are_a_problem(extracted: Path, tmp_path: Path) -> None:
    shifted = rewritten(extracted, tmp_path / "shifted.h5", lambda head: head, shift=-1)
    (found,) = problems(shifted)
    assert "streams/rgb: 1 of 4 clips have other frames than the rule of the sampling gives: jump/g1.avi" in found
    outside = rewritten(extracted, tmp_path / "outside.h5", lambda head: head, shift=9)
    assert "1 of 4 clips have frame indices outside of their video: jump/g1.avi" in problems(outside)[0]

    def other_sampling(head: CacheHead) -> CacheHead:
        told: dict[str, Any] = json.loads(json.dumps(dict(head.recipe)))
        told["sampling"]["stride"] = 4
        return replace(head, recipe=told)

    lied = rewritten(extracted, tmp_path / "lied.h5", other_sampling)
    why = "a recipe that no settings of this version give: file altered, or newer"
    assert warnings(lied) == [f"frames: sampling: {why}"]


def cache_with(path: Path, rows: Sequence[ClipRow], split: Split, failures: Sequence[Failure] = ()) -> Path:
    head = CacheHead({"kind": "import"}, ("a", "b", "c"), rows, (split,), failures)
    clips = (ClipFeatures(np.full((1, 2), index, np.float32), np.zeros(1)) for index in range(len(rows)))
    write_cache(path, head, *single_stream([1] * len(rows), clips, 2, np.float32))
    return path


ROWS = [ClipRow(f"c{i}", i % 2, f"g{i}", sha256=f"{i}" * 64) for i in range(4)]
GROUPS = [row.group for row in ROWS]


def test_doubtful_labels_groups_and_splits_are_warned_of(tmp_path: Path) -> None:
    sound = fixed_split("s", [1, 1, 2, 2], GROUPS, "by hand")
    path = cache_with(tmp_path / "sound.h5", ROWS, sound)
    assert warnings(path) == []
    assert any("1 classes have no clip: c" in one.text for one in findings(path))
    for number, (rows, roles, expected) in enumerate(
        (
            (ROWS, [1, 1, 1, 1], ["split s: no clip in test"]),
            (ROWS, [0, 0, 0, 0], ["split s: no clip in train and none in test"]),
            (ROWS, [1, 2, 1, 2], ["split s: 1 classes are tested but not trained: b"]),
            (
                [replace(row, group="same") for row in ROWS],
                [1, 1, 2, 2],
                ["split s: 1 groups have clips in both train and test, which overstates accuracy: same"],
            ),
            (
                [replace(row, sha256="f" * 64) if row.name in "c0 c2" else row for row in ROWS],
                [1, 1, 2, 2],
                ["split s: 1 times the same video on both sides, train and test: c0 = c2"],
            ),
            (
                [replace(row, group="" if row.name == "c1" else row.group) for row in ROWS],
                [1, 1, 2, 2],
                ["groups: 1 clips have none, though others have: c1"],
            ),
            (
                [replace(row, group=" g1" if row.name == "c1" else row.group) for row in ROWS],
                [1, 1, 2, 2],
                ["groups: 1 names have odd characters: ' g1'"],
            ),
        )
    ):
        split = fixed_split("s", roles, [row.group for row in rows], "by hand")
        path = cache_with(tmp_path / f"{number}.h5", rows, split)
        assert warnings(path) == expected
        assert problems(path) == []
        assert harfeat("verify", path).exit_code == 0
        assert harfeat("verify", "--strict", path).exit_code == 1


def test_features_tell_copies_where_there_are_no_videos(tmp_path: Path) -> None:
    def twice(rows: list[ClipRow], features: list[np.ndarray]) -> tuple[list[ClipRow], list[np.ndarray]]:
        features[-1] = features[0].copy()
        return without_groups(rows, features)

    path = made_up_cache(tmp_path / "x.h5", change=twice, lengths=(3,))
    assert warnings(path) == [
        "split held: 1 times the same features on both sides, train and test: v_0_0_0 = v_2_4_1"
    ]


def test_missing_clips_are_told_and_a_clip_cannot_be_both(tmp_path: Path) -> None:
    split = fixed_split("s", [1, 1, 2, 2], GROUPS, "by hand")
    path = cache_with(tmp_path / "x.h5", ROWS, split, [Failure("c0", "empty"), Failure("c9", "cut\nshort")])
    assert problems(path) == ["failures: 1 clips are both there and told as failed: c0"]
    result = harfeat("verify", path)
    assert "warning  failures: 2 clips of the data set are missing: c0 (empty), c9 (cut\\nshort)" in result.stdout
    assert result.exit_code == 1


def test_what_is_no_cache_is_a_problem_and_what_is_absent_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_text("text")
    result = harfeat("verify", tmp_path / "x.h5")
    assert result.exit_code == 1
    assert result.stdout.startswith(f"problem  structure: {tmp_path}/x.h5: not a readable HDF5 file")
    assert harfeat("verify", tmp_path / "y.h5").exit_code == 2
    assert harfeat("verify", tmp_path / "x.h5", "--decode", "3").exit_code == 2


def test_every_file_is_tried_in_another_process_first(
    extracted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(extracted, tmp_path / "x.h5"))
    (tmp_path / "sitecustomize.py").write_text("import os\nos._exit(9)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (found,) = problems(path)
    assert found.startswith(f"structure: {path}: crashes the HDF5 library (exit code 9)")
    monkeypatch.undo()
    monkeypatch.setattr(guard, "SECONDS", 0.0)
    assert "hangs the HDF5 library" in problems(path)[0]


# Extracting again.


def again(path: Path, root: Path, count: int = 4, **options: Any) -> list[Finding]:
    with open_cache(path) as cache:
        return list(redecode(cache, root, count, progress=False, **options))


def test_clips_come_out_bit_for_bit_again(extracted: Path, videos: Path) -> None:
    assert [str(one) for one in again(extracted, videos)] == [
        "ok       decode: 4 of 4 clips come out bit for bit equal"
    ]
    result = harfeat("verify", extracted, "--decode", 2, "--root", videos, "--seed", 3)
    assert result.exit_code == 0, result.output
    assert "decode: 2 of 2 clips come out bit for bit equal" in result.stdout


def test_videos_that_changed_or_went_are_told(extracted: Path, videos: Path, tmp_path: Path) -> None:
    root = shutil.copytree(videos, tmp_path / "videos")
    (root / "jump" / "g1.avi").unlink()
    shutil.copy(root / "run" / "g1.avi", root / "run" / "g2.avi")
    found = [str(one) for one in again(extracted, root)]
    assert found == [
        f"problem  decode: 1 of 4 clips are not below {root}: jump/g1.avi",
        "problem  decode: 1 of 4 videos are not the ones that were extracted: run/g2.avi",
        "ok       decode: 2 of 2 clips come out bit for bit equal",
    ]


def test_features_that_are_not_the_videos_are_found_though_all_hashes_match(
    extracted: Path, videos: Path, tmp_path: Path
) -> None:
    with open_cache(extracted) as cache:
        clips = [cache.read_streams(index) for index in range(4)]
        layouts = {stream: cache.layout(stream) for stream in cache.streams}
        head = cache.head
    generator = np.random.default_rng(0)
    noise = clips[0]["rgb"].features * (1 + generator.normal(size=clips[0]["rgb"].features.shape) * 1e-3)
    clips[0]["rgb"] = replace(clips[0]["rgb"], features=noise.astype(np.float16))
    clips[1]["rgb"] = replace(clips[1]["rgb"], features=-clips[1]["rgb"].features)
    clips[3]["rgb-view-1"] = replace(clips[3]["rgb-view-1"], frame_index=np.zeros(3, np.int32))
    write_cache(tmp_path / "forged.h5", head, layouts, clips)
    found = {one.text.split(":")[0].split(" (")[0]: one for one in again(tmp_path / "forged.h5", videos)}
    assert found["1 of 4 clips have other frames"].text.endswith(": run/g2.avi")
    assert found["1 of 4 clips have other features"].text.endswith(": jump/g2.avi")
    near = found["1 of 4 clips have the same frames and nearly the same features"]
    assert near.level == WARNING
    assert found["1 of 4 clips come out bit for bit equal"].level == OK


@pytest.mark.parametrize(
    ("place", "value", "match"),
    [
        (("settings", "dataset"), "../x", "--dataset"),
        (("settings", "dataset"), 3, "dataset"),
        (("settings", "batch"), 10**12, "batch"),
        (("settings", "batch"), True, "batch"),
        (("settings", "weights"), "/etc/passwd", "was made with the weights file passwd; name it with --weights"),
        (("recipe", "sampling"), [], "sampling"),
        (("recipe", "sampling", "views"), "many", "sampling"),
        (("recipe", "sampling", "views"), {"count": "many"}, "sampling"),
        (("recipe", "sampling", "colour"), 1, "sampling"),
        (("recipe", "sampling", "rule"), None, "sampling"),
        (("settings",), None, "settings of the extraction"),
        (("recipe", "model"), "test_vit2", "cannot be made again here: weights"),
        (("recipe", "weights"), "0" * 64, "cannot be made again here: weights: '000"),
        (("recipe", "precision"), "int4", "precision"),
        (("recipe", "dtype"), "int8", "--dtype"),
        (("recipe", "kind"), "import", "were not extracted from videos"),
    ],
)
def test_a_provenance_that_cannot_be_followed_is_one_line(
    place: tuple[str, ...], value: Any, match: str, extracted: Path, videos: Path, tmp_path: Path
) -> None:
    def change(head: CacheHead) -> CacheHead:
        told: dict[str, Any] = json.loads(json.dumps({**head.provenance, "recipe": head.recipe}))
        owner = told
        for key in place[:-1]:
            owner = owner[key]
        owner[place[-1]] = value
        return replace(head, recipe=told.pop("recipe"), provenance=told)

    path = rewritten(extracted, tmp_path / "x.h5", change)
    with pytest.raises(InputError, match=match) as caught:
        again(path, videos)
    assert "\n" not in str(caught.value)


def test_another_decoder_is_told_and_compared_by_cosine(extracted: Path, videos: Path, tmp_path: Path) -> None:
    def older(head: CacheHead) -> CacheHead:
        recipe: dict[str, Any] = json.loads(json.dumps(dict(head.recipe)))
        recipe["decoder"]["policy"] = 0
        return replace(head, recipe=recipe)

    path = rewritten(extracted, tmp_path / "x.h5", older)
    found = again(path, videos)
    assert "compared by cosine, since here decoder.policy: 0 against " in found[0].text
    assert found[1].text == "4 of 4 clips come out bit for bit equal"


def test_an_imported_cache_has_nothing_to_decode(videos: Path, tmp_path: Path) -> None:
    path = made_up_cache(tmp_path / "x.h5")
    result = harfeat("verify", path, "--decode", 2, "--root", videos)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith(
        f"harfeat: {path}: its features were not extracted from videos"
    )


@given(st.lists(st.integers(-1, 5), min_size=1, max_size=40), st.integers(1, 50), st.none() | st.integers(0, 9))
def test_chosen_clips_are_distinct_and_even_over_the_classes(
    labels: list[int], count: int, seed: int | None
) -> None:
    chosen = choose(np.array(labels), count, seed)
    assert len(chosen) == len(set(chosen)) == min(count, len(labels))
    taken = {label: sum(labels[index] == label for index in chosen) for label in set(labels)}
    most = max(taken.values())
    assert all(number >= most - 1 or number == labels.count(label) for label, number in taken.items())
    assert choose(np.array(labels), count, seed) == chosen


def test_deviation_is_that_of_the_worst_row() -> None:
    ours = np.array([[1, 0], [0, 2], [0, 0]], np.float16)
    theirs = np.array([[1, 0], [2, 2], [0, 0]], np.float16)
    found = deviation(ours, theirs)
    assert found.largest == 2
    assert found.cosine == pytest.approx(np.sqrt(0.5))
    assert deviation(ours, ours).cosine == 1
    assert deviation(ours, np.zeros((3, 2))).cosine == 0


def test_a_packed_copy_of_a_repacked_file_is_verified_too(tmp_path: Path) -> None:
    """Compressed and in HDF5's old format: read by HDF5, in the other process first."""
    cache_mutants.prepare(tmp_path)
    assert problems(tmp_path / "old.h5") == []
    with open_cache(tmp_path / "old.h5") as cache:
        write_packed(cache, tmp_path / "again.h5")
        assert problems(tmp_path / "again.h5") == []
