"""Pipelines of runs on videos and of normalised rows, and which runs have none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caches import TEST_SPLIT, made_up_cache, with_streams
from click.testing import CliRunner
from frames import HEIGHT, TINY, WIDTH, lively, made_up_frames, weights_file
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_runs import QUICK, assert_refused
from test_videos import FIELDS

from harfeat.cache import open_cache
from harfeat.sampling import SamplingSettings
from harfeat.weights import identity
from harfeat.weights import load_backbone as load_network
from harvib import fusion, methods, videos
from harvib.backbones import load_backbone
from harvib.cli import main
from harvib.export.pipeline import FrameBackbone, check, pipeline_of
from harvib.onnxfile import session as session_of
from harvib.settings import BackboneSettings, TrainSettings
from harvib.source import Source
from harvib.weights import load_model

CPU = torch.device("cpu")


def export(run: Path, out: Path, *arguments: str) -> Any:
    words = ["export", "--model", str(run), "--format", "onnx", "--with-backbone", "--out", str(out), *arguments]
    return CliRunner().invoke(main, words)


def backbone_of(run: Path, weights: str | None = None) -> FrameBackbone:
    return pipeline_of(run, weights).backbone


def clips(count: int, steps: int, height: int, width: int) -> np.ndarray:
    return check.made_up_frames(height, width, np.random.default_rng(5))[: count * steps].reshape(
        count, steps, height, width, 3
    )


@pytest.fixture(scope="module")
def on_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    made_up_frames(folder / "frames.h5")
    chosen = BackboneSettings(TINY, str(weights_file(folder / "weights.safetensors")), 1e-4)
    videos.train(folder / "frames.h5", TEST_SPLIT, TrainSettings(**FIELDS), chosen, folder / "run", CPU)
    return folder / "run"


@pytest.fixture(scope="module")
def exported(on_videos: Path) -> tuple[Path, str]:
    """The file, and what the command printed."""
    out = on_videos.parent / "v.onnx"
    result = export(on_videos, out)
    assert result.exit_code == 0, result.output
    return out, result.stdout


@torch.inference_mode()
@pytest.mark.parametrize(("height", "width"), [(HEIGHT, WIDTH), (120, 160), (31, 50)])
def test_a_run_on_videos_brings_its_own_backbone(
    on_videos: Path, exported: tuple[Path, str], height: int, width: int
) -> None:
    out, printed = exported
    frames, lengths = clips(2, 3, height, width), np.array([3, 2])
    model, card = load_model(on_videos / "model.safetensors")
    assert f"{model.spec.features} of 256 features; parameters " in printed
    # As a cache of frames is made: the whole frame resized by Pillow.
    pictures = [
        np.asarray(Image.fromarray(frame).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))
        for frame in frames.reshape(-1, height, width, 3)
    ]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    features = load_backbone(on_videos)(images).view(2, 3, -1)
    wanted = model(features, torch.from_numpy(lengths)).numpy()
    session = session_of(out.read_bytes())
    (found,) = session.run(["logits"], {"frames": frames, "lengths": lengths})
    assert np.abs(found - wanted).max() <= 5e-3 * np.abs(wanted).max()
    assert session.get_modelmeta().custom_metadata_map["fingerprint"] == card.fingerprint


@torch.inference_mode()
def test_its_whole_backbone_is_that_of_its_plain_model(on_videos: Path) -> None:
    found = backbone_of(on_videos)
    images = torch.from_numpy(clips(1, 4, HEIGHT, WIDTH)[0]).permute(0, 3, 1, 2)
    assert torch.equal(found.small(images), load_backbone(on_videos)(images))
    full = found.whole(images)
    assert full.shape == (4, 256)
    plain, _ = load_model(on_videos / "plain.safetensors")
    assert plain.spec.features == 256
    # The run reports the logits of its plain model on its own clips; with another block they would be others.
    with open_cache(on_videos.parent / "frames.h5") as cache:
        rows = [torch.from_numpy(cache.read(clip).features).view(-1, HEIGHT, WIDTH, 3) for clip in range(9)]
        labels = [cache.clips[clip].label for clip in range(9)]
    guesses = [
        int(plain(found.whole(row.permute(0, 3, 1, 2))[None], torch.tensor([len(row)])).argmax()) for row in rows
    ]
    assert np.mean(np.array(guesses) == labels) >= 0.6


def test_an_unfinished_run_on_videos_has_none(on_videos: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in ("config.json", "model.safetensors", "report.json"):
        (tmp_path / "run" / name).write_bytes((on_videos / name).read_bytes())
    assert_refused(export(tmp_path / "run", tmp_path / "v.onnx"), "backbone.safetensors: no such file")


def recipe(**changes: Any) -> dict[str, Any]:
    """That of a cache of test_efficientnet's features, with weights of no training."""
    transform = {
        "input_size": [64, 64], "interpolation": "bicubic", "crop_pct": 0.95, "crop_mode": "center",
        "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4],
    }  # fmt: skip
    network, _ = load_network(TINY, "none")
    return {
        "kind": "video", "model": TINY, "weights": identity(network), "precision": "float32", "dtype": "float32",
        "batch_norm": "folded", "transform": transform, "sampling": SamplingSettings().recipe(),
    } | changes  # fmt: skip


