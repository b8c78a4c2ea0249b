"""From video files to a cache: right features, nothing lost by a kill, bad clips told and passed over."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from processes import grandchildren, running, wait_for
from timm.data import create_transform, resolve_model_data_config
from videos import Recipe, make_video, numbered_frame, write_video

from harfeat.backbone import Backbone
from harfeat.cache import Failure, folder, open_cache
from harfeat.cache.manifest import Manifest, read_manifest
from harfeat.cli import main
from harfeat.datasets import load_dataset
from harfeat.decode import pool
from harfeat.decode.worker import Prepared, run
from harfeat.errors import InputError
from harfeat.pipeline import ExtractResult, extract
from harfeat.preprocess import TransformConfig
from harfeat.sampling import SamplingSettings
from harfeat.settings import ExtractSettings

MODEL = "test_vit"
MPEG1 = Recipe("clip", ".mpg", "mpeg1video", b_frames=2, options=(("g", "12"),), container="mpeg")


def make_clip(path: Path, frames: int, start: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, [numbered_frame(start + 3 * i, 48, 64) for i in range(frames)], MPEG1)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 clips in UCF11's layout: 3 classes, 2 groups each, of 2 to 26 frames."""
    root = tmp_path_factory.mktemp("ucf11")
    for index in range(12):
        name, group, clip = ("biking", "diving", "swing")[index // 4], index // 2 % 2 + 1, index % 2 + 1
        folder = f"v_{name}_{group:02d}"
        make_clip(root / name / folder / f"{folder}_{clip:02d}.mpg", (9, 2, 26, 14)[index % 4], 10 * index)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy of the 12 clips that a test may spoil."""
    return shutil.copytree(made, tmp_path / "videos")


def settings(root: Path, out: Path, **changes: Any) -> ExtractSettings:
    plain = ExtractSettings(
        "ucf11",
        root,
        out,
        MODEL,
        "none",
        SamplingSettings(frames=changes.pop("frames", 4)),
        workers=0,
        device="cpu",
        precision="float32",
        batch=8,
    )
    return replace(plain, **changes)


def go(root: Path, out: Path, **changes: Any) -> ExtractResult:
    return extract(settings(root, out, **changes), progress=False)


def content(path: Path) -> dict[str, Any]:
    """Every data set and the split attributes, by plain h5py."""
    found: dict[str, Any] = {}

    def visit(name: str, item: h5py.HLObject) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[...].tobytes(), item.shape, str(item.dtype), sorted(map(str, item.attrs.items()))

    with h5py.File(path) as file:
        file.visititems(visit)
        found["fingerprint"] = file.attrs["fingerprint"]
    return found


@pytest.fixture(scope="session")
def whole(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of the 12 clips, made in one go."""
    out = tmp_path_factory.mktemp("whole") / "cache.h5"
    go(made, out)
    assert [path.name for path in out.parent.iterdir()] == ["cache.h5"]
    return out


def by_hand(path: Path, frames: int) -> tuple[np.ndarray, list[int], int]:
    """Features of one clip alone, with PyAV, timm and torch only."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: Any = timm.create_model(MODEL, pretrained=False, num_classes=0).eval()
    transform = create_transform(**resolve_model_data_config(network), is_training=False)
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    length = len(pictures)
    indices = [int(np.floor((k + 0.5) * length / frames)) for k in range(frames)]
    with torch.inference_mode():
        inputs = torch.stack([transform(Image.fromarray(pictures[i])) for i in indices])
        return network(inputs).numpy(), indices, length


def test_a_cache_holds_what_each_clip_gives_by_hand(made: Path, tmp_path: Path) -> None:
    result = go(made, tmp_path / "x.h5", dtype="float32", frames=5)
    assert (result.clips, result.resumed, result.failures) == (12, 0, ())
    dataset = load_dataset("ucf11", made)
    with open_cache(tmp_path / "x.h5") as cache:
        assert [clip.name for clip in cache.clips] == [clip.name for clip in dataset.clips]
        for index, clip in enumerate(dataset.clips):
            row, stored = cache.clips[index], cache.read(index)
            values, indices, length = by_hand(clip.path, 5)
            np.testing.assert_allclose(stored.features, values, atol=2e-4)
            assert stored.frame_index.tolist() == indices
            assert (row.source_frames, row.group) == (length, clip.path.parent.name)
            assert row.fps == 25 or (length == 2 and np.isnan(row.fps))  # too short to state a rate
            assert cache.classes[row.label] == clip.path.parts[-3]
        assert {name: split.roles.tolist() for name, split in cache.splits.items()} == {
            split.name: split.roles.tolist() for split in dataset.splits
        }
        assert cache.split("group").leaking_groups == 0


def test_features_differ_from_clip_to_clip(whole: Path) -> None:
    with open_cache(whole) as cache:
        rows = cache.read_all()
        assert rows.dtype == np.float16
        assert len(np.unique(rows[::4], axis=0)) == 12


def test_processes_give_what_this_process_gives(made: Path, whole: Path, tmp_path: Path) -> None:
    go(made, tmp_path / "x.h5", workers=2)
    assert content(tmp_path / "x.h5") == content(whole)


def test_a_finished_cache_is_left_as_it_is(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "x.h5"
    go(made, out)
    before, bytes_before = out.stat(), out.read_bytes()
    monkeypatch.setattr(Backbone, "start", lambda *_: pytest.fail("a clip was extracted again"))
    result = go(made, out)
    assert (result.clips, result.resumed) == (12, 12)
    assert (out.stat().st_ino, out.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert out.read_bytes() == bytes_before
    go(made, out, split_seed=5)  # other splits over the same features
    with open_cache(out) as cache:
        assert cache.split("group").seed == 5
    go(made, out)
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]


@pytest.mark.parametrize("batches", [1, 2, 5])
def test_an_interrupted_run_is_taken_up(
    batches: int, made: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = Backbone.start, Counter[str]()

    def interrupted(self: Backbone, pixels: np.ndarray) -> np.ndarray:
        calls["batches"] += 1
        if calls["batches"] > batches:
            raise KeyboardInterrupt
        return plain(self, pixels).result()  # at once: none is under way when the interruption comes

    out = tmp_path / "x.h5"
    monkeypatch.setattr(Backbone, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        go(made, out)
    assert not out.exists()
    monkeypatch.setattr(Backbone, "start", plain)
    result = go(made, out)
    assert result.resumed == 2 * batches  # four frames a clip, eight a batch
    assert content(out) == content(whole)
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("call", range(6))
def test_an_interruption_while_a_shard_is_recorded_leaves_a_sound_manifest(
    call: int, moment: str, made: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, plain, calls = tmp_path / "x.h5", folder.write_manifest, 0

    def interrupted(path: Path, manifest: Manifest) -> None:
        nonlocal calls
        calls += 1
        if moment == "after":
            plain(path, manifest)
        if calls == call + 1:
            signal.raise_signal(signal.SIGINT)
        if moment == "before":
            plain(path, manifest)

    monkeypatch.setattr(folder, "write_manifest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        go(made, out, part_seconds=0)
    monkeypatch.undo()
    if call > 0:
        parts = tmp_path / "x.h5.parts"
        names = [entry.name for entry in read_manifest(parts).files]
        assert sorted(names) == sorted(path.name for path in parts.glob("shard-*.h5"))
        assert len(names) == call
    assert go(made, out).resumed >= call
    assert content(out) == content(whole)


@pytest.mark.parametrize("call", [3, 7, 9, 12, 15])
def test_a_disk_that_fails_once_leaves_a_sound_manifest(
    call: int, made: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is finished is written once more at the end, and by then there may be room."""
    out, plain, calls = tmp_path / "x.h5", os.fsync, 0

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        go(made, out, part_seconds=0)
    monkeypatch.undo()
    assert go(made, out).clips == 12
    assert content(out) == content(whole)


class Thing:
    """Something that a weak reference can be made of."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_a_signal_that_python_drops_ends_an_extraction_all_the_same(
    number: signal.Signals, made: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the callback of a weak reference, where h5py often takes it up."""
    out, plain, calls = tmp_path / "x.h5", Backbone.start, 0

    def dropping(self: Backbone, pixels: np.ndarray) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            thing = Thing()
            kept = weakref.ref(thing, lambda _: signal.raise_signal(number))
            del thing
            assert kept() is None
            end = time.monotonic() + 20
            while time.monotonic() < end:
                time.sleep(0.01)
        return plain(self, pixels)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Backbone, "start", dropping)
    options = (
        f"--dataset ucf11 --weights none --model {MODEL} --frames 4 --batch 8 --device cpu --precision float32"
    )
    try:
        with pytest.raises(SystemExit) as caught:
            main(["extract", *options.split(), "--workers=0", "--root", str(made), "--out", str(out)])
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught.value.code == 130
    assert calls == 2
    assert not out.exists()
    monkeypatch.undo()
    go(made, out)
    assert content(out) == content(whole)


