"""Image backbones: pictures to features, by a timm network that is a trunk and a last block; their files.

The trunk stays as it is, the block may be trained and shrunk (`harvib.backbone_blocks`). Between them the maps are
rounded to half precision where the block was trained: so it sees what it saw in training, where the maps of all
clips are kept on disk.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from harvib.backbone_blocks import SPLITS, SUPPORTED, Block, Picked, Trunk, WholeTrunk
from harvib.errors import InputError
from harvib.weights import read_tensors, write_tensors

FILE = "backbone.safetensors"
VERSION = 1
_MOST_SHRUNK = 10
"""How many times more numbers a network has than what is left of it where its last block shrank to one feature."""


@dataclass(frozen=True)
class Origin:
    """What a backbone was made from: the timm model, and the mean and deviation of its pictures, of 0 to 1."""

    model: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Backbone(nn.Module):
    """RGB images (N, 3, H, W), values 0 to 255 of any type, to features (N, K).

    `rounds`: the maps are rounded to half precision, as they were where the block was trained.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, trunk: Trunk | WholeTrunk, block: Block, origin: Origin, rounds: bool = True) -> None:
        super().__init__()
        self.trunk, self.block, self.origin, self.rounds = trunk, block, origin, rounds
        for name, values in (("mean", origin.mean), ("std", origin.std)):
            self.register_buffer(name, 255 * torch.tensor(values).view(3, 1, 1), persistent=False)

    def maps(self, images: Tensor) -> Tensor:
        """The trunk's maps (N, C, h, w), float16 where it rounds."""
        x = (images.to(self.mean.dtype) - self.mean) / self.std
        maps: Tensor = self.trunk(x.contiguous(memory_format=torch.channels_last))
        return maps.half() if self.rounds else maps

    def forward(self, images: Tensor) -> Tensor:
        return self.block(self.maps(images).to(self.mean.dtype))

    def with_block(self, block: Block) -> Backbone:
        """The same trunk with another block."""
        return Backbone(self.trunk, block, self.origin, self.rounds)

    @torch.no_grad()
    def costs(self, height: int, width: int) -> dict[str, int]:
        """Features, parameters of trunk and block, of the block alone, and multiply-adds of one image."""
        image = torch.zeros(1, 3, height, width, device=self.mean.device)
        with FlopCounterMode(display=False) as counter:
            features = self(image).shape[1]
        block = sum(weight.numel() for weight in self.block.parameters())
        return {
            "features": features,
            "parameters": block + sum(weight.numel() for weight in self.trunk.parameters()),
            "block_parameters": block,
            "multiply_adds": counter.get_total_flops() // 2,
        }


def build(model: str, network: Any | None = None) -> Backbone:
    """A timm network as a backbone in evaluation mode, with its weights; without one, with random weights.

    Raises InputError where timm does not know the model, or its family is not supported.
    """
    if network is None:
        network = create(model)
    network.eval()
    config = resolve_model_data_config(network)
    example = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for split in SPLITS:
        pieces = split(copy.deepcopy(network))
        if pieces is not None:
            trunk, block = pieces
            with torch.no_grad():
                wanted, found = network(example), block(trunk(example))
            # Networks differ in details that no list of names tells, so the numbers decide.
            if found.shape == wanted.shape and (found - wanted).abs().max() <= 1e-3 * wanted.abs().max():
                origin = Origin(model, tuple(map(float, config["mean"])), tuple(map(float, config["std"])))
                return Backbone(trunk, block, origin).eval().to(memory_format=torch.channels_last)
    raise InputError(f"--backbone {model}: its last block cannot be trained and shrunk; supported are {SUPPORTED}")


def of_network(network: Any, origin: Origin, height: int, width: int) -> tuple[Backbone, str]:
    """A timm network of any family for pictures of this size, in evaluation mode; nothing is rounded.

    Also why its last block cannot shrink, "" where it can.
    """
    try:
        found = build(origin.model, network)
    except InputError:
        with torch.inference_mode():
            # timm's num_features is not it where layers stand behind the pooling.
            features = network(torch.zeros(1, 3, height, width)).shape[1]
        whole = Backbone(WholeTrunk(network), Picked(features), origin, rounds=False).eval()
        return whole.to(memory_format=torch.channels_last), "its family has no last block that can shrink"
    return Backbone(found.trunk, found.block, origin, rounds=False).eval(), ""


def create(model: str, **options: Any) -> Any:
    """A timm network that ends at its pooled features. Raises InputError."""
    if not timm.is_model(model):
        close = ", ".join(timm.list_models(f"*{model[:8]}*")[:5]) or "see timm.list_models()"
        raise InputError(f"--backbone {model}: timm knows no such model; perhaps {close}")
    return timm.create_model(model, **{"pretrained": False, "num_classes": 0, **options})


def save_backbone(path: Path, backbone: Backbone) -> None:
    """Write trunk and block, as they are, atomically."""
    origin = backbone.origin
    metadata = {
        "format": "harvib-backbone",
        "version": str(VERSION),
        "model": origin.model,
        "pictures": json.dumps({"mean": origin.mean, "std": origin.std}),
    }
    write_tensors(path, backbone.state_dict(), metadata)


def load_backbone(run: Path) -> Backbone:
    """The backbone of a run on videos: RGB images (N, 3, H, W), 0 to 255, to the features of its model (N, K).

    `run` is the run folder or the file itself. Raises InputError, one line, where it is missing, damaged, foreign
    or too new.
    """
    path = run / FILE if run.is_dir() else run
    if not path.is_file():
        raise InputError(f"{path}: no such file; `harvib train --videos` writes it where the run is finished")
    metadata, tensors = read_tensors(path)
    if metadata.get("format") != "harvib-backbone":
        raise InputError(f"{path}: not a backbone of harvib (by its metadata)")
    if metadata.get("version") != str(VERSION):
        raise InputError(f"{path}: version {metadata.get('version')}; this program reads {VERSION}: update it")
    try:
        pictures = json.loads(metadata["pictures"])
        origin = Origin(metadata["model"], tuple(pictures["mean"]), tuple(pictures["std"]))
        _require_like(origin.model, tensors)
        full, kept = build(origin.model), tensors["block.kept"]
        chosen = kept.ndim == 1 and kept.dtype == torch.int64 and len(kept) > 0
        if not chosen or not ((kept >= 0) & (kept < len(full.block.kept))).all() or (kept.diff() <= 0).any():
            raise ValueError("its kept features make no sense")
        backbone = Backbone(full.trunk, full.block.shrunk(kept), origin)
        backbone.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: damaged: {str(error).splitlines()[0]}") from error
    bad = next((name for name, value in tensors.items() if not torch.isfinite(value).all()), None)
    if bad is not None:
        raise InputError(f"{path}: {bad} holds NaN or infinity")
    return backbone.eval().to(memory_format=torch.channels_last)


def _require_like(model: str, tensors: Mapping[str, Tensor]) -> None:
    """ValueError where a file cannot hold this network: a stranger may name one that takes all memory there is."""
    with torch.device("meta"):
        wanted = sum(value.numel() for value in create(model).state_dict().values())
    found = sum(value.numel() for value in tensors.values())
    if wanted > _MOST_SHRUNK * found:
        raise ValueError(f"{found:,} numbers for {model}, which has {wanted:,}")
