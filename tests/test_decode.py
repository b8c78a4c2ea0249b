"""Frames against an independent linear decode by another FFmpeg (the imageio-ffmpeg binary)."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import socket
import subprocess
import tempfile
import wave
from collections import Counter
from collections.abc import Callable, Iterator, Set
from concurrent.futures import TimeoutError as ClipTimeoutError
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import pebble
import pytest
import timm
import torch
from PIL import Image
from timm.data import resolve_model_data_config
from videos import EXACT_WITH_DECORD, GENUINE, NEARLY_EQUAL, NEEDS_LINEAR, Recipe, make_video, numbered_frame

from harfeat.decode import ClipFrames, DecodeError, decode_clip, linear, policy, recipe, seeking, worker
from harfeat.decode import pool as decode_pool
from harfeat.decode.worker import Prepared, initialise, run, worker_context
from harfeat.preprocess import TransformConfig, prepare
from harfeat.sampling import SamplingSettings, plan, sample

CONFIG = TransformConfig((32, 40), "bicubic", 0.875, "center")


def copied(_: int, frame: np.ndarray) -> np.ndarray:
    return frame.copy()


@pytest.mark.parametrize("name", GENUINE)
def test_genuine_clips_equal_a_linear_decode(shared_data: Path, name: str) -> None:
    assert not expect_equal(shared_data / name).damaged


@pytest.fixture
def every_clip_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if each clip were too long to keep, and seeking paid for any number of frames."""
    monkeypatch.setattr(linear, "KEEP_BYTES", 0)
    monkeypatch.setattr(policy, "SEEK_SHARE", 1e-9)


@pytest.mark.parametrize(
    ("made", "decoder"),
    [(made, "decord") for made in EXACT_WITH_DECORD] + [(made, "pyav") for made in NEEDS_LINEAR],
    ids=lambda of: of.name + of.suffix if isinstance(of, Recipe) else of,
)
@pytest.mark.usefixtures("every_clip_is_long")
def test_decord_fetches_what_it_gets_right_and_pyav_decodes_the_rest(
    made: Recipe, decoder: str, tmp_path: Path
) -> None:
    clip = expect_equal(make_video(tmp_path, made))
    assert clip.decoder == decoder
    assert clip.source_frames == made.frames


@pytest.mark.parametrize("recipe", NEARLY_EQUAL, ids=lambda r: r.name + r.suffix)
def test_frames_are_right_where_colour_conversion_differs(recipe: Recipe, tmp_path: Path) -> None:
    path = make_video(tmp_path, recipe)
    clip = decode_clip(path, np.arange)
    reference = ffmpeg_frames(path, clip.frames.shape[1:3]).astype(np.int16)
    assert len(clip.frames) == len(reference) == recipe.frames
    for index, frame in enumerate(clip.frames):
        distance = np.abs(reference - frame).mean(axis=(1, 2, 3))
        assert distance.argmin() == index
        assert distance[index] < 8


@pytest.mark.parametrize(
    ("source", "suffix", "arguments", "decoder"),
    [
        ("closed.mp4", ".mp4", ["-c", "copy", "-movflags", "frag_keyframe+empty_moov"], "decord"),
        ("closed.mp4", ".mp4", ["-c", "copy", "-bsf:v", "h264_metadata=crop_right=4:crop_bottom=2"], "decord"),
        ("closed.mp4", ".mp4", ["-c", "copy", "-bsf:v", "h264_metadata=crop_left=8"], "pyav"),
        ("closed.mp4", ".mp4", ["-c", "copy", "-bsf:v", "h264_metadata=crop_top=2"], "pyav"),
        ("ts_h264.ts", ".ts", ["-c", "copy", "-bsf:v", "h264_metadata=crop_left=6:crop_top=4"], "pyav"),
        ("closed.mp4", ".mkv", ["-c", "copy", "-bsf:v", "noise=drop=eq(n\\,12)"], "pyav"),
        ("closed.mp4", ".mkv", ["-c", "copy", "-bsf:v", "noise=drop=between(n\\,13\\,14)"], "pyav"),
        ("closed.mp4", ".mkv", ["-c", "copy", "-copyinkf", "-bsf:v", "noise=drop=lt(n\\,5)"], "pyav"),
        ("avi_h264.avi", ".mp4", ["-c", "copy"], "pyav"),
        ("avi_mpeg4_b.avi", ".avi", ["-c", "copy", "-bsf:v", "noise=amount=200"], "pyav"),
    ],
    ids=[
        "fragments",
        "cropped_right",
        "cropped_left",
        "cropped_top",
        "cropped_ts",
        "lost_key",
        "lost_frames",
        "lost_start",
        "stored_order",
        "mpeg4_noise",
    ],
)
@pytest.mark.usefixtures("every_clip_is_long")
def test_remuxed_and_damaged_streams(
    source: str, suffix: str, arguments: list[str], decoder: str, tmp_path: Path
) -> None:
    recipe = next(r for r in EXACT_WITH_DECORD + NEEDS_LINEAR if r.name + r.suffix == source)
    path = tmp_path / f"remuxed{suffix}"
    ffmpeg("-i", make_video(tmp_path, recipe), *arguments, path)
    assert expect_equal(path).decoder == decoder


