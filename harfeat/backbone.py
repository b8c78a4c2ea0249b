"""A timm model that turns prepared frames into pooled features."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from timm.data import resolve_model_data_config

from harfeat.errors import InputError
from harfeat.preprocess import TransformConfig
from harfeat.weights import WeightSource, load_backbone

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, eq=False)
class Backbone:
    """A network on its device, with the preprocessing it was trained with."""

    name: str
    network: Any
    source: WeightSource
    device: torch.device
    precision: str
    data_config: dict[str, Any]
    batch: int
    dim: int

    @property
    def transform(self) -> TransformConfig:
        """How frames are resized and cropped before `features`."""
        return TransformConfig.of(self.data_config)

    def recipe(self) -> dict[str, Any]:
        """Everything here that changes a feature."""
        return {
            "model": self.name,
            "weights": self.source.tensors_sha256,
            "precision": self.precision,
            "transform": vars(self.transform)
            | {"mean": list(self.data_config["mean"]), "std": list(self.data_config["std"])}
            | {"input_size": list(self.transform.input_size)},
        }

    @torch.inference_mode()
    def features(self, pixels: np.ndarray) -> np.ndarray:
        """(B, 3, H, W) uint8 to (B, D) float32.

        A batch that is not full is padded: kernels are chosen by the size of the batch, and a frame's feature
        must not depend on how many others came with it.
        """
        count = len(pixels)
        full = np.concatenate([pixels, np.zeros((self.batch - count, *pixels.shape[1:]), np.uint8)])
        x = torch.from_numpy(full).to(self.device, non_blocking=True).float()
        mean, std = (
            255 * torch.tensor(self.data_config[key], device=self.device).view(1, 3, 1, 1)
            for key in ("mean", "std")
        )
        x = ((x - mean) / std).to(memory_format=torch.channels_last)
        with self._autocast():
            features = self.network(x)
        return features[:count].float().cpu().numpy()

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=PRECISIONS[self.precision])


def build_backbone(model: str, weights: str, device: str, precision: str, batch: int) -> Backbone:
    """Load a backbone; for device and precision, `auto` takes the fastest that this machine has.

    Raises InputError.
    """
    target = _device(device)
    chosen = _precision(precision, target)
    loaded, source = load_backbone(model, weights)
    config = resolve_model_data_config(loaded)
    network: Any = loaded.to(target).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        pooled = network(torch.zeros(1, *config["input_size"], device=target))
    if pooled.ndim != 2:
        raise InputError(f"--model {model}: gives {tuple(pooled.shape)}, not one pooled feature a frame")
    return Backbone(model, network, source, target, chosen, config, batch, int(pooled.shape[1]))


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def _precision(name: str, device: torch.device) -> str:
    """bfloat16 where the processor multiplies it natively, which on a CPU means AVX512-BF16 or AMX."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "bfloat16" if _native_bfloat16() and torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"


def _native_bfloat16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
