"""`harvib bench --with-backbone`: every part against what it is made of, shares that add up, and refusals."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from caches import TEST_SPLIT
from click.testing import CliRunner, Result
from frames import TINY, made_up_frames, weights_file
from small_runs import QUICK, assert_refused
from torch import nn
from videos import Recipe, make_video

from harfeat.cache import fingerprint_of
from harfeat.decode import decode_clip
from harfeat.extractor import raw_frames
from harfeat.pipeline import extract
from harfeat.sampling import SamplingSettings, sample
from harfeat.settings import ExtractSettings
from harvib import methods
from harvib.bench import BenchSettings, bench_run
from harvib.bench.backbones import in_onnxruntime, of_run, of_timm
from harvib.bench.endtoend_table import sentence
from harvib.bench.settings import EndToEnd
from harvib.bench.subject import subjects_of
from harvib.cli import main
from harvib.errors import InputError
from harvib.report.page import page
from harvib.rundir import RunFolder, write_json
from harvib.settings import BackboneSettings, TrainSettings
from harvib.videos import train as train_on_videos
from harvib.weights import load_model, save_model

CPU = torch.device("cpu")
FRAMES = 5
SETTINGS = BenchSettings(repeats=2)
OTHERS = ("test_resnet",)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with videos, a cache of their features, and a run on it; tests must not change it."""
    folder = tmp_path_factory.mktemp("made")
    for number, name in enumerate(("jump", "run")):
        (folder / "videos" / name).mkdir(parents=True)
        for clip in range(6):
            recipe = Recipe("clip", ".avi", "mjpeg", frames=9 + clip + 7 * number, pix_fmt="yuvj420p")
            path = folder / "videos" / name / f"g{clip:02}_a.avi"
            make_video(folder / "videos" / name, recipe).rename(path)
    settings = ExtractSettings(
        "folder",
        folder / "videos",
        folder / "cache.h5",
        model=TINY,
        weights="none",
        device="cpu",
        workers=0,
        sampling=SamplingSettings(frames=FRAMES),
    )
    extract(settings, progress=False)
    methods.train(folder / "cache.h5", "random", TrainSettings(**QUICK), folder / "run", device=CPU)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made / "run", tmp_path / "run")


def video_of(made: Path) -> Path:
    return made / "videos" / "run" / "g03_a.avi"


@pytest.fixture(scope="module")
def measured(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run = shutil.copytree(made / "run", tmp_path_factory.mktemp("measured") / "run")
    asked = EndToEnd(video_of(made), "", OTHERS)
    result = bench_run(run, SETTINGS, "onnx", memory=False, backbone=asked)
    assert json.loads((run / "bench.json").read_text()) == result
    assert sentence(result["end_to_end"]) in page([run]).replace("&#39;", "'")
    return result


def test_a_clip_is_the_sum_of_its_parts_and_shares_are_of_it(measured: dict[str, Any]) -> None:
    found = measured["end_to_end"]
    assert found["steps"] == FRAMES == measured["settings"]["steps"]
    assert set(found["totals"]) == {"torch", "onnx"}
    classifiers = {(row["model"], row["runtime"]): row["clip"]["median_ms"] for row in measured["rows"]}
    for runtime, states in found["totals"].items():
        assert set(states) == {"plain", "compact"}
        for state, told in states.items():
            ms, part = told["ms"], "small" if state == "compact" else "whole"
            assert told["backbone"] == part
            assert ms["decode"] == found["video"]["decode"]["median_ms"]
            assert ms["preprocess"] == FRAMES * found["preprocess"]["median_ms"]
            assert ms["backbone"] == FRAMES * found["backbone"][runtime][part]["median_ms"]
            assert ms["classifier"] == classifiers[state, runtime]
            parts = {name: value for name, value in ms.items() if name != "total"}
            assert ms["total"] == pytest.approx(sum(parts.values()))
            assert sum(told["share"].values()) == pytest.approx(1)
            assert told["share"] == {name: pytest.approx(value / ms["total"]) for name, value in parts.items()}


def test_the_frames_are_those_of_the_recipe(made: Path, measured: dict[str, Any]) -> None:
    video = measured["end_to_end"]["video"]
    assert (video["file"], video["source_frames"], video["frames"]) == ("g03_a.avi", 9 + 3 + 7, FRAMES)
    found = raw_frames(video_of(made), SamplingSettings(frames=FRAMES, views=3, max_interval=4))
    wanted = decode_clip(video_of(made), lambda count: sample("uniform", count, FRAMES))
    assert np.array_equal(found.frames, wanted.frames)
    assert found.indices.tolist() == wanted.indices.tolist()
    assert measured["end_to_end"]["frame_size"] == list(wanted.frames.shape[1:3])


def naive_multiply_adds(network: nn.Module, size: int) -> int:
    """Of convolutions and linear layers, by their definition."""
    total = 0

    def conv(module: nn.Conv2d, given: Any, out: torch.Tensor) -> None:
        nonlocal total
        kernel = module.kernel_size[0] * module.kernel_size[1]
        total += out.numel() * kernel * module.in_channels // module.groups

    def linear(module: nn.Linear, given: Any, out: torch.Tensor) -> None:
        nonlocal total
        total += out.numel() * module.in_features

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(conv)
        if isinstance(module, nn.Linear):
            module.register_forward_hook(linear)
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, size, size))
    return total