def test_a_damaged_h264_stream_gives_as_many_frames_as_ffmpeg(tmp_path: Path) -> None:
    """FFmpeg's versions differ in how they paint over a hole, so pixels may differ, the number of frames not.

    Which packets are hit varies, and with them the share of painted pixels: x264's output is not the same in
    every process.
    """
    path = tmp_path / "noise.mp4"
    ffmpeg("-i", make_video(tmp_path, EXACT_WITH_DECORD[0]), "-c", "copy", "-bsf:v", "noise=amount=60", path)
    clip = decode_clip(path, np.arange)
    reference = ffmpeg_frames(path, (48, 64))
    assert clip.decoder == "pyav"
    assert clip.damaged
    assert 0 < clip.source_frames == len(reference) < 48
    assert clip.frames.shape == reference.shape


@pytest.mark.parametrize(
    "before",
    [["-ss", "0.6"], ["-display_hflip"], ["-display_rotation", "180"]],
    ids=["edit_list", "mirrored", "turned"],
)
def test_what_only_the_container_says(before: list[str], tmp_path: Path) -> None:
    """An edit list hides frames, as in FFmpeg's decode; a display matrix is not applied."""
    path = tmp_path / "edited.mp4"
    ffmpeg(*before, "-i", make_video(tmp_path, EXACT_WITH_DECORD[0]), "-c", "copy", path)
    assert expect_equal(path).decoder == "pyav"


@pytest.mark.parametrize("source", ["closed.mkv", "jpegs.avi", "ps_mpeg1.mpg", "avi_mpeg4_b.avi", "ts_h264.ts"])
def test_a_file_cut_short_gives_the_frames_that_are_left(source: str, tmp_path: Path) -> None:
    recipe = next(r for r in EXACT_WITH_DECORD + NEEDS_LINEAR if r.name + r.suffix == source)
    path = make_video(tmp_path, recipe)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])
    assert 20 < expect_equal(path).source_frames < recipe.frames


def test_an_mp4_that_breaks_off_is_decoded_linearly(tmp_path: Path) -> None:
    whole, path = make_video(tmp_path, EXACT_WITH_DECORD[0]), tmp_path / "cut.mp4"
    ffmpeg("-i", whole, "-c", "copy", "-movflags", "faststart", path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])
    assert expect_equal(path).decoder == "pyav"


def test_plain_decord_is_wrong_on_ucf11(shared_data: Path) -> None:
    """The reason for the policy: should this fail, decord has been mended and the policy can be relaxed."""
    path = shared_data / GENUINE[0]
    reference = ffmpeg_frames(path, (240, 320))
    wanted = set(sample("uniform", len(reference), 16).tolist())
    frames = seeking.pick(BytesIO(path.read_bytes()), len(reference), (240, 320), wanted, copied)
    assert frames is not None
    wrong = [not np.array_equal(frame, reference[index]) for index, frame in frames.items()]
    assert len(wrong) == 16
    assert all(wrong)


