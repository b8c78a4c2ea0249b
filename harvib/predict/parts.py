"""A finished model, opened to see videos: each of its streams with what makes its features.

Everything about the features is in the model file: the recipe of the cache that it was trained on. Where the cache
held frames and the run trained its backbone, that backbone follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from harvib.classifier import Classifier
from harvib.data import PIXELS, as_numbers
from harvib.errors import InputError
from harvib.filed import FileClassifier
from harvib.fusion import load_fused
from harvib.joined import MARK
from harvib.modelfiles import features_of, load_any
from harvib.recipes import of_frames, recipe_of
from harvib.rundir import RunFolder, model_file
from harvib.seen import seen_by
from harvib.streaming import Running, running
from harvib.weights import ModelCard

if TYPE_CHECKING:
    from harfeat.extractor import Extractor
    from harvib.backbones import Backbone


@dataclass(frozen=True, eq=False)
class Part:
    """One stream of a model. `backbone`, of a run on videos, makes features of the extractor's frames."""

    model: Classifier | FileClassifier
    card: ModelCard
    extractor: Extractor
    device: torch.device
    backbone: Backbone | None = None

    @property
    def features(self) -> int:
        """Values a row, as the model takes them."""
        return features_of(self.model)

    def numbers(self, rows: np.ndarray) -> Tensor:
        """Rows (T, ...) as the extractor gives them to what the model takes, (T, D) float32 on its device.

        Raises InputError where some are not finite.
        """
        if self.backbone is not None:
            width, height = self.card.recipe["size"]
            images = rows.reshape(-1, height, width, 3).transpose(0, 3, 1, 2)
            numbers = seen_by(self.backbone, images, self.device)
        else:
            numbers = as_numbers(torch.from_numpy(rows), torch.float32, PIXELS)
        if not torch.isfinite(numbers).all():
            raise InputError("features hold NaN or infinity")
        return numbers.to(self.device)

    @torch.inference_mode()
    def logits(self, rows: np.ndarray) -> Tensor:
        """(C,) of a whole clip."""
        numbers = self.numbers(rows)
        found: Tensor = self.model(numbers[None], torch.tensor([len(numbers)], device=self.device))[0]
        return found

    def running(self) -> Running:
        """A stream of it that begins."""
        return running(self.model, self.features, self.device)


@dataclass(frozen=True, eq=False)
class Opened:
    """All streams of a model, and of a fused one the weight of each."""

    parts: tuple[Part, ...]
    weights: tuple[float, ...] = ()


def opened(model: Path, weights: str | None, device: torch.device, batch: int) -> Opened:
    """A run folder, of one stream or fused, or a file of a model as `load_any` reads it.

    Raises InputError: it cannot be read, or its features cannot be made of a video here.
    """
    if model.is_dir() and RunFolder(model).streams:
        fused, cards = load_fused(model)
        found = [
            _part(model / name, model / name, fused.models[name], card, weights, device, batch)
            for name, card in cards.items()
        ]
        return Opened(tuple(found), tuple(fused.weights))
    file = model_file(model)
    network, card = load_any(file)
    return Opened((_part(model, file.parent, network, card, weights, device, batch),))


def _part(
    where: Path,
    folder: Path,
    model: Classifier | FileClassifier,
    card: ModelCard,
    weights: str | None,
    device: torch.device,
    batch: int,
) -> Part:
    """`where` is what errors name; `folder` is where the model lies, with what belongs to it."""
    from harfeat.extractor import extractor_of  # noqa: PLC0415 - timm takes a second to import

    if card.widths or MARK in card.stream:
        raise InputError(
            f"{where}: the model reads the streams {card.stream} side by side, and no video gives them; predict "
            "needs a model of the rgb or flow of a cache that harfeat extracted"
        )
    recipe = recipe_of(folder, card)
    if not recipe:
        raise InputError(
            f"{where}: neither the model file nor a config.json beside it tells how its features "
            f"({card.fingerprint[:12]}) are made; train it again, or name its run folder"
        )
    card = replace(card, recipe=recipe)
    with ours(where):
        extractor = extractor_of(card.recipe, weights, str(device), batch)
    if card.stream != extractor.sampling.stream:
        raise InputError(
            f"{where}: the model was trained on the stream {card.stream} of its cache, and a video gives "
            f"{extractor.sampling.stream}"
        )
    found = Part(model.to(device).eval(), card, extractor, device)
    if extractor.dim != found.features and of_frames(card.recipe):
        found = replace(found, backbone=_backbone(folder, device))
    values = extractor.dim if found.backbone is None else len(found.backbone.block.kept)
    if values != found.features:
        raise InputError(f"{where}: a frame gives {values} values, the model was made for {found.features}")
    return found


@contextmanager
def ours(where: Path) -> Iterator[None]:
    """What harfeat's extractor raises for a user, as harvib's error, which begins with the place."""
    from harfeat.extractor import InputError as ExtractorError  # noqa: PLC0415 - as above

    try:
        yield
    except ExtractorError as error:
        raise InputError(f"{where}: {error}") from error


def _backbone(folder: Path, device: torch.device) -> Backbone:
    from harvib.backbones import load_backbone  # noqa: PLC0415 - timm takes a second to import

    return load_backbone(folder).to(device)
