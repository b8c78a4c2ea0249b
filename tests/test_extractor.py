"""A cache's recipe opened again: what it makes of a video is what the cache holds of it, or it refuses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from videos import Recipe, make_video

from harfeat.cache import Failure, open_cache
from harfeat.decode import decode_clip
from harfeat.errors import InputError
from harfeat.extractor import ExtractedClip, extractor_of, network_of
from harfeat.pipeline import extract
from harfeat.sampling import SamplingSettings, uniform
from harfeat.settings import ExtractSettings
from harfeat.weights import export_weights, identity


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of a clip each, of 9 and 30 frames."""
    root = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(("jump", "run")):
        (root / name).mkdir()
        recipe = Recipe("clip", ".avi", "mjpeg", frames=9 + 21 * number, pix_fmt="yuvj420p")
        make_video(root / name, recipe).rename(root / name / "a.avi")
    return root


def cache_of(videos: Path, out: Path, **changes: Any) -> Path:
    asked: dict[str, Any] = {"model": "test_vit", "weights": "none", "device": "cpu", "workers": 0} | changes
    extract(ExtractSettings("folder", videos, out, **asked), progress=False)
    return out


def recipe_in(path: Path, **changes: Any) -> dict[str, Any]:
    with open_cache(path) as cache:
        recipe: dict[str, Any] = json.loads(json.dumps(cache.recipe))
    for place, value in changes.items():
        owner, *inner = place.split("__")
        if inner:
            recipe[owner][inner[0]] = value
        else:
            recipe[owner] = value
    return recipe


@pytest.mark.parametrize(
    "changes",
    [
        {"sampling": SamplingSettings(frames=4)},
        {"sampling": SamplingSettings("random", 4, max_interval=3, seed=5, views=2), "dtype": "float32"},
        {"sampling": SamplingSettings("dense", interval=5, views=1), "batch": 3},
        {"sampling": SamplingSettings(frames=3, stream="flow")},
        {"model": "pixels", "size": "20x16", "sampling": SamplingSettings("first", 5, interval=4, short="wrap")},
    ],
    ids=["uniform", "random", "dense", "flow", "pixels"],
)
def test_a_video_gives_what_the_cache_holds_of_it(videos: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    path = cache_of(videos, tmp_path / "x.h5", **changes)
    with open_cache(path) as cache:
        extractor = extractor_of(cache.recipe, device="cpu", batch=changes.get("batch", 32))
        assert extractor.notes == ()
        assert extractor.dim == cache.dim()
        found = list(extractor.videos([videos / clip.name for clip in cache.clips], workers=0))
        for number, (clip, ours) in enumerate(zip(cache.clips, found, strict=True)):
            theirs = cache.read(number)
            assert isinstance(ours, ExtractedClip)
            np.testing.assert_array_equal(ours.features, theirs.features)
            assert ours.features.dtype == theirs.features.dtype
            assert ours.frame_index.tolist() == theirs.frame_index.tolist()
            assert (ours.source_frames, ours.fps, ours.damaged) == (clip.source_frames, clip.fps, False)


def test_single_frames_give_the_same_rows(videos: Path, tmp_path: Path) -> None:
    for model in ("test_vit", "pixels"):
        path = cache_of(videos, tmp_path / f"{model}.h5", model=model, sampling=SamplingSettings(frames=4))
        with open_cache(path) as cache:
            stored = cache.read(1)
            frames = decode_clip(videos / cache.clips[1].name, lambda count: uniform(count, 4)).frames
            together = extractor_of(cache.recipe, device="cpu").frames(list(frames))
            np.testing.assert_array_equal(together, stored.features)
            alone = extractor_of(cache.recipe, device="cpu", batch=1)
            rows = np.concatenate([alone.frames([frame]) for frame in frames])
        np.testing.assert_allclose(rows.astype(np.float64), stored.features.astype(np.float64), atol=2e-3)


def test_a_broken_video_costs_itself_alone(videos: Path, tmp_path: Path) -> None:
    recipe = recipe_in(cache_of(videos, tmp_path / "x.h5"))
    (tmp_path / "text.avi").write_text("no video")
    paths = [tmp_path / "text.avi", videos / "run/a.avi", tmp_path / "none.avi"]
    broken, sound, missing = extractor_of(recipe, device="cpu").videos(paths)
    assert isinstance(sound, ExtractedClip)
    for failure, path in ((broken, paths[0]), (missing, paths[2])):
        assert isinstance(failure, Failure)
        assert failure.name == str(path)
        assert "\n" not in failure.reason


def test_flow_has_no_feature_of_a_single_frame(videos: Path, tmp_path: Path) -> None:
    recipe = recipe_in(cache_of(videos, tmp_path / "x.h5", sampling=SamplingSettings(frames=3, stream="flow")))
    with pytest.raises(InputError, match="no single frame"):
        extractor_of(recipe, device="cpu").frames([np.zeros((48, 64, 3), np.uint8)])


def test_weights_from_a_file_must_be_the_very_ones(videos: Path, tmp_path: Path) -> None:
    export_weights("test_vit", "none", tmp_path / "w.safetensors")
    recipe = recipe_in(cache_of(videos, tmp_path / "x.h5", weights=str(tmp_path / "w.safetensors")))
    for weights in (None, "none", str(tmp_path / "w.safetensors")):
        assert extractor_of(recipe, weights, "cpu").notes == ()
        assert identity(network_of(recipe, weights)) == recipe["weights"]
    other = recipe | {"weights": "0" * 64}
    for weights in ("none", str(tmp_path / "w.safetensors")):
        with pytest.raises(InputError, match="another backbone than that of the features: its weights") as caught:
            extractor_of(other, weights, "cpu")
        assert "0000000000000000: name the file" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"kind": "import"}, "were not extracted from videos by harfeat .kind 'import'"),
        ({"transform__crop_pct": 0.5}, "cannot be made here: transform.crop_pct: 0.5 against"),
        ({"transform__mean": [0, 0, 0]}, "cannot be made here: transform.mean"),
        ({"model": "no_such"}, "timm knows no such model"),
        ({"model": 7}, "does not state model"),
        ({"precision": "auto"}, "states no precision"),
        ({"precision": None}, "does not state precision"),
        ({"dtype": "int4"}, "--dtype int4"),
        ({"schema": 99}, "cannot be made here: schema"),
        ({"more": 1}, "cannot be made here: more"),
        ({"sampling": None}, "sampling: "),
        ({"sampling__rule": "middle"}, "--sampling middle"),
        ({"sampling__frames": "4"}, "frames must be of type int"),
    ],
)
def test_what_cannot_be_made_again_is_refused_in_one_line(
    videos: Path, tmp_path: Path, changes: Mapping[str, Any], match: str
) -> None:
    recipe = recipe_in(cache_of(videos, tmp_path / "x.h5"), **changes)
    with pytest.raises(InputError, match=match) as caught:
        extractor_of(recipe, "none", "cpu")
    assert "\n" not in str(caught.value)


def test_another_decoder_is_told(videos: Path, tmp_path: Path) -> None:
    recipe = recipe_in(cache_of(videos, tmp_path / "x.h5"), decoder__libavcodec="1.2.3")
    (note,) = extractor_of(recipe, device="cpu").notes
    assert note.startswith("the features' decoder.libavcodec: '1.2.3' against ")


def test_pixels_have_no_network(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no network"):
        network_of(recipe_in(cache_of(videos, tmp_path / "x.h5", model="pixels")))
