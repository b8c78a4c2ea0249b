"""Backbones in two pieces: the same network as timm's, smaller exactly by what is dropped; their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from click.testing import CliRunner
from frames import HEIGHT, TINY, WIDTH, lively, weights_file
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from harfeat.cli import main
from harfeat.weights import export_weights
from harvib.backbones import Backbone, build, load_backbone, save_backbone
from harvib.errors import InputError
from harvib.pretrained import pretrained

KEPT = torch.tensor([0, 3, 4, 17, 40, 95])
MODELS = (
    "test_efficientnet", "mobilenetv3_small_050", "mobilenetv4_conv_small_035", "test_resnet", "resnet10t",
    "resnet26", "regnetx_002", "regnety_002",
)  # fmt: skip


def images(count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8)


def normalised(network: Any, pictures: Tensor) -> Tensor:
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    return (pictures / 255 - mean) / std


def rows_of_last_conv(backbone: Backbone) -> int:
    """Input values of one row of the last convolution, kernel included."""
    block: Any = backbone.block
    conv = block.conv if hasattr(block, "conv") else block.body[-2]
    return int(conv.weight[0].numel())


@pytest.mark.parametrize("model", MODELS)
@torch.no_grad()
def test_both_pieces_together_are_the_network(model: str) -> None:
    network = lively(model)
    wanted = network(normalised(network, images()))
    assert wanted.std(0).mean() > 1e-3, "a test on features that tell nothing apart"
    backbone = build(model, network)
    x = normalised(network, images())
    assert float((backbone.block(backbone.trunk(x)) - wanted).abs().max() / wanted.abs().max()) < 1e-5
    # Between trunk and block 11 bits are left of each number.
    assert float((backbone(images()) - wanted).abs().max() / wanted.abs().max()) < 2**-9
    # The network that was given is left as it was.
    assert torch.equal(network(x), wanted)


@pytest.mark.parametrize("model", MODELS)
@torch.no_grad()
def test_a_shrunk_block_computes_the_kept_features_and_nothing_else(model: str) -> None:
    backbone = build(model, lively(model))
    full = backbone(images())
    small = backbone.with_block(backbone.block.shrunk(KEPT))
    assert torch.allclose(small(images()), full[:, KEPT], rtol=1e-6, atol=1e-6 * float(full.abs().max()))
    smaller = small.with_block(small.block.shrunk(torch.tensor([1, 5])))
    assert torch.allclose(smaller(images()), full[:, [3, 95]], rtol=1e-6, atol=1e-6 * float(full.abs().max()))
    assert smaller.block.kept.tolist() == [3, 95]
    assert torch.equal(backbone(images()), full)


@pytest.mark.parametrize("model", ["test_efficientnet", "mobilenetv3_small_050", "resnet26"])
def test_costs_fall_by_exactly_the_rows_that_are_gone(model: str) -> None:
    network = lively(model)
    backbone = build(model, network)
    small = backbone.with_block(backbone.block.shrunk(KEPT))
    before, after = (piece.costs(HEIGHT, WIDTH) for piece in (backbone, small))
    assert before["parameters"] == sum(weight.numel() for weight in network.parameters())
    assert (before["features"], after["features"]) == (network.num_features if model == "resnet26" else
                                                      network.head_hidden_size, 6)  # fmt: skip
    row = rows_of_last_conv(backbone)
    # Of each row: its weights, and the normalisation's scale and shift (or, without one, the bias).
    gone = before["features"] - 6
    extra = 1 if model == "mobilenetv3_small_050" else 2
    assert before["parameters"] - after["parameters"] == gone * (row + extra)
    assert before["block_parameters"] - after["block_parameters"] == gone * (row + extra)
    places = 1 if model == "mobilenetv3_small_050" else 4
    assert before["multiply_adds"] - after["multiply_adds"] == gone * row * places


@pytest.mark.parametrize(
    "model",
    ["test_vit", "test_convnext", "test_efficientnet_gn", "seresnet18", "vit_tiny_patch16_224", "test_nfnet"],
)
def test_a_network_of_another_family_is_refused_in_one_line(model: str) -> None:
    with pytest.raises(InputError, match=r"supported are .*EfficientNet.*ResNet") as caught:
        build(model)
    assert str(caught.value).startswith(f"--backbone {model}: ")
    assert "\n" not in str(caught.value)


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(InputError, match="timm knows no such model"):
        build("resnet_of_my_own")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    backbone = build(TINY, lively(TINY))
    save_backbone(tmp_path / "backbone.safetensors", backbone.with_block(backbone.block.shrunk(KEPT)))
    return tmp_path


@torch.no_grad()
def test_a_saved_backbone_is_the_same_and_smaller_on_disk(saved: Path) -> None:
    full = build(TINY, lively(TINY))
    assert torch.allclose(load_backbone(saved)(images()), full(images())[:, KEPT], rtol=1e-6, atol=1e-6)
    save_backbone(saved / "full.safetensors", full)
    path = saved / "backbone.safetensors"
    gone = (256 - 6) * (rows_of_last_conv(full) + 4) * 4  # scale, shift, mean and variance of each row
    assert path.stat().st_size < (saved / "full.safetensors").stat().st_size - gone
    assert load_backbone(path).origin.model == TINY


def changed(path: Path, tensors: dict[str, Any] | None = None, **metadata: str) -> None:
    with safe_open(path, "pt") as file:
        found = file.metadata()
    save_file(load_file(path) | (tensors or {}), path, found | metadata)


BAD: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "format": ({}, {"format": "other"}, "not a backbone of harvib"),
    "version": ({}, {"version": "2"}, "version 2; this program reads 1"),
    "model": ({}, {"model": "nothing"}, "timm knows no such model"),
    "family": ({}, {"model": "test_vit"}, "supported are"),
    "pictures": ({}, {"pictures": "{}"}, "damaged"),
    "outside": ({"block.kept": KEPT + 200}, {}, "its kept features make no sense"),
    "twice": ({"block.kept": KEPT * 0}, {}, "its kept features make no sense"),
    "fewer": ({"block.kept": KEPT[:3]}, {}, "damaged"),
    "nan": ({"block.conv.weight": torch.full((6, 64, 1, 1), float("nan"))}, {}, "damaged|holds NaN"),
    "more": ({"block.other": torch.zeros(1)}, {}, "damaged"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_or_foreign_file_is_refused_in_one_line(name: str, saved: Path) -> None:
    tensors, metadata, match = BAD[name]
    changed(saved / "backbone.safetensors", tensors, **metadata)
    with pytest.raises(InputError, match=match) as caught:
        load_backbone(saved)
    assert "\n" not in str(caught.value)


def test_a_cut_or_missing_file_is_refused(saved: Path) -> None:
    path = saved / "backbone.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_backbone(saved)
    path.unlink()
    with pytest.raises(InputError, match="harvib train --videos"):
        load_backbone(saved)


@torch.no_grad()
def test_weights_of_any_file_that_harfeat_reads_can_be_trained_on(tmp_path: Path) -> None:
    network = lively(TINY, classifier=True)
    renamed = {
        f"_l{i}.{name.rpartition('.')[2]}": value for i, (name, value) in enumerate(network.state_dict().items())
    }
    torch.save(renamed, tmp_path / "foreign.pth")
    out = tmp_path / "made" / "timm.safetensors"
    words = ["weights", "--model", TINY, "--weights", str(tmp_path / "foreign.pth"), "--out", str(out)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    ours, digest = pretrained(TINY, str(out))
    network.reset_classifier(0)
    wanted = build(TINY, network)(images())
    assert torch.equal(ours(images()), wanted)
    # With its classifier, or without: the same backbone.
    assert pretrained(TINY, str(weights_file(tmp_path / "whole.safetensors")))[1] == digest


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda found: found | {"conv_head.weight": found["conv_head.weight"][:-1]}, r"conv_head.weight is \("),
        (lambda found: found | {"bn2.weight": found["bn2.weight"] / 0}, "bn2.weight holds NaN"),
        (lambda found: {k: v for k, v in found.items() if k != "bn1.bias"}, "bn1.bias is missing"),
        (lambda found: found | {"more": torch.zeros(1)}, "more is not part of it"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: Any, match: str, tmp_path: Path) -> None:
    path = weights_file(tmp_path / "w.safetensors")
    save_file(change(load_file(path)), path)
    with pytest.raises(InputError, match=rf"--backbone-weights .*does not fit {TINY}: {match}"):
        pretrained(TINY, str(path))


def test_weights_that_are_no_file_or_no_safetensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        pretrained(TINY, str(tmp_path / "none"))
    torch.save({}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="not a safetensors file; `harfeat weights`"):
        pretrained(TINY, str(tmp_path / "w.pth"))


def test_a_download_that_fails_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr(timm.models._builder, "load_pretrained", refuse)
    with pytest.raises(InputError, match=r"could not fetch.*give a file \(no route\)") as caught:
        pretrained(TINY, "auto")
    assert "\n" not in str(caught.value)


def test_existing_files_are_not_written_over(tmp_path: Path) -> None:
    path = weights_file(tmp_path / "w.safetensors")
    with pytest.raises(Exception, match="exists already"):
        export_weights(TINY, "none", path)
