"""`--model pixels`: the frames themselves as features, for models that choose among pixels.

Each frame is resized as a whole to W x H, whatever its shape, by Pillow's bilinear filter, which averages over the
source pixels where it shrinks. Nothing is cropped, normalised or converted: a row of the cache is the resized RGB
frame, uint8, in the order (H, W, 3), so that `row.reshape(H, W, 3)` is the picture. Readers divide by 255.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from harfeat.preprocess import TransformConfig
from harfeat.settings import PIXELS

FILTER = "bilinear"


@dataclass(frozen=True)
class Pixels:
    """In the place of a network: what it makes of frames is the frames. Sizes in pixels; `batch` in frames."""

    width: int
    height: int
    batch: int
    ahead: int = 0
    device: str = "cpu"
    note: str | None = None

    @property
    def transform(self) -> TransformConfig:
        """One resize, without regard to the frame's shape."""
        return TransformConfig((self.height, self.width), FILTER, 1.0, "squash")

    @property
    def dim(self) -> int:
        """3 H W."""
        return 3 * self.height * self.width

    def recipe(self) -> dict[str, Any]:
        """Everything here that changes a value."""
        return {"model": PIXELS, "size": [self.width, self.height], "filter": FILTER, "pillow": version("pillow")}

    def provenance(self) -> dict[str, Any]:
        """There is nothing to tell beside the recipe."""
        return {"device": self.device}

    def start(self, pixels: np.ndarray) -> np.ndarray:
        """(B, 3, H, W) uint8 to (B, H * W * 3) uint8."""
        return pixels.transpose(0, 2, 3, 1).reshape(len(pixels), -1)
