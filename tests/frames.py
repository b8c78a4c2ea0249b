"""Small made-up caches of frames, and networks with weights for which all layers matter."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from caches import made_up_cache
from safetensors.torch import save_file
from torch import nn

from harfeat.cache import ClipFeatures, ClipRow, StreamLayout, open_cache, write_cache

WIDTH, HEIGHT = 64, 48
RECIPE = {"kind": "video", "model": "pixels", "size": [WIDTH, HEIGHT]}
TINY = "test_efficientnet"


def painted(label: int, frames: int, rng: np.random.Generator) -> np.ndarray:
    """(T, H * W * 3) uint8: noise, tinted in the class's colour."""
    pictures = rng.integers(0, 120, (frames, HEIGHT, WIDTH, 3), dtype=np.uint8)
    pictures[..., label % 3] += 100
    return pictures.reshape(frames, -1)


def made_up_frames(path: Path, *, seed: int = 0, views: int = 0) -> Path:
    """A cache of frames, split as `made_up_cache` does it; with `views` other draws of each clip."""
    rng = np.random.default_rng(seed)

    def paint(rows: list[ClipRow], features: list[np.ndarray]) -> tuple[list[ClipRow], list[np.ndarray]]:
        return rows, [painted(row.label, len(values), rng) for row, values in zip(rows, features, strict=True)]

    made_up_cache(path, lengths=(2, 3), dim=1, dtype=np.uint8, recipe=RECIPE, change=paint)
    if not views:
        return path
    viewed = path.with_name(f"viewed-{path.name}")
    with open_cache(path) as cache:
        streams = ("rgb", *(f"rgb-view-{view + 1}" for view in range(views)))
        clips = []
        for clip, row in enumerate(cache.clips):
            draws = [painted(row.label, 2, rng) for _ in range(views)]
            found = [cache.read(clip), *(ClipFeatures(draw, np.arange(2)) for draw in draws)]
            clips.append(dict(zip(streams, found, strict=True)))
        drawn = StreamLayout([2] * len(clips), cache.dim(), cache.dtype())
        layouts = {"rgb": cache.layout()} | dict.fromkeys(streams[1:], drawn)
        write_cache(viewed, cache.head, layouts, iter(clips))
    return viewed


def lively(model: str, classifier: bool = False) -> Any:
    """A timm network with random weights whose every layer changes its features; evaluation mode."""
    network = copy.deepcopy(_lively(model))
    if not classifier:
        network.reset_classifier(0)
    return network


@functools.cache
def _lively(model: str) -> Any:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        network = timm.create_model(model, pretrained=False)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
        network.train()
        for _ in range(12):
            network(torch.randn(8, 3, HEIGHT, WIDTH))
    return network.eval()


def weights_file(path: Path, model: str = TINY) -> Path:
    """The weights of `lively(model)`, and a classifier, as `harvib train --videos` takes them."""
    save_file(
        {name: value.contiguous() for name, value in lively(model, classifier=True).state_dict().items()}, path
    )
    return path
