"""Where a model that reads frames themselves looks: the pixels that its input mask keeps, as pictures.

A row of such a cache is a frame of W x H in the order (H, W, 3) (`harfeat extract --model pixels`), and the recipe
in the run's config tells the size, so that the mask's factors lie on the frame again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harvib.classifier import Classifier
from harvib.recipes import of_frames
from harvib.report.plots import pictures_plot

_CHANNELS = ("red", "green", "blue")


@dataclass(frozen=True, eq=False)
class KeptPixels:
    """What an input mask makes of a frame.

    `kept` (H, W, 3) bool; `strength` (H, W, 3) |mu|, 0 where dropped; `mean` (H, W, 3) the mean frame of the train
    part from 0 to 1, where the model standardises its inputs and so knows it; `channels` their names.
    """

    kept: np.ndarray
    strength: np.ndarray
    mean: np.ndarray | None
    channels: tuple[str, ...]

    @property
    def shares(self) -> tuple[float, ...]:
        """Kept share of each channel, 0 to 1."""
        return tuple(self.kept.mean((0, 1)).tolist())


@torch.no_grad()
def kept_pixels(masked: Classifier, recipe: Mapping[str, Any]) -> KeptPixels | None:
    """What a masked model keeps of the frame; None where it was not trained on pixels.

    `recipe` is that of the cache it was trained on.
    """
    size = recipe.get("size")
    if not of_frames(recipe) or masked.input_mask is None:
        return None
    if not isinstance(size, (list, tuple)) or len(size) != 2 or size[0] * size[1] * 3 != masked.spec.features:
        return None
    width, height = size

    def on_frame(values: Tensor) -> np.ndarray:
        frame = torch.zeros(masked.spec.features)
        frame[masked.selection] = values.float()
        return frame.reshape(height, width, 3).numpy()

    standardised = bool((masked.input_mean != 0).any())
    told = recipe.get("flow")
    return KeptPixels(
        on_frame(masked.input_mask.keep()) > 0,
        on_frame(masked.input_mask.hard().abs()),
        on_frame(masked.input_mean) if standardised else None,
        tuple(told["channels"]) if isinstance(told, Mapping) else _CHANNELS,
    )


def pixels_plot(name: str, found: KeptPixels, alt: str) -> str:
    """The pictures side by side as one <svg>: kept channels in their colour, |mu| as grey, the mean frame."""
    strongest = max(float(found.strength.max()), 1e-30)
    grey = np.repeat(found.strength.mean(2, keepdims=True) / strongest, 3, axis=2)
    pictures = {"kept": found.kept.astype(np.float32), "|mu|": grey}
    if found.mean is not None:
        pictures["mean frame"] = found.mean.clip(0, 1)
    return pictures_plot(name, pictures, alt)


def pixels_caption(found: KeptPixels) -> str:
    """How many values are kept, in all and of each channel."""
    shares = ", ".join(f"{name} {share:.1%}" for name, share in zip(found.channels, found.shares, strict=True))
    return (
        f"{int(found.kept.sum()):,} of {found.kept.size:,} values kept: {shares}. Kept: each channel in its "
        "colour (red, green, blue; white: all three). |mu|: mean of the channels, white is the largest factor."
    )