SLOW = """
import functools, sys, time
import harfeat.commands.extract as command
from harfeat.backbone import Backbone
from harfeat.cli import main

plain = Backbone.start

def slow(self, pixels):
    time.sleep(1.0)
    return plain(self, pixels)

if __name__ == "__main__":
    Backbone.start = slow
    Backbone.ahead = 0  # however busy the machine: features of a batch are there before the next one waits
    command.ExtractSettings = functools.partial(command.ExtractSettings, part_seconds=0)
    main(sys.argv[1:])
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda s: s.name)
def test_a_killed_run_is_taken_up_and_leaves_no_process(
    number: signal.Signals, made: Path, whole: Path, tmp_path: Path
) -> None:
    out, script = tmp_path / "x.h5", tmp_path / "slow.py"
    script.write_text(SLOW)
    options = (
        f"--dataset ucf11 --weights none --model {MODEL} --frames 4 --batch 8 --device cpu --precision float32"
    )
    command = [sys.executable, script, "extract", *options.split(), "--root", made, "--out", out, "--workers", "1"]
    process = subprocess.Popen(
        list(map(str, command)),
        start_new_session=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    wait_for(lambda: len(list((tmp_path / "x.h5.parts").glob("shard-*.h5"))) > 1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 130)
    if number != signal.SIGKILL:
        assert errors.splitlines()[-1] == "harfeat: interrupted; the same command resumes"
        assert "Traceback" not in errors
    wait_for(lambda: not _processes_of_session(process.pid))
    script.unlink()
    assert not out.exists()
    assert go(made, out).resumed >= 2
    assert content(out) == content(whole)
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]


def _processes_of_session(session: int) -> list[int]:
    return [pid for pid, _, its_session in running() if its_session == session]


def test_a_changed_video_is_extracted_again_and_no_other(
    root: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "x.h5"
    go(root, out)
    make_clip(root / "diving" / "v_diving_01" / "v_diving_01_02.mpg", 20, 99)
    decoded: list[str] = []

    def watched(path: str, sampling: SamplingSettings, config: TransformConfig) -> Prepared:
        decoded.append(Path(path).name)
        return run(path, sampling, config)

    monkeypatch.setattr(pool, "run", watched)
    assert go(root, out).resumed == 11
    assert decoded == ["v_diving_01_02.mpg"]
    with open_cache(out) as cache, open_cache(whole) as old:
        for index, clip in enumerate(cache.clips):
            same = np.array_equal(cache.read(index).features, old.read(index).features)
            assert same == (clip.name != "diving/v_diving_01/v_diving_01_02.mpg")
        assert [clip.source_frames for clip in cache.clips][5] == 20


@pytest.mark.parametrize("out", ["x.h5", "x"])
@pytest.mark.parametrize("after", [0, 2, 6, 9, 14])
def test_a_full_disk_is_told_and_what_was_written_is_kept(
    out: str, after: int, made: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, left = os.fsync, after

    def full(handle: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)") as caught:
        go(made, tmp_path / out, part_seconds=0)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "x.h5").exists()
    monkeypatch.setattr(os, "fsync", plain)
    standing = len(list(tmp_path.glob("*/shard-*.h5")))
    assert standing > 0 or after < 9
    assert go(made, tmp_path / out).resumed >= standing
    with open_cache(tmp_path / out) as cache, open_cache(whole) as reference:
        assert cache.content == reference.content


def test_a_video_that_changes_while_it_is_read_is_not_kept(
    root: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = root / "swing" / "v_swing_01" / "v_swing_01_02.mpg"
    sound = path.read_bytes()

    def changing(file: str, sampling: SamplingSettings, config: TransformConfig) -> Prepared:
        prepared = run(file, sampling, config)
        if Path(file) == path:
            path.write_bytes(sound + b"more")
        return prepared

    monkeypatch.setattr(pool, "run", changing)
    for out in (tmp_path / "x.h5", tmp_path / "x"):
        path.write_bytes(sound)
        result = go(root, out)
        assert [(one.name, one.reason) for one in result.failures] == [
            ("swing/v_swing_01/v_swing_01_02.mpg", "its file changed while it was extracted")
        ]
        with open_cache(out) as cache:
            assert len(cache.clips) == 11
        path.write_bytes(sound)
        monkeypatch.setattr(pool, "run", run)
        assert go(root, out, retry_failed=True).failures == ()
        monkeypatch.setattr(pool, "run", changing)
        with open_cache(out) as cache, open_cache(whole) as reference:
            assert cache.content == reference.content


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"frames": 8}, "sampling.frames: 4 against 8"),
        ({"dtype": "float32"}, "dtype: 'float16' against 'float32'"),
        ({"precision": "bfloat16"}, "precision: 'float32' against 'bfloat16'"),
        ({"model": "test_vit2"}, "model: 'test_vit' against 'test_vit2'"),
    ],
)
def test_other_settings_on_the_same_cache_are_refused(
    changes: dict[str, Any], difference: str, made: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x.h5"
    shutil.copy(whole, out)
    with pytest.raises(InputError, match=difference) as caught:
        go(made, out, **changes)
    assert "\n" not in str(caught.value)
    assert content(out) == content(whole)
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]


def test_bad_clips_are_named_and_the_rest_is_kept(root: Path, whole: Path, tmp_path: Path) -> None:
    out, group = tmp_path / "x.h5", root / "biking" / "v_biking_01"
    first = group / "v_biking_01_01.mpg"
    sound = first.read_bytes()
    first.write_bytes(b"")
    (group / "v_biking_01_03.mpg").write_text("no video\n" * 100)
    (group / "v_biking_01_04.avi").mkdir()
    (group / "v_biking_01_05.mpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(group / "v_biking_01_07.mpg")
    result = go(root, out)
    reasons = {failure.name.rpartition("_")[2]: failure.reason for failure in result.failures}
    assert set(reasons) == {"01.mpg", "03.mpg", "04.avi", "05.mpg", "07.mpg"}
    for name, reason in (
        ("01.mpg", "empty"),
        ("03.mpg", "not a readable video"),
        ("04.avi", "not a regular file"),
    ):
        assert reason in reasons[name]
    assert "No such file" in reasons["05.mpg"]
    assert "not a regular file" in reasons["07.mpg"]
    before = out.stat()
    assert set(go(root, out).failures) == set(result.failures)
    assert out.stat().st_mtime_ns == before.st_mtime_ns
    with open_cache(out) as cache, open_cache(whole) as reference:
        assert len(cache.clips) == 11
        assert set(cache.failures) == set(result.failures)
        np.testing.assert_array_equal(cache.read_all(), reference.read_all()[4:])
        assert all(len(split.roles) == 11 for split in cache.splits.values())
    for number in (3, 5, 7):
        (group / f"v_biking_01_{number:02d}.mpg").unlink()
    (group / "v_biking_01_04.avi").rmdir()
    first.write_bytes(sound)
    assert [failure.name.rpartition("_")[2] for failure in go(root, out).failures] == ["01.mpg"]
    assert go(root, out, retry_failed=True).failures == ()
    assert content(out) == content(whole)


def test_a_damaged_clip_that_still_decodes_is_named(root: Path, tmp_path: Path) -> None:
    path = root / "biking" / "v_biking_02" / "v_biking_02_01.mpg"
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(range(40))
    path.write_bytes(data)
    result = go(root, tmp_path / "x.h5")
    assert (result.failures, result.damaged) == ((), ("biking/v_biking_02/v_biking_02_01.mpg",))
    with open_cache(tmp_path / "x.h5") as cache:
        assert [clip.damaged for clip in cache.clips] == [0, 0, 1] + [0] * 9


def test_a_clip_that_can_no_longer_be_read_becomes_a_failure(root: Path, tmp_path: Path) -> None:
    out, clip = tmp_path / "x.h5", root / "swing" / "v_swing_02" / "v_swing_02_02.mpg"
    go(root, out)
    clip.unlink()
    clip.symlink_to(tmp_path / "nowhere")
    result = go(root, out)
    assert (result.clips, len(result.failures)) == (11, 1)
    assert "No such file" in result.failures[0].reason


def test_the_provenance_tells_no_place_on_this_machine(made: Path, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(timm.create_model(MODEL, pretrained=False).state_dict(), file)
    go(made, tmp_path / "x.h5", weights=str(file), limit=3)
    with open_cache(tmp_path / "x.h5") as cache:
        told = cache.provenance["settings"]
        assert (told["weights"], told["root"], told["out"]) == ("weights.pth", made.name, "x.h5")
        for place in (tmp_path, made):
            assert str(place) not in json.dumps(dict(cache.provenance))


def test_a_batch_that_no_machine_holds_is_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--batch 65537: must be at most 65536"):
        settings(made, tmp_path / "x.h5", batch=65537)


def test_a_data_set_without_one_good_clip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "root" / "a" / "x.avi").touch()
    with pytest.raises(InputError, match=r"none of the 1 clips could be decoded.*a/x\.avi.*empty"):
        go(tmp_path / "root", tmp_path / "x.h5", dataset="folder")
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def hostile(path: str, sampling: SamplingSettings, config: TransformConfig) -> Prepared:
    """What a worker runs here: some clips hang it as decord can, some kill it."""
    if "_02_01" in path:
        pow(3, 10**9)
    if "_02_02" in path and "diving" in path:
        os.kill(os.getpid(), signal.SIGKILL)
    return run(path, sampling, config)


def test_a_hang_and_a_crash_cost_one_clip_each(
    made: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "run", hostile)
    root = tmp_path / "videos"
    shutil.copytree(made / "biking", root / "biking")
    shutil.copytree(made / "diving" / "v_diving_02", root / "diving" / "v_diving_02")
    (root / "diving" / "v_diving_02" / "v_diving_02_01.mpg").unlink()
    result = go(root, tmp_path / "x.h5", workers=2, clip_timeout=3)
    assert {failure.name.rpartition("/")[2]: failure.reason for failure in result.failures} == {
        "v_biking_02_01.mpg": "decoding took longer than 3 s and was stopped",
        "v_diving_02_02.mpg": "the decoder crashed (exit code -9)",
    }
    with open_cache(tmp_path / "x.h5") as cache, open_cache(whole) as reference:
        known = {clip.name: index for index, clip in enumerate(reference.clips)}
        assert len(cache.clips) == 3
        for index, clip in enumerate(cache.clips):
            expected = reference.read(known[clip.name]).features
            np.testing.assert_array_equal(cache.read(index).features, expected)


def stillborn() -> None:
    os._exit(1)


def test_processes_that_do_not_start_are_told_in_one_line(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a script that calls extract without `if __name__ == "__main__"`."""
    monkeypatch.setattr(pool, "initialise", stillborn)
    with pytest.raises(InputError, match="the decoding processes do not start") as caught:
        go(made, tmp_path / "x.h5", workers=1)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_features_beyond_float16_are_a_failure_that_names_the_way_out(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = Backbone.start, Counter[str]()

    def loud(self: Backbone, pixels: np.ndarray) -> np.ndarray:
        calls["batches"] += 1
        return plain(self, pixels).result() * (1e6 if calls["batches"] == 1 else 1)

    monkeypatch.setattr(Backbone, "start", loud)
    result = go(made, tmp_path / "x.h5")
    assert [failure.name.rpartition("/")[2] for failure in result.failures] == [
        "v_biking_01_01.mpg",
        "v_biking_01_02.mpg",
    ]
    assert "--dtype float32" in result.failures[0].reason
    with open_cache(tmp_path / "x.h5") as cache:
        assert isinstance(cache.failures[0], Failure)
        assert np.isfinite(cache.read_all()).all()


@pytest.mark.parametrize("limit", [3, 6, 7, 12, 50])
def test_a_limit_spreads_over_the_classes(limit: int, made: Path, tmp_path: Path) -> None:
    result = go(made, tmp_path / "x.h5", limit=limit, frames=1)
    with open_cache(tmp_path / "x.h5") as cache:
        counts = Counter(clip.label for clip in cache.clips)
        assert sum(counts.values()) == min(limit, 12) == result.clips
        assert max(counts.values()) - min(counts.values()) <= 1
        assert len(counts) == 3
    go(made, tmp_path / "x.h5", frames=1)  # the rest is added
    with open_cache(tmp_path / "x.h5") as cache:
        assert len(cache.clips) == 12


def test_a_smaller_set_does_not_shrink_a_finished_cache(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.h5"
    go(made, out, frames=1)
    before = out.read_bytes()
    with pytest.raises(InputError, match="holds 9 clips that this command would drop"):
        go(made, out, frames=1, limit=3)
    assert out.read_bytes() == before
    assert list(tmp_path.glob("x.h5*")) == [out]


def test_any_folder_with_listed_groups(tmp_path: Path) -> None:
    for name, codec in (("jump/s1_a.avi", "mpeg4"), ("jump/s2 #1.mp4", "libx264"), ("run/deep/s2_b.avi", "mpeg4")):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        make_video(tmp_path, Recipe("clip", path.suffix, codec, frames=6)).rename(path)
    go(tmp_path / "root", tmp_path / "x.h5", dataset="folder", group_pattern=r"s(\d)", test_groups=("2",))
    with open_cache(tmp_path / "x.h5") as cache:
        assert [clip.name for clip in cache.clips] == ["jump/s1_a.avi", "jump/s2 #1.mp4", "run/deep/s2_b.avi"]
        assert cache.split("listed").roles.tolist() == [1, 2, 2]


GENUINE = {"ucf101": ("clips/UCF-101", 2), "hmdb51": ("clips/hmdb51", 2), "ucf11": ("clips/UCF11_updated_mpg", 1)}


@pytest.mark.parametrize("dataset", GENUINE)
def test_genuine_clips_are_extracted(dataset: str, shared_data: Path, tmp_path: Path) -> None:
    folder, count = GENUINE[dataset]
    lists = shared_data / "splits" / "testTrainMulti_7030_splits" if dataset == "hmdb51" else None
    go(shared_data / folder, tmp_path / "x.h5", dataset=dataset, splits_dir=lists, frames=3, dtype="float32")
    with open_cache(tmp_path / "x.h5") as cache:
        assert len(cache.clips) == count
        for index, clip in enumerate(cache.clips):
            path = next((shared_data / folder).rglob(Path(clip.name).name))
            values, indices, length = by_hand(path, 3)
            assert (cache.read(index).frame_index.tolist(), clip.source_frames) == (indices, length)
            np.testing.assert_allclose(cache.read(index).features, values, atol=2e-4)
        if dataset == "hmdb51":
            assert lists is not None
            for number in "123":
                text = (lists / f"wave_test_split{number}.txt").read_text()
                for clip, role in zip(cache.clips, cache.split(number).roles, strict=True):
                    assert f"{Path(clip.name).name} {role}" in text


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    yield
    # The fork server stays for the next pool; what it started must not.
    wait_for(lambda: not grandchildren(), seconds=10)