def test_decord_is_refused_where_it_counts_or_crops_differently(tmp_path: Path) -> None:
    path = make_video(tmp_path, EXACT_WITH_DECORD[0])
    video, size = path.read_bytes(), (48, 64)
    assert seeking.pick(BytesIO(video), 48, size, {3}, copied)
    assert seeking.pick(BytesIO(video), 47, size, {3}, copied) is None
    assert seeking.pick(BytesIO(video), 48, (48, 62), {3}, copied) is None
    assert seeking.pick(BytesIO(video[:100]), 48, size, {3}, copied) is None


def test_no_rewriting_of_what_is_too_large_or_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video(tmp_path, EXACT_WITH_DECORD[2])
    with av.open(str(path)) as container:
        times = [packet.pts for packet in container.demux(video=0) if packet.pts is not None]
    assert seeking.rewrite(path, times)
    assert seeking.rewrite(path, [2 * time + 1 for time in times]) is None
    monkeypatch.setattr(seeking, "KEEP_BYTES", 1_000)
    assert seeking.rewrite(path, times) is None


@pytest.mark.parametrize("made", EXACT_WITH_DECORD, ids=lambda made: made.name + made.suffix)
@pytest.mark.usefixtures("every_clip_is_long")
def test_decord_finds_each_frame_alone(made: Recipe, tmp_path: Path) -> None:
    """What comes from seeking, without what went before in the same batch."""
    path = make_video(tmp_path, made)
    reference = ffmpeg_frames(path, (made.height, made.width))
    for index in range(made.frames):
        clip = decode_clip(path, lambda _, index=index: np.array([index]))  # type: ignore[misc]
        assert clip.decoder == "decord"
        np.testing.assert_array_equal(clip.frames[0], reference[index])


@pytest.mark.parametrize("size", [20_000, 1_000_000])  # the 48 frames take above 221 kB
def test_a_clip_too_long_to_keep_is_decoded_twice(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "KEEP_BYTES", size)
    passes: list[Path] = []
    plain = linear._decoded

    def counted(path: Path, *args: Any) -> Iterator[av.VideoFrame]:
        passes.append(path)
        return plain(path, *args)

    monkeypatch.setattr(linear, "_decoded", counted)
    path = make_video(tmp_path, NEEDS_LINEAR[0])
    assert decode_clip(path, np.arange).source_frames == 48
    assert len(passes) == (2 if size == 20_000 else 1)
    expect_equal(path)


def test_decord_is_left_out_where_one_pass_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video(tmp_path, EXACT_WITH_DECORD[0])
    assert expect_equal(path).decoder == "pyav"
    monkeypatch.setattr(linear, "KEEP_BYTES", 0)
    assert decode_clip(path, lambda n: sample("uniform", n, 6)).decoder == "decord"
    assert decode_clip(path, lambda n: sample("uniform", n, 7)).decoder == "pyav"


@pytest.mark.usefixtures("every_clip_is_long")
def test_damage_never_reaches_decord(tmp_path: Path) -> None:
    """Bytes overwritten inside pictures: each frame is the linear decode's, and decord is used where it may be."""
    random = np.random.default_rng(3)
    decoders = Counter[str]()
    for made in EXACT_WITH_DECORD[:2]:
        path = make_video(tmp_path, replace(made, width=160, height=120))
        whole = path.read_bytes()
        for _ in range(40):
            data = bytearray(whole)
            data[random.integers(48, len(data))] = random.integers(256)
            path.write_bytes(data)
            try:
                found = linear.survey(path)
            except (DecodeError, MemoryError):  # the second where a damaged size asks for more than there is
                continue
            expected = linear.pick(path, found, set(range(found.count)), copied)
            clip = decode_clip(path, np.arange)
            decoders[clip.decoder] += 1
            np.testing.assert_array_equal(clip.frames, np.stack(list(expected.values())))
    assert decoders["pyav"] > 0
    assert decoders["decord"] > 0


