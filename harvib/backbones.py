"""Image backbones in two pieces, a trunk that stays as it is and a last block that may be trained and shrunk.

The block ends in the channels whose mean over all places is the feature. Dropping a feature removes its row from
the block's last convolution and batch normalisation, so the network really gets smaller, and all other features
stay as they were. The supported families, with their last block:

    conv_head   EfficientNet, MobileNet and their like: the 1x1 convolution before or after the pooling, with its
                batch normalisation and activation
    resnet      ResNet, ResNeXt, Wide ResNet: the last residual block; where its shortcut is the identity, the
                kept channels are picked out of it

A network of another family can be a trunk as a whole (`whole`): its features are picked, and nothing gets smaller.

Between trunk and block the maps are rounded to half precision where the block was trained: so it sees what it saw
in training, where the maps of all clips are kept on disk.
"""

from __future__ import annotations

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import Self

from harvib.errors import InputError
from harvib.weights import read_tensors, write_tensors

FILE = "backbone.safetensors"
VERSION = 1
_MOST_SHRUNK = 10
"""How many times more numbers a network has than what is left of it where its last block shrank to one feature."""
SUPPORTED = "networks with a conv_head and batch normalisation (EfficientNet, MobileNet), and ResNets"


class Block(nn.Module, ABC):
    """The last block: maps (N, C, h, w) to features (N, K); `kept` (K,) are their places among those of timm."""

    kept: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("kept", torch.arange(features))

    @abstractmethod
    def channels(self, maps: Tensor) -> Tensor:
        """(N, C, h, w) to (N, K, h', w')."""

    @abstractmethod
    def _keep(self, kept: Tensor) -> None:
        """Remove all output channels but these, in place."""

    def forward(self, maps: Tensor) -> Tensor:
        return self.channels(maps).mean((2, 3))

    @torch.no_grad()
    def shrunk(self, kept: Tensor) -> Self:
        """A block that computes only these of its features, (K,) ascending, as exactly as this one."""
        small = copy.deepcopy(self)
        kept = kept.to(self.kept.device)
        small._keep(kept)
        small.kept = self.kept[kept]
        return small


class HeadConv(Block):
    """A convolution, its normalisation and its activation."""

    def __init__(self, conv: nn.Conv2d, norm: nn.Module, act: nn.Module) -> None:
        super().__init__(conv.out_channels)
        self.conv, self.norm, self.act = conv, norm, act

    def channels(self, maps: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(maps)))

    def _keep(self, kept: Tensor) -> None:
        self.conv, self.norm = _rows(self.conv, kept), _rows(self.norm, kept)


class Residual(Block):
    """A residual block: `body` ends in the convolution and normalisation that shrink; no shortcut: identity."""

    def __init__(self, body: nn.Sequential, shortcut: nn.Sequential | None, act: nn.Module) -> None:
        conv = body[-2]
        assert isinstance(conv, nn.Conv2d)
        super().__init__(conv.out_channels)
        self.body, self.shortcut, self.act = body, shortcut, act

    def channels(self, maps: Tensor) -> Tensor:
        if self.shortcut is not None:
            shortcut = self.shortcut(maps)
        else:
            shortcut = maps if len(self.kept) == maps.shape[1] else maps.index_select(1, self.kept)
        return self.act(self.body(maps) + shortcut)

    def _keep(self, kept: Tensor) -> None:
        for path in (self.body, self.shortcut):
            if path is not None:
                path[-2], path[-1] = _rows(path[-2], kept), _rows(path[-1], kept)


def _rows(module: nn.Module, kept: Tensor) -> Any:
    """The same convolution or normalisation for these of its output channels alone."""
    small: Any = copy.deepcopy(module)
    for name, value in module.named_parameters():
        setattr(small, name, nn.Parameter(value[kept].clone(), value.requires_grad))
    for name, buffer in module.named_buffers():
        if buffer.ndim:
            setattr(small, name, buffer[kept].clone())
    for name in ("out_channels", "num_features"):
        if hasattr(small, name):
            setattr(small, name, len(kept))
    return small


class Picked(Block):
    """No block: of finished features (N, D) those that are kept."""

    def channels(self, maps: Tensor) -> Tensor:
        return maps.index_select(1, self.kept)[:, :, None, None]

    def _keep(self, kept: Tensor) -> None:
        """`kept` itself is all that there is."""


class Trunk(nn.Module):
    """Normalised images (N, 3, H, W) to maps (N, C, h, w): a timm network without its last block."""

    def __init__(self, network: Any, pools: bool) -> None:
        super().__init__()
        self.network, self.pools = network, pools

    def forward(self, x: Tensor) -> Tensor:
        maps = self.network.forward_features(x)
        return maps.mean((2, 3), keepdim=True) if self.pools else maps


class WholeTrunk(nn.Module):
    """Normalised images (N, 3, H, W) to features (N, D): a timm network as it is."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.network(x)
        return features


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
    for split in (_conv_head, _resnet):
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


def whole(network: Any, features: int, origin: Origin) -> Backbone:
    """A timm network of any family, which ends at so many features, in evaluation mode; nothing is rounded."""
    backbone = Backbone(WholeTrunk(network), Picked(features), origin, rounds=False)
    return backbone.eval().to(memory_format=torch.channels_last)


def create(model: str, **options: Any) -> Any:
    """A timm network that ends at its pooled features. Raises InputError."""
    if not timm.is_model(model):
        close = ", ".join(timm.list_models(f"*{model[:8]}*")[:5]) or "see timm.list_models()"
        raise InputError(f"--backbone {model}: timm knows no such model; perhaps {close}")
    return timm.create_model(model, **{"pretrained": False, "num_classes": 0, **options})


def _conv_head(network: Any) -> tuple[Trunk, Block] | None:
    after = isinstance(getattr(network, "bn2", None), nn.Module)
    conv = getattr(network, "conv_head", None)
    norm = network.bn2 if after else getattr(network, "norm_head", nn.Identity())
    if not isinstance(conv, nn.Conv2d) or conv.groups > 1 or not isinstance(norm, nn.BatchNorm2d | nn.Identity):
        return None
    act = nn.Identity() if after else getattr(network, "act2", nn.Identity())
    for name in ("conv_head", *(("bn2",) if after else ("norm_head", "act2"))):
        setattr(network, name, nn.Identity())
    return Trunk(network, pools=not after), HeadConv(conv, norm, act)


_BODIES = {
    "conv3": ("conv1", "bn1", "act1", "conv2", "bn2", "drop_block", "act2", "aa", "conv3", "bn3", "act3"),
    "conv2": ("conv1", "bn1", "drop_block", "act1", "aa", "conv2", "bn2", "act2"),
}
"""The modules of a bottleneck and of a basic block, in the order in which they run."""


def _resnet(network: Any) -> tuple[Trunk, Block] | None:
    last = getattr(network, "layer4", [None])[-1]
    kind = next((name for name in _BODIES if isinstance(getattr(last, name, None), nn.Conv2d)), None)
    # Attention over the channels mixes them: no channel could leave without changing the others.
    if kind is None or getattr(last, "se", None) is not None:
        return None
    *body, act = (getattr(last, name) for name in _BODIES[kind] if getattr(last, name, None) is not None)
    shortcut = last.downsample
    ends = [body, *([] if shortcut is None else [shortcut])]
    if not all(
        isinstance(end[-1], nn.BatchNorm2d) and isinstance(end[-2], nn.Conv2d) and end[-2].groups == 1
        for end in ends
    ):
        return None
    network.layer4[-1] = nn.Identity()
    return Trunk(network, pools=False), Residual(nn.Sequential(*body), shortcut, act)


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
