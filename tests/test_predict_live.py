"""`harvib predict` on cameras and standard input: the same pictures give the same labels as in a file."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from predict_models import CLASSES, HEIGHT, WIDTH, jpeg, make_cache, make_model, make_videos, pictures_of, predict
from small_runs import assert_refused
from videos import Recipe, write_video

from harfeat.extractor import pictures as decoded
from harfeat.sampling import SamplingSettings, plan
from harvib.errors import InputError
from harvib.predict import Predictor, live
from harvib.predict.inputs import Camera, Pipe, inputs_of
from harvib.predict.live import BrokenSourceError, Picture, PipeSource, live_source, record
from harvib.predict.pace import pace_of

CAMERA = "testsrc=size=64x48:rate=10"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos, and a model on a uniform cache of them, `uniform`, and one of every third frame, `dense`."""
    folder = tmp_path_factory.mktemp("made")
    videos = make_videos(folder / "videos", clips=1)
    make_model(make_cache(videos, folder / "u.h5"), folder / "uniform.safetensors")
    dense = make_cache(videos, folder / "d.h5", sampling=SamplingSettings("dense", interval=3))
    make_model(dense, folder / "dense.safetensors")
    make_model(dense, folder / "both.safetensors", shape=((4, 4),))
    flow = make_cache(videos, folder / "f.h5", sampling=SamplingSettings(frames=3, stream="flow"))
    make_model(flow, folder / "flow.safetensors")
    return folder


def video_of(made: Path) -> Path:
    return made / "videos" / "run" / "g0_run.avi"