@pytest.mark.usefixtures("every_clip_is_long")
def test_faults_that_ffmpeg_passes_over_in_silence_never_reach_decord(tmp_path: Path) -> None:
    """In the list of references that a slice's header may carry: FFmpeg drops the slice without an error."""
    path = make_video(tmp_path, EXACT_WITH_DECORD[0])
    whole = path.read_bytes()
    with av.open(str(path)) as container:
        starts = [packet.pos for packet in container.demux(video=0) if packet.size]
    silent = 0
    for start, at, value in product(starts[5:9], (8, 9), (32, 48, 64)):
        assert start is not None
        path.write_bytes(whole[: start + at] + bytes([value]) + whole[start + at + 1 :])
        found = linear.survey(path)
        expected = linear.pick(path, found, set(range(found.count)), copied)
        clip = decode_clip(path, np.arange)
        np.testing.assert_array_equal(clip.frames, np.stack(list(expected.values())))
        silent += found.flawless and clip.damaged
    assert silent > 0


@pytest.mark.usefixtures("every_clip_is_long")
def test_pictures_shown_out_of_turn_never_reach_decord(tmp_path: Path) -> None:
    """Where a key frame's header misstates its place (pic_order_cnt_lsb), FFmpeg shows it there."""
    path = make_video(tmp_path, EXACT_WITH_DECORD[0])
    whole = path.read_bytes()
    with av.open(str(path)) as container:
        start = [packet.pos for packet in container.demux(video=0) if packet.size][12]
    assert start is not None
    out_of_turn = 0
    for value in (32, 64, 96, 128):
        path.write_bytes(whole[: start + 7] + bytes([value]) + whole[start + 8 :])
        found = linear.survey(path, strict=True)
        out_of_turn += found.flawless and not found.in_order
        every = list(linear.pictures(path))
        for index in range(12, 24, 2):
            clip = decode_clip(path, lambda _, index=index: np.array([index]))  # type: ignore[misc]
            np.testing.assert_array_equal(clip.frames[0], every[index])
    assert out_of_turn > 0


@pytest.mark.usefixtures("every_clip_is_long")
def test_decord_reads_no_damaged_index(tmp_path: Path) -> None:
    """Only seeking reads Matroska's cues; in the one for 0.96 s, the time's element is unknown here."""
    path = make_video(tmp_path, replace(EXACT_WITH_DECORD[1], width=160, height=120))
    whole = path.read_bytes()
    cues, time, unknown = bytes.fromhex("1c53bb6b"), bytes.fromhex("b38203c0"), bytes.fromhex("d78203c0")
    at = whole.rindex(cues)
    assert whole.count(time, at) == 1
    path.write_bytes(whole[:at] + whole[at:].replace(time, unknown))
    assert expect_equal(path).decoder == "decord"


def test_the_recipe_names_what_decides_the_pixels() -> None:
    parts = recipe()
    assert parts["policy"] == policy.POLICY_VERSION
    assert parts["libavcodec"] == ".".join(map(str, av.library_versions["libavcodec"]))
    assert parts.keys() == {"policy", "libavcodec", "libswscale", "decord"}


def test_frames_can_be_asked_for_in_any_order_and_more_than_once(tmp_path: Path) -> None:
    order = np.array([40, 3, 3, 47, 0, 12, 11, 12])
    for made in (EXACT_WITH_DECORD[0], NEEDS_LINEAR[0]):
        clip = decode_clip(make_video(tmp_path, made), lambda n: order)
        assert clip.indices.tolist() == order.tolist()
        whole = decode_clip(tmp_path / f"{made.name}{made.suffix}", np.arange).frames
        np.testing.assert_array_equal(clip.frames, whole[order])


def test_frame_rate_is_the_containers(tmp_path: Path, shared_data: Path) -> None:
    assert decode_clip(make_video(tmp_path, EXACT_WITH_DECORD[0]), np.arange).fps == 25
    assert decode_clip(shared_data / GENUINE[0], np.arange).fps == pytest.approx(30_000 / 1001)


def test_metadata_that_is_not_utf8_does_no_harm(tmp_path: Path) -> None:
    plain, path = make_video(tmp_path, NEEDS_LINEAR[5]), tmp_path / "title.avi"
    ffmpeg("-i", plain, "-c", "copy", "-metadata", "title=ABCDEFGH", path)
    data = path.read_bytes()
    assert b"ABCDEFGH" in data
    path.write_bytes(data.replace(b"ABCDEFGH", b"\xff\xfe\xe9\xe8\xff\xfe\xe9\xe8"))
    expect_equal(path)


