"""A model's own picture preprocessing, by timm, up to the point where the device takes over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image
from timm.data import create_transform


@dataclass(frozen=True)
class TransformConfig:
    """The part of timm's data settings that decides the pixels.

    Mean and standard deviation are left out: the device applies them, as timm's PrefetchLoader does.
    """

    input_size: tuple[int, int]  # (height, width)
    interpolation: str
    crop_pct: float
    crop_mode: str

    @classmethod
    def of(cls, data_config: Mapping[str, Any]) -> TransformConfig:
        """From `timm.data.resolve_model_data_config(model)`."""
        _, height, width = data_config["input_size"]
        return cls(
            (int(height), int(width)),
            str(data_config["interpolation"]),
            float(data_config["crop_pct"]),
            str(data_config["crop_mode"]),
        )


def prepare(frames: np.ndarray, config: TransformConfig) -> np.ndarray:
    """(T, H, W, 3) uint8 RGB frames to (T, 3, h, w) uint8, resized and cropped by timm's evaluation rule."""
    transform = _transform(config)
    return np.stack([np.asarray(transform(Image.fromarray(frame))) for frame in frames])


@lru_cache(maxsize=8)
def _transform(config: TransformConfig) -> Any:
    return create_transform(
        input_size=(3, *config.input_size),
        is_training=False,
        use_prefetcher=True,
        interpolation=config.interpolation,
        crop_pct=config.crop_pct,
        crop_mode=config.crop_mode,
    )
