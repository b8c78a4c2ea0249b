"""`--stream flow`: the motion that is there, of the right pairs of frames, in a cache that every reader takes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2 as opencv
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from videos import Recipe, write_video

import harfeat.cli
from harfeat.cache import CacheError, CacheHead, ClipFeatures, ClipRow, StreamLayout, open_cache, write_cache
from harfeat.decode import DecodeError, linear, policy
from harfeat.decode.worker import run
from harfeat.errors import InputError
from harfeat.findings import OK
from harfeat.flow import flow_picture
from harfeat.pipeline import extract
from harfeat.preprocess import TransformConfig
from harfeat.preview import PreviewSettings, write_preview
from harfeat.preview.classify import classifier_of
from harfeat.redecode import redecode
from harfeat.sampling import SamplingSettings, View, plan
from harfeat.settings import ExtractSettings
from harfeat.verify import verify
from harvib.data import load_parts

cv2: Any = opencv  # what its type hints lack
WIDTH, HEIGHT = 64, 48
AS_IT_IS = TransformConfig((HEIGHT, WIDTH), "bilinear", 1.0, "squash")
LOSSLESS = Recipe("clip", ".avi", "ffv1", pix_fmt="yuv444p")
STEPS = ((3, 0), (-2, 1), (0, -4), (5, 2), (1, 1), (-6, 0), (2, -3), (0, 2))
"""How far a clip moves from frame to frame, in pixels to the right and down: no two alike."""


def texture(seed: int) -> np.ndarray:
    """(48, 64, 3) smooth colours that go on beyond each edge at the other one."""
    noise = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    tiled = cv2.GaussianBlur(np.tile(noise, (3, 3, 1)), (0, 0), 2).astype(float)
    middle = tiled[HEIGHT : 2 * HEIGHT, WIDTH : 2 * WIDTH]
    return ((middle - middle.min()) * 255 / np.ptp(middle)).astype(np.uint8)


def moving(path: Path, steps: tuple[tuple[int, int], ...], seed: int = 0, recipe: Recipe = LOSSLESS) -> Path:
    frames = [texture(seed)]
    for right, down in steps:
        frames.append(np.roll(frames[-1], (down, right), (0, 1)))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, frames, replace(recipe, width=WIDTH, height=HEIGHT))
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of three clips that move in their own ways."""
    made = tmp_path_factory.mktemp("videos")
    for number in range(6):
        steps = STEPS[number:] + STEPS[:number]
        moving(made / ("jump", "run")[number % 2] / f"g{number}.avi", steps, number)
    return made


def settings(root: Path, out: Path, **changes: Any) -> ExtractSettings:
    """Flow as pixels of the video's own size, so that a row is what the flow of its pair is."""
    plain = {"model": "pixels", "size": f"{WIDTH}x{HEIGHT}", "workers": 0, "shard": "none"}
    fields: dict[str, Any] = plain | {"sampling": SamplingSettings(frames=4, views=2, stream="flow")} | changes
    return ExtractSettings("folder", root, out, **fields)


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "x.h5"
    extract(settings(root, out), progress=False)
    return out


def command(*arguments: object) -> Result:
    return CliRunner().invoke(harfeat.cli.main, [str(argument) for argument in arguments])


def linear_frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def by_hand(frames: list[np.ndarray], index: int) -> np.ndarray:
    """(48, 64, 3) uint8 of the pair that stands for a frame: OpenCV and arithmetic alone."""
    first = index if index + 1 < len(frames) else index - 1
    one, other = (cv2.cvtColor(frames[place], cv2.COLOR_RGB2GRAY) for place in (first, first + 1))
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(one, other, None)
    u, v = (flow[..., axis].clip(-20, 20) for axis in (0, 1))
    speed = np.sqrt(flow[..., 0] ** 2 + flow[..., 1] ** 2).clip(0, 20)
    return np.stack([np.rint((u + 20) / 40 * 255), np.rint((v + 20) / 40 * 255), np.rint(speed / 20 * 255)], -1)


