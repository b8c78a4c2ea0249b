"""The network on its device: its own preprocessing, and features that depend on the frame alone."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import joblib
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from videos import numbered_frame

from harfeat.backbone import PRECISIONS, build_backbone
from harfeat.errors import InputError
from harfeat.lanes import Lanes
from harfeat.preprocess import prepare
from harfeat.weights import load_backbone

NO_GPU = () if torch.cuda.is_available() else ("cuda",)
MODELS = ("test_resnet", "test_efficientnet", "test_vit", "mobilenetv3_small_100")
FRAMES = np.stack([numbered_frame(7 * index, 120, 160) for index in range(11)])


class Recorder(torch.nn.Module):
    """A network that returns the mean of its input, keeps the input, and counts the threads it may use."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen, self.threads = x, torch.get_num_threads()
        return x.mean((2, 3))


@pytest.mark.parametrize("model", MODELS)
def test_the_network_sees_what_timms_own_transform_gives(model: str) -> None:
    backbone = build_backbone(model, "none", "cpu", "float32", 4)
    recorder = Recorder()
    watched = replace(backbone, network=recorder)
    watched.features(prepare(FRAMES[:4], backbone.transform))
    transform = create_transform(**backbone.data_config, is_training=False)
    expected = torch.stack([transform(Image.fromarray(frame)) for frame in FRAMES[:4]])
    torch.testing.assert_close(recorder.seen, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_features_are_those_of_the_bare_network(model: str) -> None:
    backbone = build_backbone(model, "none", "cpu", "float32", 8)
    bare: Any = timm.create_model(model, pretrained=False, num_classes=0).eval()
    bare.load_state_dict(load_backbone(model, "none")[0].state_dict())
    transform = create_transform(**resolve_model_data_config(bare), is_training=False)
    with torch.inference_mode():
        expected = torch.cat([bare(transform(Image.fromarray(frame))[None]) for frame in FRAMES[:8]]).numpy()
    features = backbone.features(prepare(FRAMES[:8], backbone.transform))
    assert features.dtype == np.float32
    assert features.shape == (8, backbone.dim)
    np.testing.assert_allclose(features, expected, atol=1e-4, rtol=1e-4)


def test_the_pooled_size_is_measured_and_not_taken_from_the_backbones_channels() -> None:
    backbone = build_backbone("mobilenetv3_small_100", "none", "cpu", "float32", 1)
    assert backbone.dim == 1024 != backbone.network.num_features


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", MODELS)
def test_a_frames_feature_depends_on_nothing_but_the_frame(model: str, precision: str) -> None:
    """To the bit: a resumed run has other batch mates, and its cache must be the same."""
    backbone = build_backbone(model, "none", "cpu", precision, 8)
    pixels = prepare(FRAMES, backbone.transform)
    alone = np.concatenate([backbone.features(pixels[index : index + 1]) for index in range(len(pixels))])
    np.testing.assert_array_equal(backbone.features(pixels[:8]), alone[:8])
    for order in ([10, 3, 5], [1, 9, 0, 2, 8, 3, 7, 4]):
        np.testing.assert_array_equal(backbone.features(pixels[order]), alone[order])


def test_the_recipe_tells_apart_what_changes_a_feature() -> None:
    recipes = [
        build_backbone(model, "none", "cpu", precision, 4).recipe()
        for model, precision in (("test_vit", "float32"), ("test_vit", "bfloat16"), ("test_resnet", "float32"))
    ]
    assert recipes[0] != recipes[1]
    assert recipes[0]["weights"] == recipes[1]["weights"] != recipes[2]["weights"]
    assert recipes[0] == build_backbone("test_vit", "none", "cpu", "float32", 64).recipe()
    assert recipes[0]["transform"] == {
        **{"input_size": [160, 160], "interpolation": "bicubic", "crop_pct": 0.95, "crop_mode": "center"},
        **{"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    }


def test_automatic_choices_are_usable_and_named() -> None:
    backbone = build_backbone("test_vit", "none", "auto", "auto", 2)
    assert backbone.precision in PRECISIONS
    assert backbone.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert np.isfinite(backbone.features(prepare(FRAMES[:2], backbone.transform))).all()


@pytest.mark.parametrize("device", ["cuda:99", "meta", "abacus", "", *NO_GPU])
def test_a_device_that_is_not_there_is_told_in_one_line(device: str) -> None:
    with pytest.raises(InputError, match=f"--device {device}: cannot be used here") as caught:
        build_backbone("test_vit", "none", device, "auto", 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_features_are_the_same_on_any_number_of_cores(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = build_backbone("mobilenetv3_small_100", "none", "cpu", precision, 32)
    pixels = np.concatenate([prepare(FRAMES, backbone.transform)] * 3)
    expected = backbone.features(pixels)
    mean, std = ([255 * value for value in backbone.data_config[key]] for key in ("mean", "std"))
    for cores in (1, 5):
        monkeypatch.setattr(joblib, "cpu_count", lambda cores=cores: cores)
        lanes = Lanes(backbone.network, backbone.device, precision, mean, std, 32)
        assert lanes.count == cores
        np.testing.assert_array_equal(lanes.start(pixels).result(), expected)


@pytest.mark.parametrize(("asked", "expected"), [(4, 4), (32, 8)])
def test_on_a_cpu_a_full_small_batch_is_one_cores_work(asked: int, expected: int) -> None:
    """Kernels are chosen by batch and threads: with both fixed, no other frame and no other machine matters."""
    backbone = build_backbone("test_resnet", "none", "cpu", "float32", asked)
    recorder = Recorder()
    watched = replace(backbone, network=recorder)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        features = watched.features(prepare(FRAMES[:2], backbone.transform))
    finally:
        torch.set_num_threads(before)
    assert (features.shape, recorder.seen.shape[0], recorder.threads) == ((2, 3), expected, 1)


def test_frames_can_be_handed_in_ahead_of_their_features() -> None:
    backbone = build_backbone("test_resnet", "none", "cpu", "float32", 4)
    pixels = prepare(FRAMES, backbone.transform)
    running = [backbone.start(pixels[at : at + 3]) for at in range(0, 9, 3)]
    got = np.concatenate([answer.result() for answer in running])
    assert all(answer.done() for answer in running)
    np.testing.assert_array_equal(got, backbone.features(pixels[:9]))
    assert backbone.ahead >= 2


def test_what_is_cancelled_is_not_computed() -> None:
    backbone = build_backbone("test_resnet", "none", "cpu", "float32", 2)
    gate, begun = threading.Event(), []

    class Slow(Recorder):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            begun.append(1)
            gate.wait(60)
            return super().forward(x)

    watched = replace(backbone, network=Slow())
    pixels = prepare(FRAMES[:2], backbone.transform)
    running = [watched.start(pixels) for _ in range(watched.lanes.count + 3)]
    while len(begun) < watched.lanes.count:
        time.sleep(0.001)
    cancelled = [answer.cancel() for answer in running]
    gate.set()
    assert cancelled.count(True) == 3
    watched.features(pixels)
    assert len(begun) == watched.lanes.count + 1


def test_an_error_of_the_network_comes_with_the_features() -> None:
    backbone = build_backbone("test_resnet", "none", "cpu", "float32", 4)
    answer = backbone.start(np.zeros((2, 5, 8, 8), np.uint8))
    with pytest.raises(RuntimeError):
        answer.result()
