"""`harvib predict --overlay`: every frame of the video, the running prediction on it, whole or not there."""

from __future__ import annotations

import itertools
import json
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from predict_models import jpeg, make_cache, make_model, make_videos, pictures_of, predict
from small_runs import assert_refused
from videos import Recipe, numbered_frame, write_video

from harfeat.extractor import pictures as decoded
from harfeat.sampling import SamplingSettings
from harvib.errors import InputError
from harvib.predict import overlay
from harvib.predict.overlay import Overlay
from harvib.predict.panel import Panel

WIDTH, HEIGHT = 320, 240
ROWS = [("walk", 0.8), ("run", 0.15), ("sit", 0.05)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    cache = make_cache(
        make_videos(folder / "videos", clips=1), folder / "c.h5", sampling=SamplingSettings(frames=3)
    )
    make_model(cache, folder / "model.safetensors", readout="last")
    pictures = [np.zeros((HEIGHT, WIDTH, 3), np.uint8) + 9 * (index % 20) for index in range(24)]
    write_video(folder / "grey.avi", pictures, Recipe("x", ".avi", "mpeg4", width=WIDTH, height=HEIGHT, rate=12))
    return folder


def panel_of(width: int = WIDTH, height: int = HEIGHT, rows: int = 3) -> Panel:
    return Panel(width, height, rows)


def test_every_frame_is_there_with_the_prediction_so_far_on_it(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.mp4"
    result = predict("--model", made / "model.safetensors", "--json", "--overlay", out, made / "grey.avi")
    assert result.exit_code == 0, result.output
    (line,) = map(json.loads, result.stdout.splitlines())
    assert line["frames"] == [4, 12, 20]
    with av.open(str(out)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.average_rate == 12
        assert stream.codec_context.pix_fmt == "yuv420p"
    ours, theirs = list(decoded(out)), list(decoded(made / "grey.avi"))
    assert len(ours) == len(theirs) == 24
    rows, columns = panel_of().region
    labels = []
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == (HEIGHT, WIDTH, 3)
        # Beside the panel the video is as it was.
        outside = np.ones((HEIGHT, WIDTH), bool)
        outside[max(0, rows.start - 2) :, : columns.stop + 2] = False
        assert np.abs(one[outside].astype(int) - other[outside]).max() <= 8
        labels.append(one[rows, columns][..., 2].astype(int) - other[rows, columns][..., 2])
    # It changes where the model saw a frame, and nowhere else but for the encoder's rounding.
    changes = [float(np.abs(after - before).mean()) for before, after in itertools.pairwise(labels)]
    jumps = {index + 1 for index, change in enumerate(changes) if _bar_changed(labels, index)}
    assert jumps == {4, 12, 20}, changes


def _bar_changed(labels: list[np.ndarray], index: int) -> bool:
    """Whether a clear share of the panel's pixels is another colour than a frame before."""
    return bool((np.abs(labels[index + 1] - labels[index]) > 40).mean() > 0.004)


def test_nothing_is_there_before_all_of_it_is(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, video = tmp_path / "o.mp4", made / "grey.avi"
    out.write_text("what was there before")
    with monkeypatch.context() as patch:
        genuine = Overlay.add

        def add(self: Overlay, picture: np.ndarray, time: float, rows: list[tuple[str, float]]) -> None:
            genuine(self, picture, time, rows)
            if time > 1:
                raise InputError("full")

        patch.setattr(Overlay, "add", add)
        assert_refused(predict("--model", made / "model.safetensors", "--overlay", out, video), "full")
    assert out.read_text() == "what was there before"
    (tmp_path / "no.avi").write_text("no video")
    failed = predict("--model", made / "model.safetensors", "--overlay", out, tmp_path / "no.avi")
    assert failed.exit_code == 1
    assert out.read_text() == "what was there before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["no.avi", "o.mp4"]
    with pytest.raises(KeyboardInterrupt):
        _interrupted(tmp_path / "p.mp4")
    with Overlay(tmp_path / "p.mp4", 25, 3):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["no.avi", "o.mp4"]


def _interrupted(path: Path) -> None:
    with Overlay(path, 25, 3) as half:
        half.add(numbered_frame(0, 48, 64), 0.0, ROWS)
        raise KeyboardInterrupt


def test_what_cannot_be_written_is_told_in_one_line(made: Path, tmp_path: Path) -> None:
    model, video = made / "model.safetensors", made / "grey.avi"
    (tmp_path / "folder.mp4").mkdir()
    copy = tmp_path / "v.mp4"
    copy.write_bytes(video.read_bytes())
    (tmp_path / "link.mp4").symlink_to(copy)
    for name, told in (("folder.mp4", "is a folder"), ("link.mp4", "is the video itself"), ("v.mp4", "itself")):
        assert_refused(predict("--model", model, "--overlay", tmp_path / name, copy), told)
    assert copy.read_bytes() == video.read_bytes()
    (tmp_path / ".o.mp4.part").mkdir()
    assert_refused(predict("--model", model, "--overlay", tmp_path / "o.mp4", copy), "o.mp4: cannot be written")


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "libx264"), (".mkv", "libx264"), (".mov", "mpeg4")])
@pytest.mark.parametrize(("width", "height"), [(63, 47), (2, 2), (320, 241)])
def test_sizes_are_made_even(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, height: int, suffix: str, codec: str
) -> None:
    monkeypatch.setattr(overlay, "_ENCODERS", [pair for pair in overlay._ENCODERS if pair[0] == codec])
    path = tmp_path / f"o{suffix}"
    with Overlay(path, 30000 / 1001, 3) as written:
        for index in range(5):
            written.add(numbered_frame(index, height, width), index * 1001 / 30000, ROWS)
        # A camera that changes its mind, and its clock.
        written.add(numbered_frame(5, 20, 30), 0.0, [])
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert {(frame.width, frame.height) for frame in frames} == {(width + width % 2, height + height % 2)}
    assert len(frames) == 6
    assert frames[1].time == pytest.approx(1001 / 30000, abs=1e-3)
    times = [frame.time or 0.0 for frame in frames]
    assert times == sorted(set(times))


def test_a_stream_is_drawn_as_it_comes(made: Path, tmp_path: Path) -> None:
    data = b"".join(map(jpeg, pictures_of(1, 0, 9)))
    for extra in (["--stream", "--interval", "2"], []):
        out = tmp_path / f"o{len(extra)}.mp4"
        result = predict(
            "--model", made / "model.safetensors", *extra, "--fps", "5", "--overlay", out, "-", stdin=data
        )
        assert result.exit_code == 0, result.output
        with av.open(str(out)) as container:
            assert container.streams.video[0].average_rate == Fraction(5)
        assert len(list(decoded(out))) == 9


@pytest.mark.parametrize(
    ("width", "height"), [(320, 240), (1920, 1080), (176, 144), (64, 48), (20, 8), (240, 1080)]
)
def test_the_panel_fits_and_shows_what_is_asked(width: int, height: int) -> None:
    panel = panel_of(width, height)
    plain = np.full((height, width, 3), 128, np.uint8)
    waiting, told, more = plain.copy(), plain.copy(), plain.copy()
    panel.draw_on(waiting, [])
    panel.draw_on(told, ROWS)
    panel.draw_on(more, [("walk", 0.9), *ROWS[1:]])
    rows, columns = panel.region
    for drawn in (waiting, told, more):
        outside = drawn.copy()
        outside[rows, columns] = 128
        assert (outside == 128).all()
        assert (drawn != plain).any()
    if height >= 48:
        assert (told != waiting).any()
    if height >= 144:
        # A longer bar is as much longer as the probability is: the blue of the first row.
        blue = [int((drawn[..., 2].astype(int) - drawn[..., 0] > 120).any(0).sum()) for drawn in (told, more)]
        inner = columns.stop - columns.start - 2 * round(0.5 * panel.size)
        assert blue[1] - blue[0] == pytest.approx(0.1 * inner, abs=2)


@pytest.mark.parametrize(("width", "height"), [(320, 240), (1920, 1080)])
def test_the_text_is_large_enough_to_read(width: int, height: int) -> None:
    """Letters are at least 8 pixels high, white on dark, even above white and noise."""
    panel = panel_of(width, height)
    noise = np.asarray(Image.effect_noise((width, height), 90).convert("RGB")).copy()
    panel.draw_on(noise, [("HHHH", 0.01), ("x", 0.0)])
    rows, columns = panel.region
    head = noise[rows.start : rows.start + 2 * panel.size, columns].min(2)
    white = (head > 240).any(1)
    assert 8 <= int(white.sum()) <= 2 * panel.size
    assert np.median(head) < 70


def test_labels_of_any_length_and_script_are_drawn(tmp_path: Path) -> None:
    panel = panel_of(320, 240, 5)
    picture = np.zeros((240, 320, 3), np.uint8)
    panel.draw_on(
        picture, [("a label that is far too long for this " * 9, 1.0), ("öl {{ 走る }}\n\x00", 0.0), ("", 0.0)]
    )
    assert picture.any()


def test_the_encoders_are_those_of_this_build() -> None:
    assert any(name in av.codecs_available for name, _ in overlay._ENCODERS)
    assert os.fspath(overlay.overlay_path("x.mp4", [])) == "x.mp4"


@pytest.mark.parametrize(("width", "height"), [(160, 120), (320, 240), (1920, 1080)])
def test_half_of_a_picture_stays_free(width: int, height: int) -> None:
    panel = Panel(width, height, 50)
    assert panel.region[0].start >= height // 2
    assert panel.region[0].stop == height