@pytest.mark.parametrize("name", ["file:a#b&(c);%03d [é].mp4", "http:x.mp4", "-i.mp4"])
def test_odd_file_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_video(tmp_path, EXACT_WITH_DECORD[0]).rename(tmp_path / name)
    assert decode_clip(Path(name), np.arange).source_frames == 48


def test_indices_outside_the_clip_are_a_programming_error(tmp_path: Path) -> None:
    for made in (EXACT_WITH_DECORD[0], NEEDS_LINEAR[0]):
        with pytest.raises(ValueError, match="within"):
            decode_clip(make_video(tmp_path, made), lambda n: np.array([0, n]))


@pytest.mark.parametrize("change", ["removed", "cut", "replaced by a folder"])
def test_a_file_that_changes_between_two_passes(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "KEEP_BYTES", 0)
    path = make_video(tmp_path, NEEDS_LINEAR[0])

    def choose(count: int) -> np.ndarray:
        assert count == 48
        if change == "cut":
            path.write_bytes(path.read_bytes()[:10_000])
        else:
            path.unlink()
        if change == "replaced by a folder":
            path.mkdir()
        return np.arange(count)

    with pytest.raises(DecodeError, match=r"No such file|changed while it was read|not a regular file"):
        decode_clip(path, choose)


@pytest.mark.parametrize("denied", ["file", "folder"])
@pytest.mark.parametrize(
    "call",
    [lambda path: run(str(path), SamplingSettings(), CONFIG), lambda path: decode_clip(path, np.arange)],
    ids=["worker", "decode_clip"],
)
def test_permission_denied(denied: str, call: Callable[[Path], object]) -> None:
    """As a user who may not read: the superuser, whom nothing is denied, steps down for the moment."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as outer:
        folder = Path(outer) / "clips"
        folder.mkdir()
        path = make_video(folder, NEEDS_LINEAR[0])
        for place in (folder, Path(outer)):
            place.chmod(0o755)
        (path if denied == "file" else folder).chmod(0o000)
        try:
            if user == 0:
                os.seteuid(65534)
            with pytest.raises(DecodeError, match="Permission denied") as caught:
                call(path)
        finally:
            os.seteuid(user)
            folder.chmod(0o755)
        assert "\n" not in str(caught.value)


def test_too_little_memory_is_never_taken_for_a_damaged_packet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = linear.open_video

    class Exhausted:
        def decode(self, packet: object) -> None:
            raise av.error.MemoryError(errno.ENOMEM, "Cannot allocate memory")

    @contextmanager
    def opened(path: Path) -> Iterator[tuple[Any, Any]]:
        with plain(path) as (container, stream):
            yield SimpleNamespace(demux=lambda _: container.demux(stream)), Exhausted()

    path = make_video(tmp_path, NEEDS_LINEAR[0])
    monkeypatch.setattr(linear, "open_video", opened)
    with pytest.raises(DecodeError, match="not enough memory"):
        run(str(path), SamplingSettings(), CONFIG)


def test_a_stream_that_appears_late_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyAV then ends with an IndexError, or not, by what lies in memory; found by fuzzing MPEG program streams."""
    path = make_video(tmp_path, NEEDS_LINEAR[0])
    plain = linear.open_video

    def demux(container: Any, stream: Any) -> Iterator[Any]:
        yield from container.demux(stream)
        raise IndexError("list index out of range")

    @contextmanager
    def opened(path: Path) -> Iterator[tuple[Any, Any]]:
        with plain(path) as (container, stream):
            yield SimpleNamespace(demux=lambda wanted: demux(container, wanted)), stream

    monkeypatch.setattr(linear, "open_video", opened)
    clip = decode_clip(path, np.arange)
    assert clip.source_frames == 48
    assert not clip.damaged


def test_what_a_library_raises_against_its_word_costs_one_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [make_video(tmp_path, NEEDS_LINEAR[0]), tmp_path / "odd.mpg"]
    monkeypatch.setattr(decode_pool, "run", run_or_raise)
    sound, odd = decode_pool.prepared_clips(paths, SamplingSettings(), CONFIG, 1, 60)
    assert isinstance(sound, Prepared)
    assert isinstance(odd, DecodeError)
    assert str(odd) == "decoding failed unexpectedly, which deserves a report: IndexError: line one line two"


