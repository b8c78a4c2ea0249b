"""What becomes of a raw frame before a backbone sees it: resized and cropped by Pillow and timm, as for a cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor
from typing import Any

import numpy as np

from harfeat.extractor import TransformConfig, prepare
from harvib.errors import InputError

FILTERS = ("bilinear", "bicubic")
_CROPS = ("center", "squash")
"""What has an ONNX form: `harvib.export.pipeline.resize`."""


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


def preparation_of(transform: Mapping[str, Any], where: str) -> Preparation:
    """That of a recipe's `transform`. Raises InputError, which begins with `where`, for what has no graph."""
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
    for name, value, known in (
        ("interpolation", found.interpolation, FILTERS),
        ("crop_mode", found.crop_mode, _CROPS),
    ):
        if value not in known:
            raise InputError(
                f"{where}: its frames are prepared with {name} {value}, which has no ONNX form here; there are "
                f"{', '.join(known)}"
            )
    if not 0 < found.crop_pct <= 1 or min(height, width) < 1:
        raise InputError(
            f"{where}: its frames are prepared with crop_pct {found.crop_pct:g} to {width}x{height}, which has no "
            "ONNX form here"
        )
    return Preparation(found)