def run_on(folder: Path, cache: Path, name: str = "run", **changes: Any) -> Path:
    settings = TrainSettings(**{**QUICK, "method": "plain", "plain_epochs": 1, **changes})
    methods.train(cache, TEST_SPLIT, settings, folder / name, device=CPU)
    return folder / name


def test_normalised_rows_need_the_whole_backbone(tmp_path: Path) -> None:
    made_up_cache(tmp_path / "cache.h5", dim=256, recipe=recipe(precision="bfloat16"))
    changes: dict[str, Any] = {
        "method": "vib",
        "normalize": True,
        "standardize": False,
        "select_inputs": 40,
        "vib_epochs": 2,
    }
    run = run_on(tmp_path, tmp_path / "cache.h5", **changes)
    result = export(run, tmp_path / "n.onnx")
    assert result.exit_code == 0, result.output
    assert "256 of 256 features, picked at its end, for rows are normalised by the length of all" in result.stdout
    assert "was trained on features computed in bfloat16; here they are in float32" in result.stdout
    backbone, (model, _) = backbone_of(run), load_model(run / "model.safetensors")
    assert model.spec.inputs <= 40
    frames, lengths = clips(2, 3, 64, 70), np.array([1, 3])
    images = torch.from_numpy(backbone.preparation.pictures(frames.reshape(-1, 64, 70, 3)))
    with torch.inference_mode():
        wanted = model(backbone.whole(images).view(2, 3, -1), torch.from_numpy(lengths)).numpy()
    session = session_of((tmp_path / "n.onnx").read_bytes())
    (found,) = session.run(["logits"], {"frames": frames, "lengths": lengths})
    assert np.abs(found - wanted).max() <= 5e-3 * np.abs(wanted).max()


def test_inputs_chosen_beforehand_shrink_the_backbone_of_a_plain_model(tmp_path: Path) -> None:
    made_up_cache(tmp_path / "cache.h5", dim=256, recipe=recipe())
    run = run_on(tmp_path, tmp_path / "cache.h5", select_inputs=10, standardize=False)
    assert len(backbone_of(run).kept) == 10
    network = lively(TINY)
    gone = sum(weight.numel() for weight in network.parameters()) - backbone_of(run).costs["small"]["parameters"]
    assert gone == 246 * 66


def test_the_recipes_own_mean_and_deviation_count(tmp_path: Path) -> None:
    found = []
    for name, mean in (("a", [0.5, 0.4, 0.3]), ("b", [0.1, 0.4, 0.3])):
        told = recipe()
        told["transform"]["mean"] = mean
        made_up_cache(tmp_path / f"{name}.h5", dim=256, recipe=told)
        backbone = backbone_of(run_on(tmp_path, tmp_path / f"{name}.h5", name))
        found.append(backbone.small(torch.full((1, 3, 64, 64), 99, dtype=torch.uint8)))
    assert not torch.allclose(found[0], found[1], rtol=1e-3)