def jpegs_in(video: Path) -> list[bytes]:
    """The very pictures that an MJPEG file holds."""
    with av.open(str(video)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def shares(line: dict[str, Any]) -> np.ndarray:
    by_label = {item["label"]: item["probability"] for item in line["top"]}
    return np.array([by_label[name] for name in CLASSES])


@pytest.mark.parametrize("model", ["uniform", "dense", "flow"])
def test_a_stream_that_ends_is_predicted_as_the_file_of_its_pictures(made: Path, model: str) -> None:
    pictures = jpegs_in(video_of(made))
    ours = predict("--model", made / f"{model}.safetensors", "--json", "-", stdin=b"".join(pictures))
    theirs = predict("--model", made / f"{model}.safetensors", "--json", video_of(made))
    assert ours.exit_code == 0, ours.output
    (line,), (wanted,) = lines_of(ours.stdout), lines_of(theirs.stdout)
    assert line == wanted | {"input": "-"}


def test_every_step_of_a_stream_is_that_of_the_file(made: Path) -> None:
    pictures = jpegs_in(video_of(made))
    boundary = b"\r\n--frame\r\nContent-Type: image/jpeg\r\n\r\n"
    model = made / "dense.safetensors"
    ours = predict("--model", model, "--json", "--stream", "-", stdin=boundary + boundary.join(pictures))
    theirs = predict("--model", model, "--json", "--stream", video_of(made))
    assert ours.exit_code == 0, ours.output
    steps, wanted = lines_of(ours.stdout), lines_of(theirs.stdout)
    assert len(steps) == len(wanted) == math.ceil(len(pictures) / 3)
    for step, same in zip(steps, wanted, strict=True):
        assert (step["input"], step["frame"], step["time"]) == ("-", same["frame"], same["time"])
        np.testing.assert_allclose(shares(step), shares(same), atol=1e-5)


def test_broken_pictures_cost_themselves_and_are_counted(made: Path) -> None:
    pictures = jpegs_in(video_of(made))
    hurt = [
        *pictures[:2],
        pictures[2][: len(pictures[2]) // 2],
        *pictures[3:5],
        b"\xff\xd8\xff\xd9",
        *pictures[5:],
    ]
    model = made / "uniform.safetensors"
    whole = predict("--model", model, "--json", "-", stdin=b"".join([*pictures[:2], *pictures[3:]]))
    ours = predict("--model", model, "--json", "-", stdin=b"".join(hurt))
    assert (ours.exit_code, ours.stdout) == (0, whole.stdout)
    assert ours.stderr == "note: -: 2 broken pictures were left out\n"
    for extra in ([], ["--stream", "--interval", "2"]):
        nothing = predict("--model", model, *extra, "--json", "-", stdin=b"no pictures \xff\xd8\xff here")
        assert nothing.exit_code == 1
        assert lines_of(nothing.stdout) == [{"input": "-", "error": "no JPEG picture in it"}]
        assert "1 broken pictures" in nothing.stderr


def test_a_stream_can_be_ended_paced_and_begun_anew(made: Path) -> None:
    data = b"".join(jpegs_in(video_of(made)))

    def frames(*arguments: str) -> list[tuple[int, float]]:
        lines = lines_of(
            predict("--model", made / "uniform.safetensors", "--json", *arguments, "-", stdin=data).stdout
        )
        return [(line["frame"], line["time"]) for line in lines]

    assert frames("--stream", "--interval", "4") == [(0, 0.0), (4, 0.16), (8, 0.32), (12, 0.48)]
    assert frames("--stream", "--interval", "4", "--frames", "5") == [(0, 0.0), (4, 0.16)]
    assert frames("--stream", "--interval", "1", "--seconds", "0.5", "--fps", "4") == [(0, 0.0), (1, 0.25)]
    model, stream = made / "dense.safetensors", ("--json", "--stream")
    anew = lines_of(predict("--model", model, *stream, "--restart-every", "1", "-", stdin=data).stdout)
    alone = lines_of(predict("--model", model, *stream, "-", stdin=b"".join(jpegs_in(video_of(made))[3:])).stdout)
    np.testing.assert_allclose(shares(anew[1]), shares(alone[0]), atol=1e-6)
    kept = predict("--model", made / "uniform.safetensors", "--json", "--frames", "6", "-", stdin=data)
    (line,) = lines_of(kept.stdout)
    assert line["source_frames"] == 6


def as_camera(monkeypatch: pytest.MonkeyPatch, source: str = CAMERA) -> None:
    """A device of FFmpeg's own in the place of a camera: there is none here."""
    monkeypatch.setattr(live, "open_device", lambda device: av.open(source, format="lavfi"))


def test_a_camera_is_seen_frame_by_frame(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_camera(monkeypatch)
    model = made / "dense.safetensors"
    result = predict("--model", model, "--json", "--stream", "--frames", "8", "0")
    assert result.exit_code == 0, result.output
    steps = lines_of(result.stdout)
    assert [(step["input"], step["frame"], step["time"]) for step in steps] == [
        ("camera 0", 0, 0.0),
        ("camera 0", 3, 0.3),
        ("camera 0", 6, 0.6),
    ]
    stream = Predictor(model, device="cpu", batch=1).stream()
    with av.open(CAMERA, format="lavfi") as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index % 3 == 0 and index < 8:
                _, theirs = stream.see(frame.to_ndarray(format="rgb24"))
                np.testing.assert_allclose(shares(steps[index // 3]), theirs, atol=1e-6)
            if index == 8:
                break
    result = predict("--model", made / "uniform.safetensors", "--json", "--seconds", "1.2", "0")
    (line,) = lines_of(result.stdout)
    assert (line["input"], line["source_frames"], line["fps"]) == ("camera 0", 12, 10.0)


def test_who_falls_behind_a_camera_is_told_once(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_camera(monkeypatch)
    clock = iter(np.arange(0, 100, 0.36))
    monkeypatch.setattr(live, "monotonic", lambda: float(next(clock)))
    model = made / "dense.safetensors"
    result = predict("--model", model, "--stream", "--frames", "30", "0")
    # 0.26 s more with every picture: above 2 s at the eighth after the first.
    assert result.stderr.count("camera 0: 2.1 s behind: frames come faster") == 1
    assert result.stderr.count("\n") == 1
    clock = iter(np.arange(0, 100, 0.1))
    assert predict("--model", model, "--stream", "--frames", "30", "0").stderr == ""


def test_wrong_use_of_live_sources_is_told_in_one_line(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"".join(jpegs_in(video_of(made)))
    cases: list[tuple[str, list[str], str]] = [
        ("dense", ["--stream", "7"], "camera 7: cannot be opened: No such file or directory"),
        ("dense", ["7"], "camera 7: has no end: say --seconds or --frames, or --stream"),
        ("uniform", ["--stream", "-"], "trained on 4 uniform frames of whole clips"),
        ("dense", ["--stream", "--interval", "3", "-"], "--interval 3: the model has a step of its own"),
        ("flow", ["--stream", "--interval", "3", "-"], "the model sees flow, which takes the next frame too"),
        ("both", ["--stream", "-"], "no state to carry on"),
        ("dense", ["--stream", "--fps", "0", "-"], "--fps 0: must be from 0.001"),
        ("dense", ["--seconds", "-1", "-"], "--seconds -1: must be at least 0"),
    ]
    for model, arguments, told in cases:
        result = predict("--model", made / f"{model}.safetensors", *arguments, stdin=data)
        assert_refused(result, told)
        assert result.stdout == ""
    both = predict(
        "--model", made / "both.safetensors", "--json", "--stream", "--restart-every", "2", "-", stdin=data
    )
    assert len(lines_of(both.stdout)) == 5
    monkeypatch.setattr(live.sys, "platform", "win32")
    assert_refused(
        predict("--model", made / "dense.safetensors", "--stream", "0"), "harvib predict --stream ... -`"
    )


def test_a_camera_that_breaks_off_is_told_and_ends_with_1(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_camera(monkeypatch)
    genuine = live.CameraSource.decoded

    def unplugged(self: live.CameraSource) -> Iterator[Any]:
        for index, frame in enumerate(genuine(self)):
            if index == 4:
                raise BrokenSourceError("No such device")
            yield frame

    monkeypatch.setattr(live.CameraSource, "decoded", unplugged)
    out = made / "broken.mp4"
    result = predict("--model", made / "dense.safetensors", "--stream", "--overlay", out, "0")
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 2
    assert result.stderr == "failed: camera 0: No such device\n"
    # What was seen is whole.
    assert len(list(decoded(out))) == 4
    result = predict("--model", made / "dense.safetensors", "--frames", "9", "0")
    assert (result.exit_code, result.stdout) == (1, "")


def test_words_name_files_before_cameras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert inputs_of(["0"]) == Camera("0")
    assert inputs_of(["-"]) == Pipe()
    assert inputs_of([os.devnull]) == Camera(os.devnull)
    (tmp_path / "0").touch()
    assert inputs_of(["0"]).videos == (Path("0"),)  # type: ignore[union-attr]
    for words, told in (
        (["12345"], "no such file"),
        (["x\0"], "no such file"),
        (["0", "1"], "stands alone"),
        ([], "name"),
        ([""], "empty name"),
    ):
        with pytest.raises(InputError, match=told):
            inputs_of(words)


def test_a_terminal_is_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    for stdin in (Terminal(), None):
        monkeypatch.setattr(live.sys, "stdin", stdin)
        with pytest.raises(InputError, match="standard input is a terminal or closed"):
            live_source(Pipe(), 25)


class Bytes:
    """A stream of bytes in the place of standard input."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read1(self, size: int) -> bytes:
        piece, self._data = self._data[:size], self._data[size:]
        return piece


def test_a_recording_is_the_pictures_to_the_bit(tmp_path: Path) -> None:
    frames = pictures_of(1, 0, 5)
    source = PipeSource("-", Bytes(b"".join(map(jpeg, frames))), 30000 / 1001)  # type: ignore[arg-type]
    seen: list[np.ndarray] = []

    def noted() -> Iterator[Picture]:
        for picture in source.pictures():
            seen.append(picture.rgb())
            yield picture

    assert record(noted(), tmp_path / "r.mkv", source.fps) == 5
    found = list(decoded(tmp_path / "r.mkv"))
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, seen, strict=True))
    with av.open(str(tmp_path / "r.mkv")) as container:
        assert float(container.streams.video[0].average_rate or 0) == pytest.approx(30000 / 1001)
    assert record(iter(()), tmp_path / "none.mkv", 25) == 0
    with pytest.raises(InputError, match="cannot be written: No such file or directory; TMPDIR names another"):
        record(PipeSource("-", Bytes(jpeg(frames[0])), 25).pictures(), tmp_path / "no" / "r.mkv", 25)  # type: ignore[arg-type]
    mixed = jpeg(frames[0]) + jpeg(frames[0][:32].copy())
    with pytest.raises(BrokenSourceError, match="frames change size, from 64x48 to 64x32"):
        record(PipeSource("-", Bytes(mixed), 25).pictures(), tmp_path / "m.mkv", 25)  # type: ignore[arg-type]


def test_pictures_that_no_video_may_have_are_left_out() -> None:
    huge = io.BytesIO()
    Image.new("L", (9000, 9000)).save(huge, "JPEG")
    grey = io.BytesIO()
    Image.new("L", (8, 8), 99).save(grey, "JPEG")
    both = PipeSource("-", Bytes(huge.getvalue() + grey.getvalue()), 25)  # type: ignore[arg-type]
    assert [picture.rgb().tolist() for picture in both.pictures()] == [[[[99] * 3] * 8] * 8]
    assert both.broken == 1
    strip = jpeg(np.zeros((2, 200, 3), np.uint8))
    source = PipeSource("-", Bytes(strip + jpeg(np.zeros((8, 8, 3), np.uint8))), 25)  # type: ignore[arg-type]
    assert [picture.rgb().shape for picture in source.pictures()] == [(8, 8, 3)]
    assert source.broken == 1


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["dense", "all", "fps", "first"]),
    st.integers(1, 7),
    st.sampled_from([10.0, 23.976, 25.0, 30000 / 1001, 60.0]),
    st.sampled_from([0.5, 3.0, 7.5, 25.0, 29.97, 100.0]),
    st.integers(1, 90),
)
def test_the_pace_of_a_stream_is_the_rule_of_the_cache(
    rule: str, interval: int, source_fps: float, fps: float, frames: int
) -> None:
    changes: dict[str, Any] = {"interval": interval} if rule in ("dense", "first") else {}
    changes |= {"fps": fps} if rule == "fps" else {}
    sampling = SamplingSettings(rule, frames=90 if rule == "first" else 0, **changes)
    pace = pace_of([sampling], 0, source_fps)
    ours = [frame for frame in range(frames) for _ in range(pace.due(frame))]
    theirs = plan(sampling, frames, source_fps, "")[0].indices.tolist()
    # What repeats the last frame of a clip that has too few has no end to repeat here.
    wanted = theirs[: 1 + (frames - 1) // interval] if rule == "first" else theirs
    assert ours == wanted
    other = SamplingSettings("dense", interval=interval + 1)
    if rule in ("dense", "first"):
        with pytest.raises(InputError, match="different steps"):
            pace_of([sampling, other], 0, source_fps)


@pytest.fixture
def slow_stream(made: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command in a process of its own, whose standard input stays open."""
    command = [sys.executable, "-m", "harvib", "predict", "--model", str(made / "dense.safetensors"), "--stream"]
    process = subprocess.Popen(
        [*command, "--device", "cpu", "--overlay", str(tmp_path / "o.mp4"), "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    yield process
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()


def test_ctrl_c_ends_a_stream_with_all_that_was_seen(
    made: Path, tmp_path: Path, slow_stream: subprocess.Popen[bytes]
) -> None:
    assert slow_stream.stdin is not None
    assert slow_stream.stdout is not None
    data = jpegs_in(video_of(made))[:7]
    slow_stream.stdin.write(b"".join(data))
    slow_stream.stdin.flush()
    # Each line comes when its frame does, not when a buffer is full.
    lines = [slow_stream.stdout.readline() for _ in range(3)]
    assert [line.split(b":")[1] for line in lines] == [
        b" 0.00 s, frame 0",
        b" 0.12 s, frame 3",
        b" 0.24 s, frame 6",
    ]
    time.sleep(0.2)
    slow_stream.send_signal(signal.SIGINT)
    out, err = slow_stream.communicate(timeout=60)
    assert (slow_stream.returncode, out, err) == (130, b"", b"harvib: interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["o.mp4"]
    assert len(list(decoded(tmp_path / "o.mp4"))) == 7


def test_who_reads_no_further_ends_it_without_a_word(
    made: Path, tmp_path: Path, slow_stream: subprocess.Popen[bytes]
) -> None:
    assert slow_stream.stdin is not None
    assert slow_stream.stdout is not None
    assert slow_stream.stderr is not None
    data = b"".join(jpegs_in(video_of(made)))
    slow_stream.stdin.write(data)
    slow_stream.stdin.flush()
    assert slow_stream.stdout.readline()
    slow_stream.stdout.close()
    slow_stream.stdin.write(data)
    slow_stream.stdin.close()
    assert slow_stream.wait(60) == 1
    assert slow_stream.stderr.read() == b""
    assert not list(tmp_path.iterdir())


def test_an_h264_stream_in_a_pipe_is_no_mjpeg(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    write_video(path, pictures_of(0, 0, 4), Recipe("x", ".mp4", "libx264", width=WIDTH, height=HEIGHT))
    result = predict("--model", made / "dense.safetensors", "-", stdin=path.read_bytes())
    assert (result.exit_code, result.stdout) == (1, "")
    assert "failed: -: no JPEG picture in it" in result.stderr
