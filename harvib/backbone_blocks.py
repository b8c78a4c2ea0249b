"""How the networks of each family come apart into a trunk and a last block that may be trained and shrunk.

The block ends in the channels whose mean over all places is the feature. Dropping a feature removes its row from
the block's last convolution and batch normalisation, so the network really gets smaller, and all other features
stay as they were. The supported families, with their last block:

    conv_head   EfficientNet, MobileNet and their like: the 1x1 convolution before or after the pooling, with its
                batch normalisation and activation
    resnet      ResNet, ResNeXt, Wide ResNet: the last residual block; where its shortcut is the identity, the
                kept channels are picked out of it
    regnet      RegNet: the same; its attention stands before the convolution that shrinks

A network of another family can be a trunk as a whole: its features are picked, and nothing gets smaller.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

SUPPORTED = "networks with a conv_head and batch normalisation (EfficientNet, MobileNet), ResNets and RegNets"


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


def _regnet(network: Any) -> tuple[Trunk, Block] | None:
    nothing: tuple[str, Any] = ("", None)
    name, last = next(reversed(list(getattr(network, "s4", nn.Module()).named_children())), nothing)
    end, shortcut = getattr(last, "conv3", None), getattr(last, "downsample", None)
    ends: list[Any] = [end] if type(shortcut) is nn.Identity else [end, shortcut]
    if not all(isinstance(getattr(item, "bn", None), nn.BatchNorm2d) for item in ends):
        return None
    network.s4.set_submodule(name, nn.Identity())
    bodies = [nn.Sequential(item.conv, item.bn) for item in ends]
    body = nn.Sequential(last.conv1, last.conv2, last.se, *bodies[0])
    return Trunk(network, pools=False), Residual(body, bodies[1] if len(ends) > 1 else None, last.act3)


SPLITS = (_conv_head, _resnet, _regnet)
"""Each takes a timm network apart, which it may spoil; None where it is of another family."""
