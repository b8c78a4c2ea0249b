"""A timm model that turns prepared frames into pooled features."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from timm.data import resolve_model_data_config

from harfeat.errors import InputError
from harfeat.folding import folded
from harfeat.lanes import Lanes, Pending
from harfeat.precision import PRECISIONS, Precision, calibration_pictures, choose_precision
from harfeat.preprocess import TransformConfig
from harfeat.weights import WeightSource, load_backbone

__all__ = ["PRECISIONS", "Backbone", "build_backbone"]


@dataclass(frozen=True, eq=False)
class Backbone:
    """A network on its device, with the preprocessing it was trained with."""

    name: str
    network: Any
    source: WeightSource
    device: torch.device
    choice: Precision
    batch_norm: str
    data_config: dict[str, Any]
    batch: int
    dim: int

    @property
    def transform(self) -> TransformConfig:
        """How frames are resized and cropped before `features`."""
        return TransformConfig.of(self.data_config)

    @property
    def precision(self) -> str:
        """float32, bfloat16 or float16."""
        return self.choice.name

    @property
    def note(self) -> str | None:
        """One line for the user where a faster precision was passed over."""
        return self.choice.note

    @property
    def ahead(self) -> int:
        """Batches that should be under way at once, so that no core and no GPU waits for the next."""
        return 1 + math.ceil(2 * self.lanes.count * self.lanes.batch / self.batch)

    @cached_property
    def lanes(self) -> Lanes:
        """The threads that run the network."""
        mean, std = ([255 * value for value in self.data_config[key]] for key in ("mean", "std"))
        return Lanes(self.network, self.device, self.precision, mean, std, self.batch)

    def recipe(self) -> dict[str, Any]:
        """Everything here that changes a feature."""
        return {
            "model": self.name,
            "weights": self.source.tensors_sha256,
            "precision": self.precision,
            "batch_norm": self.batch_norm,
            "transform": vars(self.transform)
            | {"mean": list(self.data_config["mean"]), "std": list(self.data_config["std"])}
            | {"input_size": list(self.transform.input_size)},
        }

    def provenance(self) -> dict[str, Any]:
        """What is worth telling beside the recipe: where the weights are from, how the precision was chosen."""
        return {
            "weights": asdict(self.source),
            "device": str(self.device),
            "precision": asdict(self.choice),
        }

    def features(self, pixels: np.ndarray) -> np.ndarray:
        """(B, 3, H, W) uint8 to (B, D) float32. A frame's feature depends on nothing but the frame."""
        return self.start(pixels).result()

    def start(self, pixels: np.ndarray) -> Pending:
        """The same without waiting: the features are the `.result()` of what it returns."""
        return self.lanes.start(pixels)


def build_backbone(model: str, weights: str, device: str, precision: str, batch: int) -> Backbone:
    """Load a backbone.

    Args:
        model: any timm model.
        weights: `auto`, `none` or a file, as `load_backbone` takes it.
        device: `auto` (a GPU where there is one), or a torch device.
        precision: one of `PRECISIONS`, or `auto`: the fastest native one that keeps the features.
        batch: frames in a batch; a CPU core takes at most 8 of them at once (see `harfeat.lanes`).

    Raises:
        InputError: any of them cannot be had here.
    """
    target = _device(device)
    loaded, source = load_backbone(model, weights)
    config = resolve_model_data_config(loaded)
    network: Any = loaded.to(target).to(memory_format=torch.channels_last)
    pictures = _normalised(config, target)
    with torch.inference_mode():
        pooled = network(pictures[:1])
    if pooled.ndim != 2:
        raise InputError(f"--model {model}: gives {tuple(pooled.shape)}, not one pooled feature a frame")
    plain, network = network, folded(network, pictures[:2])
    batch_norm = "apart" if plain is network else "folded"
    choice, network = choose_precision(precision, network.to(memory_format=torch.channels_last), pictures)
    return Backbone(model, network, source, target, choice, batch_norm, config, batch, int(pooled.shape[1]))


def _normalised(config: dict[str, Any], device: torch.device) -> torch.Tensor:
    """The calibration pictures as a network takes them."""
    _, height, width = config["input_size"]
    mean, std = (torch.tensor(config[key], device=device).view(1, 3, 1, 1) for key in ("mean", "std"))
    x = torch.from_numpy(calibration_pictures(height, width)).to(device).float().div_(255).sub_(mean).div_(std)
    return x.to(memory_format=torch.channels_last)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: cannot be used here: {str(error).splitlines()[0]}") from error
    return device
