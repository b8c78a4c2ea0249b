"""`--model pixels`: frames resized once and stored as bytes, by every path; harvib trains on them."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from caches import TEST_SPLIT, made_up_cache
from click.testing import CliRunner, Result
from PIL import Image
from small_runs import QUICK
from videos import Recipe, make_video

import harfeat.cli
import harvib.cli
from harfeat.cache import ClipRow, open_cache
from harfeat.chunks import Job, describe, run_chunk
from harfeat.errors import InputError
from harfeat.exporting import export
from harfeat.extraction import Destination
from harfeat.findings import OK
from harfeat.importers import Keys
from harfeat.importing import import_features
from harfeat.pipeline import extract
from harfeat.redecode import redecode
from harfeat.reproduce import videos_of
from harfeat.sampling import SamplingSettings
from harfeat.settings import ExtractSettings
from harfeat.verify import verify
from harvib.data import load_clips, load_parts
from harvib.methods import train
from harvib.models import ModelSpec, SequenceClassifier
from harvib.report.page import page
from harvib.report.pixels import kept_pixels, pixels_caption, pixels_plot
from harvib.settings import TrainSettings

CPU = torch.device("cpu")
SIZE, DIM = "12x7", 12 * 7 * 3
RECIPE = {"kind": "video", "model": "pixels", "size": [4, 3]}


def settings(root: Path, out: Path, **changes: Any) -> ExtractSettings:
    sampling = SamplingSettings(frames=3, views=2)
    plain = {"model": "pixels", "size": SIZE, "sampling": sampling, "workers": 0, "batch": 4, "shard": "none"}
    fields: dict[str, Any] = plain | changes
    return ExtractSettings("folder", root, out, **fields)


def command(program: Any, *arguments: object) -> Result:
    return CliRunner().invoke(program, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of two clips; each of another shape and length."""
    made = tmp_path_factory.mktemp("videos")
    shapes = {"jump/a": (64, 48), "jump/b": (32, 80), "run/a": (160, 24), "run/b": (12, 7)}
    for number, (name, (width, height)) in enumerate(shapes.items()):
        (made / name).parent.mkdir(exist_ok=True)
        recipe = Recipe("clip", ".avi", "ffv1", frames=4 + number, width=width, height=height, pix_fmt="yuv444p")
        make_video((made / name).parent, recipe).rename(made / f"{name}.avi")
    return made


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "x.h5"
    extract(settings(root, out), progress=False)
    return out