def test_costs_are_those_of_the_networks(made: Path, measured: dict[str, Any]) -> None:
    found = measured["end_to_end"]
    kept = load_model(made / "run" / "model.safetensors")[0].spec.inputs
    assert kept < 256, "nothing was pruned"
    for told in (found["backbone"], *found["candidates"]):
        network = timm.create_model(told["name"], pretrained=False, num_classes=0)
        whole = told["costs"]["whole"]
        assert whole["features"] == network.num_features
        assert whole["parameters"] == sum(weight.numel() for weight in network.parameters())
        size = timm.data.resolve_model_data_config(network)["input_size"][1]
        assert whole["multiply_adds"] == naive_multiply_adds(network, size)
    whole, small = (found["backbone"]["costs"][part] for part in ("whole", "small"))
    assert small["features"] == kept
    # A row of conv_head has 64 weights; its normalisation has scale and shift.
    assert whole["parameters"] - small["parameters"] == (256 - kept) * 66
    assert [told["name"] for told in found["candidates"]] == list(OTHERS)
    assert all(set(told["onnx"]) == set(told["torch"]) == {"whole"} for told in found["candidates"])


def test_the_timed_backbones_are_one_network(made: Path) -> None:
    subjects, _ = subjects_of(RunFolder(made / "run"))
    own = of_run(RunFolder(made / "run"), subjects, "")
    assert own.small is not None
    frames = np.random.default_rng(0).integers(0, 256, (2, 70, 90, 3), np.uint8)
    pictures = own.preparation.pictures(frames)
    assert pictures.shape == (2, 3, 160, 160)
    with torch.no_grad():
        whole, small = (module(torch.from_numpy(pictures)) for module in own.modules.values())
    kept = load_model(made / "run" / "model.safetensors")[0].selection
    scale = float(whole.abs().max())
    assert scale > 0
    assert torch.allclose(small, whole[:, kept], atol=1e-5 * scale)
    by_onnx: Any = in_onnxruntime(own.small, own.preparation, own.name)(pictures)
    assert np.allclose(by_onnx, small.numpy(), atol=1e-4 * scale)


def bench(run: Path, *words: str) -> Result:
    fixed = ["bench", "--model", str(run), "--repeats", "1", "--no-memory", "--with-backbone"]
    return CliRunner().invoke(main, [*fixed, *words])


def test_the_command_says_what_the_backbone_takes_and_offers_smaller_ones(run: Path) -> None:
    result = bench(run, "--runtimes", "torch", "--backbones", "test_resnet, test_vit")
    assert result.exit_code == 0, result.stderr
    found = json.loads((run / "bench.json").read_text())["end_to_end"]
    share = found["totals"]["torch"]["compact"]["share"]["backbone"]
    assert f"After compression, in torch the backbone is {share:.1%} of a clip's time" in result.stdout
    assert "decoding is not measured: name a file by --video" in result.stdout
    assert "classifier alone" not in result.stdout
    for name in (TINY, f"{TINY}, shrunk", "test_resnet", "test_vit"):
        assert any(line.startswith(f"{name} ") for line in result.stdout.splitlines())
    assert "random weights" in result.stdout
    # test_vit takes the fewest multiply-adds.
    cache = "folder-test_vit.h5"
    assert (
        f"  harfeat extract --dataset folder --root VIDEOS --model test_vit --sampling uniform --frames {FRAMES} "
        f"--out {cache}"
    ) in result.stdout
    assert f"  harvib train --features {cache} --split random" in result.stdout
    assert found["video"] is None
    assert found["totals"]["torch"]["plain"]["ms"]["decode"] is None
    assert found["frame_size"] == [240, 320]


def test_no_other_backbone_is_offered_where_none_is_asked_for(run: Path) -> None:
    # The run's own is there anyway.
    result = bench(run, "--runtimes", "torch", "--backbones", TINY)
    assert result.exit_code == 0, result.stderr
    assert json.loads((run / "bench.json").read_text())["end_to_end"]["candidates"] == []
    assert "Other backbones" not in result.stdout