def run_or_raise(path: str, sampling: SamplingSettings, config: TransformConfig) -> Prepared:
    if "odd" in path:
        raise IndexError("line one\nline two")
    return run(path, sampling, config)


def test_more_pixels_than_a_clip_may_have_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video(tmp_path, NEEDS_LINEAR[0])
    monkeypatch.setattr(worker, "MAX_PIXEL_BYTES", 48 * 3 * 32 * 40)
    assert len(run(str(path), SamplingSettings("all"), CONFIG).views[0].pixels) == 48
    with pytest.raises(DecodeError, match=r"73 frames of 40x32 are above .*--frames"):
        run(str(path), SamplingSettings("all", views=1), CONFIG)


def _absent(path: Path) -> None:
    pass


def _dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _linked_fifo(path: Path) -> None:
    os.mkfifo(path.with_name("fifo"))
    path.symlink_to(path.with_name("fifo"))


def _socket(path: Path) -> None:
    # The name of a socket may have 107 characters, the folders of tests have more.
    with socket.socket(socket.AF_UNIX) as server, tempfile.TemporaryDirectory() as folder:
        server.bind(f"{folder}/s")
        Path(f"{folder}/s").rename(path)


def _concat_list(path: Path) -> None:
    make_video(path.parent, Recipe("part", ".avi", "mpeg4"))
    path.write_text("ffconcat version 1.0\nfile part.avi\n")


def _stream_list(path: Path) -> None:
    make_video(path.parent, Recipe("part", ".ts", "libx264"))
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\npart.ts\n#EXT-X-ENDLIST\n")


def _huge_header(path: Path) -> None:
    """Pictures of 65,500 x 65,500 by their own headers: 6 GB of samples."""
    data = make_video(path.parent, Recipe("small", ".avi", "mjpeg", 4, pix_fmt="yuvj420p")).read_bytes()
    size = (48).to_bytes(2, "big") + (64).to_bytes(2, "big")
    assert data.count(size) >= 4
    path.write_bytes(data.replace(size, (65_500).to_bytes(2, "big") * 2))


def _huge_container_header(path: Path) -> None:
    """100,000 x 100,000 in both headers of an AVI without compression."""
    data = make_video(path.parent, Recipe("raw", ".avi", "rawvideo", 4)).read_bytes()
    size = (64).to_bytes(4, "little") + (48).to_bytes(4, "little")
    assert data.count(size) == 2
    path.write_bytes(data.replace(size, (100_000).to_bytes(4, "little") * 2))


def _strip(path: Path) -> None:
    make_video(path.parent, Recipe("strip", ".avi", "mjpeg", 1, 2_000, 16, "yuvj420p")).rename(path)


def _folder(path: Path) -> None:
    path.mkdir()


def _empty(path: Path) -> None:
    path.touch()


def _text(path: Path) -> None:
    path.write_text("not a video\n" * 50)


def _sound(path: Path) -> None:
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(8000))


def _huge(path: Path) -> None:
    make_video(path.parent, Recipe("wide", ".avi", "mjpeg", 1, 16_400, 16, "yuvj420p")).rename(path)


def _no_frames(path: Path) -> None:
    whole = make_video(path.parent, Recipe("header", ".avi", "mpeg4")).read_bytes()
    path.write_bytes(whole[: whole.index(b"movi") + 4])


