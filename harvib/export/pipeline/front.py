"""What stands before a run's model: torch modules that make of frames the features that it reads, and their costs.

After compression the backbone is nearly all of the work, so its last block shrinks to the features that the model
reads, exactly, where its family allows that (`harvib.backbones`); elsewhere they are picked at its end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harfeat.cache import DEFAULT_STREAM, VIEW
from harfeat.extractor import InputError as ExtractorError
from harfeat.extractor import network_of
from harvib.backbones import Backbone, Origin, build, load_backbone, of_network
from harvib.classifier import Classifier
from harvib.errors import InputError
from harvib.export.pipeline.preparation import Preparation, preparation_of, resized_whole
from harvib.export.torch import compact_form
from harvib.recipes import FRAMES, of_frames, recipe_of
from harvib.rundir import RunFolder, model_file
from harvib.weights import ModelCard, front_file, load_model, read_tensors


class PixelRows(nn.Module):
    """Pictures (N, 3, H, W) uint8 to the kept of their values (N, K), 0 to 1, as a cache of frames orders them."""

    kept: Tensor

    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", kept)

    def forward(self, images: Tensor) -> Tensor:
        return images.permute(0, 2, 3, 1).flatten(1)[:, self.kept].float() / 255


@dataclass(frozen=True, eq=False)
class FrameBackbone:
    """What makes of frames the features that a run's model reads.

    `whole` and `small` are torch modules in evaluation mode that take prepared pictures (N, 3, H, W) uint8, of the
    size `preparation.size`, to all D features and to the `kept` (K,) of them, ascending; `small` equals
    `whole(...)[:, kept]` up to rounding. Where its last block is no smaller, `why` says why, and the kept features
    are picked at the end. `costs` are by "whole" and "small": features, parameters,
    multiply_adds of a frame, and bytes of all its numbers as float32.
    """

    name: str
    preparation: Preparation
    whole: nn.Module
    small: nn.Module
    kept: Tensor
    why: str
    costs: Mapping[str, Mapping[str, int]]

    @property
    def shrinks(self) -> bool:
        """Whether the small backbone does less than the whole one."""
        return not self.why


@dataclass(frozen=True, eq=False)
class Pipeline:
    """All of a run's way from frames to logits.

    `model` reads the K features that `backbone.small` makes, (B, T, K) and lengths (B,) to (B, C). `recipe` tells
    how the features that it was trained on were made, sampling of frames included.
    """

    backbone: FrameBackbone
    model: Classifier
    card: ModelCard
    recipe: Mapping[str, Any]


def pipeline_of(run: Path, weights: str | None = None) -> Pipeline:
    """That of a finished run, or of a model file. `weights` of the backbone as `harfeat extract` takes them.

    Raises InputError where there is none: features of elsewhere, optical flow, joined or fused streams, another
    backbone than the features', a model that is not recurrent.
    """
    file = model_file(run)
    model, card = load_model(file)
    small = compact_form(model)
    recipe = _recipe(run, card)
    kept = _kept(small, file)
    found = _backbone(run, small, kept, recipe, weights)
    reading = small if small.spec.normalize else _reading_all(small, len(kept))
    return Pipeline(found, reading, card, recipe)


def _recipe(run: Path, card: ModelCard) -> Mapping[str, Any]:
    told = recipe_of(run if run.is_dir() else run.parent, card)
    if card.widths:
        raise InputError(f"{run}: a model of joined streams ({card.stream}) has no one backbone to export")
    if told.get("kind") != "video":
        raise InputError(
            f"{run}: its features were not extracted from videos by harfeat (kind {told.get('kind')!r}), so there "
            "is no backbone to export; leave out --with-backbone"
        )
    if "flow" in told:
        raise InputError(
            f"{run}: optical flow is no ONNX operator, so a model of it has no pipeline; leave out --with-backbone"
        )
    if card.stream != DEFAULT_STREAM and not VIEW.fullmatch(card.stream):
        raise InputError(
            f"{run}: its stream {card.stream} is not one of frames, so there is no backbone to export"
        )
    return told


def _kept(small: Classifier, file: Path) -> Tensor:
    """The features that have to be there, ascending."""
    spec = small.spec
    if spec.normalize or spec.inputs == spec.features:
        return torch.arange(spec.features)
    if not (small.selection.diff() > 0).all():
        raise InputError(f"{file}: the features that it reads are out of order: file damaged")
    return small.selection.clone()


def _reading_all(small: Classifier, features: int) -> Classifier:
    spec = dataclasses.replace(small.spec, features=features)
    reading = spec.build()
    reading.load_state_dict(small.state_dict() | {"selection": torch.arange(features)})
    return reading.eval()


def _backbone(
    run: Path, small: Classifier, kept: Tensor, recipe: Mapping[str, Any], weights: str | None
) -> FrameBackbone:
    folder = RunFolder(run if run.is_dir() else run.parent)
    if not of_frames(recipe):
        return _of_timm(run, small, kept, recipe, weights)
    if weights is not None:
        raise InputError(f"--weights {weights}: {run} needs none: it was trained on frames; leave it out")
    preparation = resized_whole(recipe, str(run))
    if folder.backbone.is_file() or (run.is_dir() and "backbone" in folder.config()):
        return _trained(folder, small, kept, preparation)
    height, width = preparation.size
    _require_features(run, small, 3 * height * width)
    every = torch.arange(small.spec.features)
    modules = PixelRows(every).eval(), PixelRows(kept).eval()
    costs = [{"features": len(rows.kept), "parameters": 0, "multiply_adds": 0, "bytes": 0} for rows in modules]
    return FrameBackbone(FRAMES, preparation, *modules, kept, "", {"whole": costs[0], "small": costs[1]})


def _of_timm(
    run: Path, small: Classifier, kept: Tensor, recipe: Mapping[str, Any], weights: str | None
) -> FrameBackbone:
    """The backbone that made the features of a cache, in float32: nothing between its layers is rounded."""
    transform = recipe.get("transform")
    preparation = preparation_of(transform if isinstance(transform, dict) else {}, str(run))
    try:
        network = network_of(recipe, weights)
    except ExtractorError as error:
        raise InputError(f"{run}: {error}") from error
    assert isinstance(transform, dict)
    origin = _origin(run, str(recipe["model"]), transform)
    why = "rows are normalised by the length of all features" if small.spec.normalize else ""
    full, fixed = of_network(network, origin, *preparation.size)
    _require_features(run, small, len(full.block.kept))
    return _shrunk(full, kept, preparation, why or fixed)


def _trained(folder: RunFolder, small: Classifier, kept: Tensor, preparation: Preparation) -> FrameBackbone:
    """The backbone of a run on videos; as a whole, that of its plain model."""
    found = load_backbone(folder.path)
    _require_features(folder.path, small, len(found.block.kept))
    result = _shrunk(found, kept, preparation, "")
    plain = front_file(folder.plain)
    if not plain.is_file():
        return result
    wide = build(found.origin.model).block
    tensors = {name.removeprefix("block."): value for name, value in read_tensors(plain)[1].items()}
    try:
        wide.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{plain}: damaged: {str(error).splitlines()[0]}") from error
    full = found.with_block(wide).eval()
    costs = {**result.costs, "whole": _costs(full, preparation)}
    return dataclasses.replace(result, whole=full, costs=costs)


def _shrunk(full: Backbone, kept: Tensor, preparation: Preparation, why: str) -> FrameBackbone:
    small = full.with_block(full.block.shrunk(kept)).eval()
    costs = {"whole": _costs(full, preparation), "small": _costs(small, preparation)}
    return FrameBackbone(full.origin.model, preparation, full, small, small.block.kept, why, costs)


def _costs(backbone: Backbone, preparation: Preparation) -> dict[str, int]:
    found = backbone.costs(*preparation.size)
    tensors = [value for value in backbone.state_dict().values() if value.is_floating_point()]
    told = {key: found[key] for key in ("features", "parameters", "multiply_adds")}
    return told | {"bytes": 4 * sum(value.numel() for value in tensors)}


def _origin(run: Path, model: str, transform: Mapping[str, Any]) -> Origin:
    try:
        mean, std = (tuple(float(value) for value in transform[key]) for key in ("mean", "std"))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{run}: its recipe does not tell the pictures' mean and std: {error!r}") from error
    if len(mean) != 3 or len(std) != 3 or not all(map(isfinite, mean + std)) or min(std) <= 0:
        raise InputError(f"{run}: its recipe's mean {mean} and std {std} are not those of three colours")
    return Origin(model, mean, std)


def _require_features(run: Path, small: Classifier, found: int) -> None:
    if found != small.spec.features:
        raise InputError(
            f"{run}: its backbone gives {found} features, its model was made for {small.spec.features}"
        )