def test_a_model_alone_has_its_recipe_with_it(run: Path) -> None:
    for name in ("config.json", "plain.safetensors", "masked.safetensors"):
        (run / name).unlink()
    result = bench(run, "--runtimes", "torch", "--backbones", "test_vit")
    assert result.exit_code == 0, result.stderr
    assert "harvib train --features features-test_vit.h5 --split SPLIT" in result.stdout
    found = json.loads((run / "bench.json").read_text())["end_to_end"]
    assert found["backbone"]["name"] == TINY
    assert set(found["totals"]["torch"]) == {"compact"}
    assert "a clip took" not in sentence(found)


def test_another_backbone_can_be_put_in_its_place(run: Path) -> None:
    result = bench(run, "--runtimes", "torch", "--backbone", "test_vit", "--backbones", "", "--json")
    found = json.loads(result.stdout)["end_to_end"]["backbone"]
    assert found["name"] == "test_vit"
    # It has fewer features than the model reads of.
    assert "small" not in found["costs"]


def test_a_run_on_videos_has_a_backbone_that_has_shrunk_already(tmp_path: Path) -> None:
    made_up_frames(tmp_path / "frames.h5")
    weights_file(tmp_path / "weights.safetensors")
    fields: dict[str, Any] = {
        "hidden": 6, "plain_epochs": 8, "vib_epochs": 8, "finetune_epochs": 1, "batch": 4, "lr": 3e-2,
        "vib_lr": 2e-3, "mask_lr": 0.2, "beta": 0.01, "beta_input": 0.01, "validation": 0.3, "standardize": True,
    }  # fmt: skip
    chosen = BackboneSettings(TINY, str(tmp_path / "weights.safetensors"))
    run = tmp_path / "run"
    report = train_on_videos(tmp_path / "frames.h5", TEST_SPLIT, TrainSettings(**fields), chosen, run, CPU)
    result = bench(run, "--backbones", "", "--json", "--runtimes", "torch")
    assert result.exit_code == 0, result.stderr
    costs = json.loads(result.stdout)["end_to_end"]["backbone"]["costs"]
    for part, side in (("whole", "before"), ("small", "after")):
        for key in ("features", "parameters", "multiply_adds"):
            assert costs[part][key] == report["backbone"][side][key]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "import"}, "are not those of a timm backbone that its cache names; say --backbone NAME"),
        ({"flow": {}}, "are optical flow; say --backbone NAME"),
        ({"model": "pixels"}, "are not those of a timm backbone"),
        ({"transform": {}}, "its recipe does not tell how frames are prepared"),
        ({"model": "no_such_model"}, "timm knows no such model"),
    ],
)
def test_runs_without_a_backbone_are_refused_in_one_line(run: Path, change: dict[str, Any], message: str) -> None:
    # As files of before models carried their recipe: config.json has it alone.
    model, card = load_model(run / "model.safetensors")
    config = RunFolder(run).config()
    recipe = config["recipe"] | change
    save_model(run / "model.safetensors", model, replace(card, recipe={}, fingerprint=fingerprint_of(recipe)))
    write_json(run / "config.json", config | {"recipe": recipe})
    assert_refused(bench(run, "--backbones", ""), message)


@pytest.mark.parametrize("content", [None, b"", b"no video at all"])
def test_a_video_that_cannot_be_decoded_is_refused_before_anything_is_timed(
    run: Path, tmp_path: Path, content: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any, **more: Any) -> None:
        raise AssertionError("measured all the same")

    monkeypatch.setattr("harvib.bench.run.measure_rows", never)
    video = tmp_path / "a.avi"
    if content is not None:
        video.write_bytes(content)
    assert_refused(bench(run, "--video", str(video), "--backbones", ""), f"--video {video}: ")
    assert not (run / "bench.json").exists()


def test_a_network_that_onnx_cannot_hold_is_told(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(module: Any, preparation: Any, name: str) -> None:
        raise InputError(f"{name}: torch cannot write this network as ONNX: it is odd")

    monkeypatch.setattr("harvib.bench.endtoend.in_onnxruntime", cannot)
    result = bench(run, "--runtimes", "onnx", "--backbones", "test_vit")
    assert result.exit_code == 0, result.stderr
    assert "test_vit: torch cannot write this network as ONNX: it is odd" in result.stdout
    assert set(json.loads((run / "bench.json").read_text())["end_to_end"]["totals"]) == {"torch"}


def test_candidates_need_no_download() -> None:
    found = of_timm("lcnet_050")
    assert found.costs["whole"]["features"] == 1280
    assert found.small is None