def without_recipe(run: Path) -> None:
    """Make of its model file one from before it held the recipe."""
    path = run / "model.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, {key: value for key, value in metadata.items() if key != "recipe"})


def test_of_an_older_model_file_the_runs_config_tells_the_recipe(tmp_path: Path) -> None:
    run = run_on(tmp_path, made_up_cache(tmp_path / "cache.h5", dim=256, recipe=recipe()))
    wanted = backbone_of(run)
    without_recipe(run)
    assert backbone_of(run).preparation == wanted.preparation
    assert backbone_of(run / "model.safetensors").preparation == wanted.preparation
    alone = Path(shutil.copy(run / "model.safetensors", tmp_path / "alone.safetensors"))
    assert_refused(export(alone, tmp_path / "f.onnx"), "(kind None)")
    config = run / "config.json"
    config.write_text(config.read_text().replace('"bicubic"', '"bilinear"'))
    assert_refused(export(run, tmp_path / "f.onnx"), "config.json: its recipe is not that of the model's features")


def test_runs_without_a_pipeline_are_refused_in_one_line(tmp_path: Path) -> None:
    cache = made_up_cache(tmp_path / "cache.h5", recipe=recipe())
    with open_cache(cache) as opened:
        rows = [opened.read(clip).features for clip in range(len(opened.clips))]
    told = recipe()
    told["transform"]["crop_mode"] = "border"
    border = run_on(tmp_path, made_up_cache(tmp_path / "b.h5", dim=256, recipe=told), "border")
    assert_refused(export(border, tmp_path / "f.onnx"), "crop_mode border, which has no ONNX form here")
    told = recipe()
    told["transform"]["std"] = [0.2, 0.0, 0.4]
    grey = run_on(tmp_path, made_up_cache(tmp_path / "g.h5", dim=256, recipe=told), "grey")
    assert_refused(export(grey, tmp_path / "f.onnx"), "are not those of three colours")
    two = with_streams(cache, tmp_path / "two.h5", {"rgb": rows, "audio": rows}, recipe())
    joined = run_on(tmp_path, Path(f"{two}::rgb+audio"), "joined")
    assert_refused(export(joined, tmp_path / "f.onnx"), "joined streams (rgb+audio) has no one backbone")
    other = run_on(tmp_path, Path(f"{two}::audio"), "other")
    assert_refused(export(other, tmp_path / "f.onnx"), "its stream audio is not one of frames")
    settings = TrainSettings(**QUICK | {"method": "plain", "plain_epochs": 1})
    fusion.train([cache, Source(two, "audio")], TEST_SPLIT, settings, tmp_path / "fused", device=CPU)
    assert_refused(export(tmp_path / "fused", tmp_path / "f.onnx"), "a fused run has a model for each stream")
    assert not list(tmp_path.glob("*.onnx"))


def test_a_model_that_pools_frames_has_a_pipeline_too(tmp_path: Path) -> None:
    cache = made_up_cache(tmp_path / "cache.h5", dim=256, recipe=recipe())
    changes: dict[str, Any] = {"model": "dbof", "clusters": "8", "select_inputs": 30, "distill": 0.0}
    run = run_on(tmp_path, cache, **changes)
    result = export(run, tmp_path / "p.onnx")
    assert result.exit_code == 0, result.output
    backbone, (model, _) = backbone_of(run), load_model(run / "model.safetensors")
    frames, lengths = clips(2, 3, 70, 90), np.array([3, 1])
    images = torch.from_numpy(backbone.preparation.pictures(frames.reshape(-1, 70, 90, 3)))
    with torch.inference_mode():
        wanted = model(backbone.whole(images).view(2, 3, -1), torch.from_numpy(lengths)).numpy()
    session = session_of((tmp_path / "p.onnx").read_bytes())
    (found,) = session.run(["logits"], {"frames": frames, "lengths": lengths})
    assert np.abs(found - wanted).max() <= 2e-2 * np.abs(wanted).max()
