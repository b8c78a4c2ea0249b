"""What the backbone's own classifier sees in the frames, where its weights hold one."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_model_data_config

from harfeat.cache import Cache
from harfeat.errors import InputError
from harfeat.preprocess import TransformConfig
from harfeat.settings import PIXELS
from harfeat.weights import identity, load_classifier


@dataclass(frozen=True)
class Guess:
    """A class of the classifier and its probability, the mean over the frames."""

    name: str
    share: float


@dataclass(frozen=True)
class Classifier:
    """A network with its classifier, in float32 on the CPU."""

    network: Any
    data_config: Mapping[str, Any]
    names: Sequence[str]

    @property
    def transform(self) -> TransformConfig:
        """How it wants its pictures."""
        return TransformConfig.of(self.data_config)

    @torch.inference_mode()
    def guesses(self, pixels: np.ndarray, count: int = 3) -> list[Guess]:
        """The likeliest classes of a clip's frames, (T, 3, h, w) uint8."""
        mean, std = (255 * torch.tensor(self.data_config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        logits = self.network((torch.from_numpy(pixels).float() - mean) / std)
        shares = logits.softmax(dim=1).mean(dim=0)
        best = shares.topk(min(count, len(shares)))
        return [
            Guess(self.names[index], share)
            for share, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]


def classifier_of(cache: Cache, weights: str | None) -> Classifier | str:
    """The classifier of the backbone that made a cache, or one sentence on why there is none.

    `weights` names the file, where the cache was made from one: a path that a cache states is not opened.
    """
    settings = cache.provenance.get("settings")
    told = settings.get("weights") if isinstance(settings, Mapping) else None
    model = cache.recipe.get("model")
    if not isinstance(told, str) or not isinstance(model, str):
        return "The provenance names no model and weights, so there are no predictions."
    if model == PIXELS:
        return "The features are the frames' own pixels, so there are no predictions."
    if "flow" in cache.recipe:
        return "The backbone saw optical flow, not these frames, so there are no predictions."
    if told == "none":
        return "The backbone had random weights, so there are no predictions."
    if weights is None and told != "auto":
        return "The backbone's weights came from a file; with --weights FILE this page shows its predictions too."
    try:
        network: Any = load_classifier(model, weights or told)
    except InputError as error:
        return f"There are no predictions: {error}."
    if network is None:
        return "The backbone's weights hold no classifier, so there are no predictions."
    backbone = copy.deepcopy(network)
    backbone.reset_classifier(0)
    if identity(backbone) != cache.recipe.get("weights"):
        return "There are no predictions: these weights are not those that the cache was made with."
    return Classifier(network, resolve_model_data_config(network), _names(network))


def _names(network: Any) -> list[str]:
    """ImageNet's words where the number of classes tells that it is ImageNet, else numbers."""
    subset = infer_imagenet_subset(network)
    if subset is None:
        return [f"class {index} of {network.num_classes}" for index in range(network.num_classes)]
    info = ImageNetInfo(subset)
    return [info.index_to_description(index).split(",")[0] for index in range(network.num_classes)]