def by_hand(path: Path) -> np.ndarray:
    """(N, 7, 12, 3): every frame of a video, resized as a whole by Pillow."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    resized = [Image.fromarray(frame).resize((12, 7), Image.Resampling.BILINEAR) for frame in frames]
    return np.stack([np.asarray(picture) for picture in resized])


def test_rows_are_the_resized_frames_in_the_order_of_pictures(root: Path, whole: Path) -> None:
    with open_cache(whole) as cache:
        assert {(cache.dim(name), str(cache.dtype(name))) for name in cache.streams} == {(DIM, "uint8")}
        flips = 0
        for index, clip in enumerate(cache.clips):
            expected = by_hand(root / clip.name)
            stored = cache.read(index)
            np.testing.assert_array_equal(stored.features.reshape(-1, 7, 12, 3), expected[stored.frame_index])
            for view in ("rgb-view-1", "rgb-view-2"):
                drawn = cache.read(index, view)
                plain = expected[drawn.frame_index]
                mirrored = np.array_equal(drawn.features.reshape(-1, 7, 12, 3), plain[:, :, ::-1])
                assert mirrored or np.array_equal(drawn.features.reshape(-1, 7, 12, 3), plain)
                flips += mirrored
        assert 0 < flips < 8


def test_the_recipe_tells_all_that_decides_a_pixel(whole: Path) -> None:
    with open_cache(whole) as cache:
        told = dict(cache.recipe)
        assert told.keys() == {
            *("kind", "schema", "decoder", "sampling", "model", "size", "filter", "pillow", "dtype")
        }
        assert (told["model"], told["size"], told["filter"], told["dtype"]) == (
            *("pixels", [12, 7], "bilinear"),
            "uint8",
        )
        assert told["pillow"] == Image.__version__


def test_every_path_takes_it(root: Path, whole: Path, tmp_path: Path) -> None:
    with open_cache(whole) as cache:
        content = cache.content
    folder = tmp_path / "shards"
    result = extract(settings(root, folder, workers=2), progress=False)
    assert (result.clips, extract(settings(root, folder), progress=False).resumed) == (4, 4)
    assert command(harfeat.cli.main, "pack", folder, "--out", tmp_path / "packed.h5").exit_code == 0
    for path in (folder, tmp_path / "packed.h5"):
        with open_cache(path) as cache:
            assert cache.content == content
        assert {finding.level for finding in verify(path, progress=False)} <= {OK, "note"}
    with open_cache(folder) as cache:
        (again,) = redecode(cache, root, 4, progress=False)
        assert (again.level, again.text) == (OK, "4 of 4 clips come out bit for bit equal")
    text = command(harfeat.cli.main, "info", whole).output
    assert f"of {DIM} uint8" in text
    assert "size: [12, 7]" in text
    made = command(harfeat.cli.main, "info", whole, "--preview", tmp_path / "p.html", "--root", root)
    assert made.exit_code == 0
    assert "so there are no predictions" in (tmp_path / "p.html").read_text()


def test_a_worker_of_a_cluster_extracts_the_same(root: Path, whole: Path, tmp_path: Path) -> None:
    job = Job(settings(root, tmp_path / "x"), ("cuda:0", "cuda:1"), 1, "token")  # the GPUs are left alone
    described = describe(job)
    clips = list(videos_of(job.settings).values())
    with open_cache(whole) as cache:
        assert described.recipe == cache.recipe
        done = run_chunk(job, Destination(tmp_path, described.recipe, cache.classes), clips)
        (shard,) = done.entries
        with open_cache(tmp_path / shard.name) as ours:
            for name in cache.streams:
                np.testing.assert_array_equal(ours.read_all(name), cache.read_all(name))


def test_an_export_comes_back(whole: Path, tmp_path: Path) -> None:
    with open_cache(whole) as cache:
        export(whole, "npz", tmp_path / "x.npz")
        keys = Keys("features", "labels", "names", "groups", "classes", "offsets")
        import_features(tmp_path / "x.npz", "npz", keys, tmp_path / "again.h5")
        with open_cache(tmp_path / "again.h5") as again:
            assert again.dtype() == np.uint8
            np.testing.assert_array_equal(again.read_all(), cache.read_all())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"size": "160"}, "--size 160: say WxH"),
        ({"size": "0x120"}, "--size 0x120: say WxH"),
        ({"size": "160x9999"}, "from 1 to 4096"),
        ({"size": "-1x4"}, "say WxH"),
        ({"dtype": "float16"}, "--dtype float16 does not go with --model pixels"),
        ({"precision": "bfloat16"}, "--precision bfloat16 does not go"),
        ({"weights": "some.pth"}, "--weights some.pth does not go"),
        ({"device": "cuda"}, "--device cuda does not go"),
        ({"model": "test_vit"}, "--size 12x7 needs --model pixels"),
        ({"model": "test_vit", "size": "", "dtype": "uint8"}, "--dtype uint8 needs --model pixels"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], match: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=match) as caught:
        settings(tmp_path, tmp_path / "x.h5", **changes)
    assert "\n" not in str(caught.value)


def test_without_a_size_it_is_the_papers(tmp_path: Path) -> None:
    chosen = settings(tmp_path, tmp_path / "x.h5", size="")
    width, height = chosen.pixel_size
    assert (width, height, width * height * 3) == (160, 120, 57_600)
    assert chosen.stored_dtype == "uint8"
    assert settings(tmp_path, tmp_path / "x.h5", size="", model="test_vit").stored_dtype == "float16"


def test_another_size_on_the_same_cache_is_refused(root: Path, whole: Path) -> None:
    with pytest.raises(InputError, match=r"size: \[12, 7\] against \[7, 12\]"):
        extract(settings(root, whole, size="7x12"), progress=False)


# From here on what harvib makes of it.


def pictures_of(rows: list[ClipRow], features: list[np.ndarray]) -> tuple[list[ClipRow], list[np.ndarray]]:
    """Noise from 60 to 140, and in one channel of one pixel, that of the class, 100 more."""
    rng = np.random.default_rng(5)
    made = []
    for row, values in zip(rows, features, strict=True):
        frames = rng.integers(60, 140, (len(values), 3, 4, 3))
        frames[:, row.label, 2, 1] += 100
        made.append(frames.reshape(len(values), -1))
    return rows, made


def pixel_cache(path: Path, lengths: tuple[int, ...] = (3, 4, 5)) -> Path:
    return made_up_cache(path, dtype=np.uint8, recipe=RECIPE, change=pictures_of, lengths=lengths, clips_a_group=4)


@pytest.mark.parametrize("lengths", [(4,), (3, 5)])
def test_bytes_stay_bytes_in_memory_and_batches_are_from_0_to_1(tmp_path: Path, lengths: tuple[int, ...]) -> None:
    with open_cache(pixel_cache(tmp_path / "x.h5", lengths)) as cache:
        clips, parts = load_clips(cache), load_parts(cache, TEST_SPLIT, 0.2, 0, views=True)
        batch = next(clips.batches(5, CPU))
        for place in range(5):
            stored = cache.read(place).features
            np.testing.assert_allclose(batch.features[place, : len(stored)], stored / np.float32(255), rtol=1e-6)
            assert not batch.features[place, len(stored) :].any()
        every = np.concatenate([cache.read(clip).features for clip in parts.train.clips.tolist()]) / 255
    assert {clips.rows.dtype, parts.train.rows.dtype} == {torch.uint8}
    mean, std = parts.train.statistics()
    np.testing.assert_allclose(mean, every.mean(0), rtol=1e-5)
    np.testing.assert_allclose(std, every.std(0), rtol=1e-4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    chosen = TrainSettings(**{**QUICK, "beta_input": 0.03, "standardize": True})
    train(pixel_cache(folder / "x.h5"), TEST_SPLIT, chosen, folder / "run", device=CPU)
    return folder


def test_training_finds_the_pixels_that_tell_the_class(trained: Path) -> None:
    done = command(
        *(harvib.cli.main, "evaluate", "--model", trained / "run", "--features", trained / "x.h5"),
        *("--split", TEST_SPLIT, "--json"),
    )
    assert done.exit_code == 0, done.output
    report = json.loads((trained / "run" / "report.json").read_text())
    assert json.loads(done.output)["accuracy"] == report["compact"]["accuracy"]["test"] > 0.9
    assert report["compaction"]["max_abs_difference"] < 1e-5
    text = page([trained / "run"])
    assert "Kept pixels" in text
    shown = re.search(r"([0-9]+) of 36 values kept: red ([0-9.]+)%, green ([0-9.]+)%, blue ([0-9.]+)%", text)
    assert shown is not None
    kept, red, green, blue = (float(value) for value in shown.groups())
    assert 3 <= kept < 36
    assert green >= 25 - 0.1  # the three that matter, of twelve
    assert kept == pytest.approx((red + green + blue) * 12 / 100, abs=0.05)
    assert text.count("data:image/png;base64,") == 3  # kept, |mu|, mean frame


def a_masked_model(inputs: int = 36) -> SequenceClassifier:
    torch.manual_seed(0)
    masked = SequenceClassifier(ModelSpec("lstm", "plain", 36, inputs, ((4,),), 3)).masked()
    assert masked.input_mask is not None
    with torch.no_grad():
        masked.input_mask.mu.copy_(torch.linspace(-0.9, 0.9, inputs))
        masked.input_mask.log_variance.fill_(-2.0)
    return masked


def test_factors_lie_on_the_frame_where_their_pixels_lie() -> None:
    masked = a_masked_model(inputs=20)
    chosen = torch.arange(0, 36)[torch.randperm(36)[:20].sort().values]
    masked.selection.copy_(chosen)
    found = kept_pixels(masked, RECIPE)
    assert found is not None
    assert masked.input_mask is not None
    strength = np.zeros(36, np.float32)
    for place, value in zip(chosen.tolist(), masked.input_mask.mu.tolist(), strict=True):
        strength[place] = abs(value) if value * value > np.exp(-2.0) else 0.0
    assert found.strength.shape == (3, 4, 3)
    np.testing.assert_allclose(found.strength.ravel(), strength, rtol=1e-6)
    np.testing.assert_array_equal(found.kept.ravel(), strength > 0)
    assert found.shares == pytest.approx([(strength[channel::3] > 0).mean() for channel in range(3)])
    assert found.mean is None
    assert pixels_caption(found).startswith(f"{int((strength > 0).sum())} of 36 values kept: red ")


def test_the_pictures_are_those_of_the_mask() -> None:
    masked = a_masked_model()
    frame = torch.linspace(0, 1, 36)
    masked.standardize_by(frame, torch.ones(36))
    found = kept_pixels(masked, RECIPE)
    assert found is not None
    svg = pixels_plot("pixels", found, "told")
    assert svg == pixels_plot("pixels", found, "told")
    assert len(re.findall(r'width="4" height="3" transform="matrix\(\d', svg)) == 3  # enlarged, not turned over
    kept, grey, mean = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
        for data in re.findall(r"data:image/png;base64,\s*([A-Za-z0-9+/=\s]+)\"", svg)
    )
    np.testing.assert_array_equal(kept, np.where(found.kept, 255, 0))
    expected = found.strength.mean(2) / found.strength.max() * 255
    np.testing.assert_allclose(grey[..., 0], expected, atol=1.01)
    np.testing.assert_allclose(mean, frame.reshape(3, 4, 3) * 255, atol=1.01)


@pytest.mark.parametrize(
    "recipe",
    [{}, {"model": "test_vit", "size": [4, 3]}, {"model": "pixels", "size": [4, 4]}, {"model": "pixels"}],
)
def test_other_features_have_no_picture(recipe: dict[str, Any]) -> None:
    assert kept_pixels(a_masked_model(), recipe) is None