def _changing_size(path: Path) -> None:
    pictures = [numbered_frame(0, 48, 64)] * 8 + [numbered_frame(1, 96, 80)] * 8
    with path.open("wb") as file:
        for picture in pictures:
            Image.fromarray(picture).save(file, "JPEG")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_absent, "No such file"),
        (_dangling, "No such file"),
        (_loop, "symbolic links"),
        (_device, "not a regular file"),
        (_linked_fifo, "not a regular file"),
        (_socket, "not a regular file"),
        (_concat_list, "playlist"),
        (_stream_list, "playlist|not a readable video"),
        (_huge_header, "no frame could be decoded"),
        (_huge_container_header, "one above 35,389,440 pixels"),
        (_strip, "2000x16 pixels"),
        (_folder, "not a regular file"),
        (os.mkfifo, "not a regular file"),
        (_empty, "empty"),
        (_text, "not a readable video"),
        (_sound, "no video stream"),
        (_huge, "16400x16 pixels"),
        (_no_frames, "no frame could be decoded"),
        (_changing_size, "change size, from 64x48 to 80x96"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_bad_clip_is_told_in_one_line(make: Callable[[Path], None], reason: str, tmp_path: Path) -> None:
    path = tmp_path / ("clip.mjpeg" if make is _changing_size else "clip.avi")
    make(path)
    with pytest.raises(DecodeError, match=reason) as caught:
        decode_clip(path, np.arange)
    assert "\n" not in str(caught.value)
    # The reason stands in the cache and counts in its content, which must not hang on where the videos lie.
    assert str(tmp_path) not in str(caught.value)


def test_preprocessing_is_the_models_own(tmp_path: Path) -> None:
    model = timm.create_model("resnet18", pretrained=False)
    settings = resolve_model_data_config(model)
    frames = np.stack([numbered_frame(i, 120, 160) for i in range(2)])
    pixels = prepare(frames, TransformConfig.of(settings))
    assert pixels.shape == (2, 3, 224, 224)
    assert pixels.dtype == np.uint8
    mean, std = (torch.tensor(settings[key]).view(3, 1, 1) for key in ("mean", "std"))
    whole = timm.data.create_transform(**settings, is_training=False)
    for frame, ours in zip(frames, pixels, strict=True):
        ours_normalised = (torch.from_numpy(ours) / 255 - mean) / std
        torch.testing.assert_close(ours_normalised, whole(Image.fromarray(frame)))


@pytest.fixture(scope="module")
def pool() -> Iterator[pebble.ProcessPool]:
    with pebble.ProcessPool(1, context=worker_context(), initializer=initialise) as workers:
        yield workers
        workers.stop()


def test_a_worker_returns_a_prepared_clip(pool: pebble.ProcessPool, tmp_path: Path) -> None:
    for made in (EXACT_WITH_DECORD[0], NEEDS_LINEAR[0]):
        path = make_video(tmp_path, made)
        done: Prepared = pool.schedule(
            run, args=(str(path), SamplingSettings(frames=7), CONFIG), timeout=60
        ).result()
        clip = decode_clip(path, lambda n: sample("uniform", n, 7))
        assert done.decoder == clip.decoder
        (view,) = done.views
        assert view.indices.tolist() == clip.indices.tolist()
        assert (done.source_frames, done.fps) == (48, 25)
        assert done.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        np.testing.assert_array_equal(view.pixels, prepare(clip.frames, CONFIG))


def test_a_bad_clip_costs_a_worker_nothing(pool: pebble.ProcessPool, tmp_path: Path) -> None:
    path = tmp_path / "empty.mp4"
    path.touch()
    with pytest.raises(DecodeError, match="empty"):
        pool.schedule(run, args=(str(path), SamplingSettings(frames=7), CONFIG), timeout=60).result()


def test_a_huge_picture_is_refused_before_it_takes_memory(pool: pebble.ProcessPool, tmp_path: Path) -> None:
    """VP8 of 16,000 x 16,000 pixels by its own header: FFmpeg takes 384 MB a picture before it reads on."""
    path = make_video(tmp_path, Recipe("vp8", ".webm", "libvpx", 4, options=(("deadline", "realtime"),)))
    start = b"\x9d\x01\x2a"
    data, small = path.read_bytes(), start + (64).to_bytes(2, "little") + (48).to_bytes(2, "little")
    assert small in data
    path.write_bytes(data.replace(small, start + (16_000).to_bytes(2, "little") * 2))
    growth, reason = pool.schedule(growth_of_peak, args=(str(path),), timeout=60).result()
    assert "no frame could be decoded" in reason
    assert growth < 250 * 2**20


def growth_of_peak(path: str) -> tuple[int, str]:
    before = peak_memory()
    with pytest.raises(DecodeError) as caught:
        decode_clip(Path(path), np.arange)
    return peak_memory() - before, str(caught.value)


def peak_memory() -> int:
    """Bytes of address space: FFmpeg does not touch all it takes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmPeak:"))


def test_a_worker_cannot_take_all_the_memory(pool: pebble.ProcessPool) -> None:
    with pytest.raises(MemoryError):
        pool.schedule(bytes, args=(5 * 2**30,), timeout=60).result()
    assert pool.schedule(len, args=(bytes(2**20),), timeout=60).result() == 2**20


def test_views_come_from_one_pass_and_are_mirrored_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video(tmp_path, NEEDS_LINEAR[0])
    sampling = SamplingSettings("first", 5, interval=3, views=8, seed=1)
    every = prepare(decode_clip(path, np.arange).frames, CONFIG)
    surveys: list[Path] = []
    plain = linear.survey

    def counted(path: Path, likely: Set[int] | None, *, strict: bool) -> linear.Survey:
        surveys.append(path)
        return plain(path, likely, strict)

    monkeypatch.setattr(linear, "survey", counted)
    done = run(str(path), sampling, CONFIG)
    assert len(surveys) == 1
    planned = plan(sampling, 48, 25.0, hashlib.sha256(path.read_bytes()).hexdigest())
    assert {view.flip for view in planned} == {True, False}
    for view, made in zip(planned, done.views, strict=True):
        expected = every[view.indices]
        assert made.indices.tolist() == view.indices.tolist()
        np.testing.assert_array_equal(made.pixels, np.flip(expected, 3) if view.flip else expected)
    renamed = path.rename(tmp_path / "other name.mpg")
    for made, again in zip(done.views, run(str(renamed), sampling, CONFIG).views, strict=True):
        np.testing.assert_array_equal(made.pixels, again.pixels)


def test_a_clip_that_cannot_be_sampled_is_a_failure(tmp_path: Path) -> None:
    path = make_video(tmp_path, NEEDS_LINEAR[0])
    with pytest.raises(DecodeError, match="too short: 48 frames"):
        run(str(path), SamplingSettings("first", 49, short="error"), CONFIG)


def test_a_crash_and_a_hang_cost_one_clip_each(pool: pebble.ProcessPool, tmp_path: Path) -> None:
    path = str(make_video(tmp_path, EXACT_WITH_DECORD[0]))
    clip = (path, SamplingSettings(frames=3), CONFIG)
    # pow() computes for minutes without letting go of the interpreter lock, as decord's endless loop does.
    jobs: list[pebble.ProcessFuture] = [
        pool.schedule(run, args=clip, timeout=60),
        pool.schedule(signal.raise_signal, args=(signal.SIGKILL,), timeout=60),
        pool.schedule(run, args=clip, timeout=60),
        pool.schedule(pow, args=(3, 10**9), timeout=1),
        pool.schedule(run, args=clip, timeout=60),
    ]
    outcomes = [type(job.exception()) for job in jobs]
    nothing = type(None)
    assert outcomes == [nothing, pebble.ProcessExpired, nothing, ClipTimeoutError, nothing]


def expect_equal(path: Path) -> ClipFrames:
    """Every frame, some at random and some uniform ones equal FFmpeg's; the clip decoded whole."""
    clip = decode_clip(path, np.arange)
    reference = ffmpeg_frames(path, clip.frames.shape[1:3])
    assert clip.source_frames == len(reference)
    np.testing.assert_array_equal(clip.frames, reference)
    shuffled = np.random.default_rng(0).integers(0, len(reference), 12)
    for indices in (sample("uniform", len(reference), 16), shuffled):
        part = decode_clip(path, lambda n, indices=indices: indices)  # type: ignore[misc]
        assert part.decoder == clip.decoder
        assert part.indices.tolist() == indices.tolist()
        np.testing.assert_array_equal(part.frames, reference[indices])
    return clip


def ffmpeg_frames(path: Path, size: tuple[int, int]) -> np.ndarray:
    """(N, H, W, 3) uint8: every frame by the FFmpeg binary, in order, none added, dropped or turned."""
    arguments = ["-nostdin", "-v", "quiet", "-threads", "1", "-noautorotate", "-i", str(path), "-map", "0:v:0"]
    output = ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), *arguments, *output], stdout=subprocess.PIPE, check=False
    )
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, *size, 3)


def ffmpeg(*arguments: str | Path) -> None:
    """Run the FFmpeg binary."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-y", "-v", "error", *map(str, arguments)]
    subprocess.run(command, check=True)
