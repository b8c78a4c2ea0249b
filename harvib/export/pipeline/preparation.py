"""What becomes of a raw frame before a backbone sees it, resized and cropped by Pillow and timm, as in a cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor
from typing import Any

import numpy as np

from harfeat.extractor import TransformConfig, prepare
from harvib.errors import InputError


@dataclass(frozen=True)
class Preparation:
    """Frames (N, H, W, 3) uint8 RGB of any size to pictures (N, 3, height, width) uint8."""

    transform: TransformConfig

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        return self.transform.input_size

    @property
    def scaled(self) -> tuple[int, int]:
        """Height and width before the crop, of a frame that has this shape: such a one is not resized."""
        height, width = self.size
        return floor(height / self.transform.crop_pct), floor(width / self.transform.crop_pct)

    def pictures(self, frames: np.ndarray) -> np.ndarray:
        """Those of frames."""
        return np.ascontiguousarray(prepare(frames, self.transform))


def resized_whole(recipe: Mapping[str, Any], where: str) -> Preparation:
    """That of a cache of frames: one resize of the whole frame, whatever its shape; see `harfeat.pixels`.

    Raises InputError as `preparation_of`.
    """
    size = recipe.get("size")
    width, height = size if isinstance(size, list) and len(size) == 2 else (0, 0)
    told = {"input_size": (height, width), "crop_pct": 1.0, "crop_mode": "squash"}
    return preparation_of(told | {"interpolation": recipe.get("filter", "bilinear")}, where)


def preparation_of(transform: Mapping[str, Any], where: str) -> Preparation:
    """That of a recipe's `transform`. Raises InputError, which begins with `where`, where that makes no sense."""
    try:
        height, width = (int(side) for side in transform["input_size"])
        found = TransformConfig(
            (height, width),
            str(transform["interpolation"]),
            float(transform["crop_pct"]),
            str(transform["crop_mode"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: its recipe does not tell how frames are prepared: {error!r}") from error
    if not found.crop_pct > 0 or min(height, width) < 1:
        raise InputError(
            f"{where}: its recipe prepares frames with crop_pct {found.crop_pct:g} to {width}x{height}"
        )
    return Preparation(found)