def assert_flow_of(pixels: np.ndarray, view: View, frames: list[np.ndarray]) -> None:
    """(T, 48, 64, 3), to one level: floats are rounded here in another order."""
    for picture, index in zip(pixels.astype(int), view.indices.tolist(), strict=True):
        expected = by_hand(frames, index)
        if view.flip:
            expected = expected[:, ::-1].copy()
            expected[..., 0] = 255 - expected[..., 0]
        assert np.abs(picture - expected).max() <= 1


def test_a_known_motion_is_found(tmp_path: Path) -> None:
    path = moving(tmp_path / "a.avi", STEPS)
    (view,) = run(str(path), SamplingSettings("all", stream="flow"), AS_IT_IS).views
    assert view.indices.tolist() == list(range(len(STEPS) + 1))
    inside = view.pixels[:, :, 12:-12, 12:-12].astype(float)
    u, v, speed = inside[:, 0] / 255 * 40 - 20, inside[:, 1] / 255 * 40 - 20, inside[:, 2] / 255 * 20
    # The last frame has none after it: its pair is the last one.
    for frame, (right, down) in enumerate((*STEPS, STEPS[-1])):
        assert np.median(u[frame]) == pytest.approx(right, abs=0.2)
        assert np.median(v[frame]) == pytest.approx(down, abs=0.2)
        assert np.median(speed[frame]) == pytest.approx(np.hypot(right, down), abs=0.2)


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingSettings("uniform", 5, views=4),
        SamplingSettings("uniform", 30),
        SamplingSettings("first", 4, interval=2),
        SamplingSettings("first", 12, short="wrap"),
        SamplingSettings("random", 3, seed=4),
        SamplingSettings("dense", interval=4),
    ],
)
def test_rows_are_of_the_right_pairs(sampling: SamplingSettings, tmp_path: Path) -> None:
    path = moving(tmp_path / "a.avi", STEPS, 3)
    frames = linear_frames(path)
    made = run(str(path), replace(sampling, stream="flow"), AS_IT_IS)
    planned = plan(sampling, len(frames), made.fps, made.sha256)  # the very frames of --stream rgb
    assert len(made.views) == len(planned) == 1 + sampling.views
    for ours, view in zip(made.views, planned, strict=True):
        np.testing.assert_array_equal(ours.indices, view.indices)
        assert_flow_of(ours.pixels.transpose(0, 2, 3, 1), view, frames)


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_a_clip_too_long_to_keep_gives_the_same(
    decoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    h264 = Recipe("clip", ".mp4", "libx264", b_frames=2, options=(("g", "12"), ("sc_threshold", "0")))
    path = moving(tmp_path / "a.mp4", STEPS * 3, 3, h264)
    sampling = SamplingSettings("uniform", 6, views=2, stream="flow")
    kept = run(str(path), sampling, AS_IT_IS)
    monkeypatch.setattr(linear, "KEEP_BYTES", 0)
    monkeypatch.setattr(policy, "seeking_pays", lambda *_: decoder == "decord")
    again = run(str(path), sampling, AS_IT_IS)
    assert (kept.decoder, again.decoder) == ("pyav", decoder)
    for one, other in zip(kept.views, again.views, strict=True):
        np.testing.assert_array_equal(one.indices, other.indices)
        np.testing.assert_array_equal(one.pixels, other.pixels)


def test_speeds_are_clipped_and_scaled() -> None:
    flow = np.array([[[0, 0], [20, -20], [25, -25], [3, 4], [-10, 0]]], np.float32)
    expected = [[128, 128, 0], [255, 0, 255], [255, 0, 255], [147, 153, 64], [64, 128, 128]]
    np.testing.assert_array_equal(flow_picture(flow)[0], expected)
    assert flow_picture(flow).dtype == np.uint8


def test_the_backbone_sees_flow_as_a_frame(root: Path, tmp_path: Path) -> None:
    """Extracting the flow of a clip is extracting a clip that shows the flow."""
    network: dict[str, Any] = {"model": "test_vit", "weights": "none", "size": "", "precision": "float32"}
    frames = SamplingSettings("all", stream="flow")
    extract(settings(root, tmp_path / "flow.h5", sampling=frames, **network), progress=False)
    shown = tmp_path / "videos" / "all" / "a.avi"
    shown.parent.mkdir(parents=True)
    decoded = linear_frames(root / "jump" / "g0.avi")
    pictures = [by_hand(decoded, index).astype(np.uint8) for index in range(len(decoded))]
    write_video(shown, pictures, Recipe("a", ".avi", "rawvideo", width=WIDTH, height=HEIGHT, pix_fmt="bgr24"))
    np.testing.assert_array_equal(linear_frames(shown), pictures)
    of_shown = settings(shown.parents[1], tmp_path / "shown.h5", sampling=SamplingSettings("all"), **network)
    extract(of_shown, progress=False)
    with open_cache(tmp_path / "flow.h5") as flow, open_cache(tmp_path / "shown.h5") as rgb:
        assert "saw optical flow, not these frames" in str(classifier_of(flow, None))
        place = [clip.name for clip in flow.clips].index("jump/g0.avi")
        ours, theirs = flow.read(place).features.astype(float), rgb.read(0).features.astype(float)
        assert np.abs(ours - theirs).max() < 0.02 * np.abs(theirs).max()
        assert np.abs(theirs[0] - theirs[1]).max() > 0.1 * np.abs(theirs).max()


def test_the_recipe_tells_all_and_that_of_pictures_is_as_before(root: Path, whole: Path, tmp_path: Path) -> None:
    rgb = settings(root, tmp_path / "rgb.h5", sampling=SamplingSettings(frames=4, views=2))
    extract(rgb, progress=False)
    with open_cache(whole) as flow, open_cache(rgb.out) as pictures:
        assert flow.recipe["flow"] == {
            **{"method": "DIS", "preset": "medium", "pair": "next frame", "clip": 20.0},
            **{"channels": ["u", "v", "magnitude"], "opencv": cv2.__version__},
        }
        theirs = dict(pictures.recipe)
        assert dict(flow.recipe) == theirs | {
            "flow": flow.recipe["flow"],
            "sampling": theirs["sampling"] | {"stream": "flow"},
        }
        assert "stream" not in theirs["sampling"]
        assert (flow.streams, flow.main_stream) == (("flow", "flow-view-1", "flow-view-2"), "flow")
        assert pictures.main_stream == "rgb"
    with pytest.raises(InputError, match=r"sampling\.stream: None against 'flow'"):
        extract(replace(rgb, sampling=settings(root, whole).sampling), progress=False)


def test_every_reader_takes_a_cache_of_flow(root: Path, whole: Path, tmp_path: Path) -> None:
    with open_cache(whole) as cache:
        content = cache.content
        assert (cache.dim(), str(cache.dtype())) == (WIDTH * HEIGHT * 3, "uint8")
        np.testing.assert_array_equal(cache.read(1).features, cache.read(1, "flow").features)
        np.testing.assert_array_equal(cache.read_all(), cache.read_all("flow"))
        (again,) = redecode(cache, root, 6, progress=False)
        assert (again.level, again.text) == (OK, "6 of 6 clips come out bit for bit equal")
        (loaded, viewed) = (load_parts(cache, "random", 0.3, 0, views=views).train for views in (False, True))
        batch = loaded.batch(np.array([1]), torch.device("cpu"))
        stored = cache.read(int(loaded.clips[1])).features
        np.testing.assert_allclose(batch.features[0], stored / np.float32(255), rtol=1e-6)
        assert viewed.views is not None
        assert len(viewed.views) == 2
    assert {finding.level for finding in verify(whole, progress=False)} <= {OK, "note", "warning"}
    assert "all of flow are those that the rule uniform gives" in command("verify", whole).output
    assert json.loads(command("info", whole, "--json").output)["streams"]["flow"]["rows"] == 24
    for number in (1, 2):
        extract(settings(root, tmp_path / "slices", shard=f"{number}/2", workers=0), progress=False)
    assert command("merge", tmp_path / "slices", "--out", tmp_path / "merged.h5").exit_code == 0
    assert command("diff", tmp_path / "merged.h5", whole).exit_code == 0
    with open_cache(tmp_path / "merged.h5") as merged:
        assert merged.content == content
    assert command("export", whole, "--to", "npz", "--out", tmp_path / "x.npz").exit_code == 0
    with np.load(tmp_path / "x.npz") as exported:
        assert exported["flow/features"].shape == (24, WIDTH * HEIGHT * 3)
    assert command("push", whole, tmp_path / "pushed").exit_code == 0
    assert 'stream = file["streams/flow"]' in (tmp_path / "pushed" / "README.md").read_text()
    with open_cache(whole) as cache:
        write_preview(cache, root, tmp_path / "p.html", PreviewSettings(workers=0), progress=False)
    assert (tmp_path / "p.html").read_text().count(
        "data:image/jpeg"
    ) == 4 * 4  # two clips a class, four frames each


def test_a_folder_of_shards_of_flow_opens_as_the_file(root: Path, whole: Path, tmp_path: Path) -> None:
    extract(settings(root, tmp_path / "folder", workers=2), progress=False)
    with open_cache(tmp_path / "folder") as folder, open_cache(whole) as file:
        assert folder.content == file.content
        np.testing.assert_array_equal(folder.read_all(), file.read_all())
        np.testing.assert_array_equal(folder.lengths(), file.lengths())
        assert (folder.dim(), folder.dtype()) == (file.dim(), file.dtype())


def test_clips_without_a_flow_fail_alone(root: Path, tmp_path: Path) -> None:
    made = tmp_path / "videos"
    moving(made / "jump" / "fine.avi", STEPS)
    write_video(made / "jump" / "one.avi", [texture(0)], replace(LOSSLESS, width=WIDTH, height=HEIGHT))
    tiny = [np.asarray(Image.fromarray(texture(0)).resize((16, 6)))] * 3
    write_video(made / "jump" / "tiny.avi", tiny, replace(LOSSLESS, width=16, height=6))
    result = extract(settings(made, tmp_path / "x.h5", workers=1), progress=False)
    assert {failure.name: failure.reason for failure in result.failures} == {
        "jump/one.avi": "the clip has a single frame, so there is no optical flow",
        "jump/tiny.avi": "no optical flow of it: its frames of 16x6 are too small, it takes 12x8",
    }
    assert result.clips == 1


def test_without_opencv_one_line_names_the_install(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    arguments = ("extract", "--dataset", "folder", "--root", root, "--model", "pixels", "--out")
    done = command(*arguments, tmp_path / "x.h5", "--stream", "flow")
    assert done.exit_code == 2
    assert done.output.strip().endswith("OpenCV is not installed: pip install 'harfeat[flow]'")
    assert list(tmp_path.iterdir()) == []
    assert command(*arguments, tmp_path / "x.h5", "--frames", "2", "--workers", "0").exit_code == 0


def test_what_opencv_refuses_is_the_clips_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def calc(self, *_: object) -> np.ndarray:
            raise cv2.error("no\nluck")

    monkeypatch.setattr(cv2, "DISOpticalFlow_create", lambda *_: Refusing())
    with pytest.raises(DecodeError, match="no optical flow of it: "):
        run(str(moving(tmp_path / "a.avi", STEPS)), SamplingSettings("all", stream="flow"), AS_IT_IS)


def test_the_main_stream_is_one_or_named(tmp_path: Path) -> None:
    def cache(name: str, *streams: str) -> Path:
        values = ClipFeatures(np.ones((2, 3), np.float32), np.arange(2))
        layouts = {stream: StreamLayout([2], 3, np.dtype("float32")) for stream in streams}
        head = CacheHead({"kind": "made up"}, ["a"], [ClipRow("clip", 0)])
        write_cache(tmp_path / name, head, layouts, [dict.fromkeys(streams, values)])
        return tmp_path / name

    for streams, main in (
        (("rgb", "flow"), "rgb"),
        (("flow",), "flow"),
        (("flow", "flow-view-1"), "flow"),
        (("depth",), "depth"),
    ):
        with open_cache(cache("-".join(streams), *streams)) as opened:
            assert opened.main_stream == main
            assert opened.dim() == 3
    with open_cache(cache("two", "depth", "flow")) as opened, pytest.raises(CacheError, match="depth, flow"):
        opened.read(0)
