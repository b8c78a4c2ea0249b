"""The rendered set: names as UCF11's own list has them, files as claimed, repeatable, and order that matters."""

from __future__ import annotations

import hashlib
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import render_actions
import single_frame_check
from render_actions import ACTIONS, RenderSettings, clip_plans, render
from stick_figures import pose, progress_curve

from harfeat.cache import CacheHead, ClipFeatures, ClipRow, single_stream, write_cache
from harfeat.errors import InputError
from harfeat.splits import TEST, TRAIN, fixed_split

TINY = RenderSettings(groups=2, clips=2, width=80, height=64, min_frames=5, max_frames=8)
PATTERN = re.compile(r"(\w+)/(v_[a-z_]+)_(\d\d)/\2_\3_(\d\d)\.(mpg|avi)")


@pytest.fixture(scope="module")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole set, as small as can be; tests only read it."""
    folder = tmp_path_factory.mktemp("rendered") / "set"
    render(TINY, folder, jobs=2)
    return folder


def videos(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and path.name != render_actions.STAMP_NAME)


def parsed(root: Path) -> list[re.Match[str]]:
    matches = [PATTERN.fullmatch(path.relative_to(root).as_posix()) for path in videos(root)]
    assert all(matches)
    return [match for match in matches if match]


def decoded(path: Path) -> np.ndarray:
    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def checksums(root: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in videos(root)}


def test_folders_and_prefixes_are_those_of_the_official_list(tiny_set: Path, shared_data: Path) -> None:
    official = (shared_data / "splits" / "ucf11" / "clips.txt").read_text().split()
    prefixes = {match[1]: match[2] for path in official if (match := PATTERN.fullmatch(path))}
    assert {match[1]: match[2] for match in parsed(tiny_set)}.items() <= prefixes.items()


def test_every_class_has_all_groups_and_clips(tiny_set: Path) -> None:
    counts = Counter((match[1], match[3]) for match in parsed(tiny_set))
    assert counts == {(action.folder, group): 2 for action in ACTIONS for group in ("01", "02")}
    full = clip_plans(RenderSettings())
    assert len({plan.path.with_suffix("") for plan in full}) == len(full) == 240


def test_both_codecs_are_equally_frequent_in_every_group() -> None:
    suffixes = Counter((plan.path.parent, plan.path.suffix) for plan in clip_plans(RenderSettings()))
    assert set(suffixes.values()) == {2}
    assert len(suffixes) == 2 * len(ACTIONS) * 10


def test_files_are_what_their_suffix_says(tiny_set: Path) -> None:
    for path in videos(tiny_set):
        with av.open(path) as container:
            stream = container.streams.video[0]
            found = (container.format.name, stream.codec_context.name)
            assert (stream.width, stream.height) == (TINY.width, TINY.height)
            if path.suffix == ".avi":
                assert found == ("avi", "mpeg4")
                assert stream.codec_context.codec_tag == "XVID"
            else:
                assert found == ("mpeg", "mpeg1video")
        assert TINY.min_frames <= len(decoded(path)) <= TINY.max_frames


def test_both_kinds_of_clip_have_b_frames(tmp_path: Path) -> None:
    settings = replace(TINY, min_frames=12, max_frames=12)
    kinds: dict[str, set[str]] = {".mpg": set(), ".avi": set()}
    for plan in clip_plans(replace(settings, groups=2))[:4]:
        path = tmp_path / plan.path
        render_actions.encode_clip(settings, plan, path)
        with av.open(path) as container:
            kinds[path.suffix] |= {PictureType(frame.pict_type).name for frame in container.decode(video=0)}
    assert kinds == {".mpg": {"I", "P", "B"}, ".avi": {"I", "P", "B"}}


def test_the_same_seed_gives_the_same_bytes_and_frames(tiny_set: Path, tmp_path: Path) -> None:
    render(TINY, tmp_path / "set", jobs=1)
    for path in videos(tiny_set):
        again = tmp_path / "set" / path.relative_to(tiny_set)
        np.testing.assert_array_equal(decoded(again), decoded(path))
        assert again.read_bytes() == path.read_bytes()


def test_another_seed_gives_other_frames(tiny_set: Path, tmp_path: Path) -> None:
    plan = clip_plans(TINY)[0]
    render_actions.encode_clip(replace(TINY, seed=1), plan, tmp_path / "clip.mpg")
    assert not np.array_equal(decoded(tmp_path / "clip.mpg")[0], decoded(tiny_set / plan.path)[0])


def test_a_second_run_changes_nothing(tiny_set: Path) -> None:
    before = checksums(tiny_set), {path: path.stat().st_mtime_ns for path in videos(tiny_set)}
    assert render(TINY, tiny_set, jobs=1) == 0
    assert (checksums(tiny_set), {path: path.stat().st_mtime_ns for path in videos(tiny_set)}) == before


def test_an_interrupted_run_is_completed(tmp_path: Path) -> None:
    root = tmp_path / "set"
    render(TINY, root, jobs=1)
    whole = checksums(root)
    lost = videos(root)[3]
    lost.rename(lost.with_name(f".{lost.name}.part"))
    assert render(TINY, root, jobs=1) == 1
    assert checksums(root) == whole


def test_a_folder_of_other_settings_or_other_files_is_refused(tiny_set: Path, tmp_path: Path) -> None:
    before = checksums(tiny_set)
    with pytest.raises(InputError, match="other settings"):
        render(replace(TINY, seed=5), tiny_set)
    assert checksums(tiny_set) == before
    (tmp_path / "holiday.mpg").touch()
    with pytest.raises(InputError, match="something else"):
        render(TINY, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.mpg"]


@pytest.mark.parametrize(
    "arguments", [["--clips", "3"], ["--groups", "0"], ["--size", "161x120"], ["--size", "big"], ["--seed", "-1"]]
)
def test_wrong_settings_end_with_one_line_and_exit_code_2(arguments: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(render_actions.main, ["--out", str(tmp_path / "set"), *arguments])
    assert result.exit_code == 2
    assert result.output.startswith("error: ")
    assert result.output.count("\n") == 1
    assert not (tmp_path / "set").exists()


def test_every_motion_is_shown_forwards_by_one_class_and_backwards_by_another() -> None:
    assert set(Counter((action.motion, action.reverse) for action in ACTIONS).values()) == {1}
    assert {(action.motion, not action.reverse) for action in ACTIONS} == {
        (action.motion, action.reverse) for action in ACTIONS
    }


@pytest.mark.parametrize("seed", range(20))
def test_a_clip_shows_nearly_the_whole_motion_in_one_direction(seed: int) -> None:
    curve = progress_curve(40, np.random.default_rng(seed))
    assert (np.diff(curve) >= 0).all()
    assert 0 <= curve[0] < 0.09
    assert 0.91 < curve[-1] <= 1


def test_motions_are_what_their_classes_promise() -> None:
    def heights(motion: str) -> list[float]:
        spans = []
        for progress in (0.0, 0.5, 1.0):
            joints, scale = pose(motion, progress, 0.0)
            spans.append(float(np.ptp([point[1] for point in joints.values()])) * scale)
        return spans

    approach, tip, stretch = heights("approach"), heights("tip"), heights("stretch")
    assert approach[0] < approach[1] < approach[2]
    assert tip[0] > tip[1] > tip[2]
    assert stretch[0] < stretch[1] < stretch[2]
    assert approach[2] > 2.5 * approach[0]
    assert tip[0] > 3 * tip[2]
    assert stretch[2] > 1.6 * stretch[0]


def order_cache(path: Path, ordered: bool) -> None:
    """160 clips of two classes and 8 frames: a ramp up or down (`ordered`), or a constant offset by class."""
    rng = np.random.default_rng(0)
    labels = np.arange(160) % 2
    ramp = np.linspace(-1, 1, 8)[None, :] * (1 - 2 * labels[:, None])
    signal = ramp if ordered else np.repeat(labels[:, None] * 2.0, 8, axis=1)
    features = rng.normal(0, 0.3, size=(160, 8, 6)).astype(np.float32)
    features[:, :, 2] += signal
    rows = [ClipRow(f"clip{clip}", int(label), f"g{clip // 8:02d}") for clip, label in enumerate(labels)]
    roles = np.where(np.arange(160) < 96, TRAIN, TEST)
    split = fixed_split("group", roles.tolist(), [row.group for row in rows], "by group")
    head = CacheHead({"made": "up"}, ("down", "up"), rows, (split,))
    clips = (ClipFeatures(frames, np.arange(8, dtype=np.int32)) for frames in features)
    write_cache(path, head, *single_stream([8] * 160, clips, 6, np.float32))


def test_order_free_classifiers_see_offsets_but_not_the_direction_of_time(tmp_path: Path) -> None:
    results = {}
    for ordered in (False, True):
        path = tmp_path / f"{ordered}.h5"
        order_cache(path, ordered)
        train, test = (single_frame_check.read_clips(path, "group", role) for role in ("train", "test"))
        results[ordered] = single_frame_check.order_free_accuracies(train, test)
    assert min(results[False].values()) > 0.95
    assert max(results[True].values()) < 0.75


def test_the_check_names_the_splits_that_exist(tmp_path: Path) -> None:
    order_cache(tmp_path / "cache.h5", ordered=True)
    result = CliRunner().invoke(
        single_frame_check.main, ["--features", str(tmp_path / "cache.h5"), "--split", "random"]
    )
    assert result.exit_code == 2
    assert result.output.startswith("error: ")
    assert "this cache has: group" in result.output
