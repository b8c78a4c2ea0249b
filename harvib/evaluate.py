"""A saved model on any cache with the same classes and the same kind of features."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harfeat.cache import ROLES, Cache, open_cache
from harvib.classifier import Classifier
from harvib.data import load_clips
from harvib.errors import InputError
from harvib.filed import FileClassifier
from harvib.fusion import load_fused
from harvib.labels import require_labels
from harvib.matching import Matched, first_difference, matched
from harvib.metrics import Evaluation, evaluate
from harvib.modelfiles import features_of, load_any
from harvib.rundir import RunFolder, model_file
from harvib.seen import SeenCache
from harvib.source import Source, holds, opened, places_of, source_of
from harvib.weighting import fuse
from harvib.weights import ModelCard

if TYPE_CHECKING:
    from harvib.backbones import Backbone


def evaluate_run(
    model: Path,
    features: Path | Source | Sequence[Path | Source],
    split: str | None,
    subset: str,
    device: torch.device,
    videos: bool = False,
) -> dict[str, Any]:
    """Accuracy, loss and confusion matrix of a run folder's final model, or of a model file, also one in ONNX
    or TorchScript.

    Of several labels the four measures of `harvib.gap` in place of accuracy and matrix.
    A fused run takes the features of all its streams, in any order, and the clips that all of them have. Without
    `split` all clips of the cache count. With `videos` the cache holds frames, and the exported backbone of the
    run makes their features. Raises InputError where classes or fingerprint differ.
    """
    sources = [source_of(given) for given in (features if isinstance(features, Sequence) else [features])]
    if model.is_dir() and RunFolder(model).streams:
        return _fused(model, sources, split, subset, device)
    if len(sources) != 1:
        raise InputError(f"{model}: a model of one stream; give --features once, not {len(sources)} times")
    file = model_file(model)
    network, card = load_any(file)
    if not videos and model.is_dir() and (model / "backbone.safetensors").is_file():
        raise InputError(f"{model}: a run on videos; give --videos and the cache of frames, not --features")
    backbone = _backbone(model if model.is_dir() else model.parent, device) if videos else None
    result = _evaluation(network, card, sources[0], split, subset, device, backbone)
    return _told(result, network.parameter_counts(), card.classes)


def _backbone(run: Path, device: torch.device) -> Backbone:
    from harvib.backbones import load_backbone  # noqa: PLC0415 - timm takes a second to import

    return load_backbone(run).to(device)


def _fused(
    run: Path, sources: Sequence[Source], split: str | None, subset: str, device: torch.device
) -> dict[str, Any]:
    fused, cards = load_fused(run)
    chosen = _of_streams(run, cards, sources)
    match = _matched(chosen, split, subset)
    results = []
    for (name, card), source in zip(cards.items(), chosen, strict=True):
        ours = replace(source, names=match.names)
        results.append(_evaluation(fused.models[name], card, ours, split, subset, device))
    classes = next(iter(cards.values())).classes
    left_out = {name: list(lacking) for name, lacking in zip(cards, match.left_out, strict=True)}
    told = _told(fuse(results, fused.weights), fused.parameter_counts(), classes)
    return told | {"weights": dict(zip(cards, fused.weights, strict=True)), "left_out": left_out}


def _matched(sources: Sequence[Source], split: str | None, subset: str) -> Matched:
    with ExitStack() as stack:
        caches = [stack.enter_context(opened(source))[0] for source in sources]
        return matched(caches, split, "" if split is None else subset)


def _of_streams(run: Path, cards: dict[str, ModelCard], sources: Sequence[Source]) -> list[Source]:
    """For each stream of the run the source that has its features; every source must be that of one."""
    kinds = []
    for source in sources:
        with open_cache(source.path) as cache:
            kinds.append((source, cache.fingerprint, partial(holds, cache)))
    found: list[Source] = []
    for name, card in cards.items():
        fitting = [
            replace(source, stream=card.stream)
            for source, fingerprint, has in kinds
            if fingerprint == card.fingerprint and has(card.stream) and source.stream in ("", card.stream)
        ]
        if not fitting:
            raise InputError(
                f"{run}: no --features for its stream {name}: none of {', '.join(map(str, sources))} has a stream "
                f"{card.stream} with the fingerprint {card.fingerprint[:12]}"
            )
        # Two caches may be of one kind: then they are taken in turn.
        found.append(next((source for source in fitting if source not in found), fitting[0]))
    for source in sources:
        if not any(source.path == taken.path and source.stream in ("", taken.stream) for taken in found):
            raise InputError(f"--features {source}: no stream of {run} reads it")
    return found


def _evaluation(
    network: Classifier | FileClassifier,
    card: ModelCard,
    source: Source,
    split: str | None,
    subset: str,
    device: torch.device,
    backbone: Backbone | None = None,
) -> Evaluation:
    """What a model does on a part of a cache that has its kind of features, or that of its backbone."""
    with opened(source, card.stream) as (cache, stream):
        require_same_kind(source, cache, stream, card)
        dim = cache.dim(stream) if backbone is None else len(backbone.block.kept)
        wanted = features_of(network)
        if dim != wanted:
            raise InputError(f"{source}: {dim} values a row, the model was made for {wanted}")
        chosen = places_of(cache, source.names)
        if split is not None:
            chosen = chosen[cache.split(split).roles[chosen] == ROLES[subset]]
        if not len(chosen):
            where = "" if split is None else f" in the {subset} part of split {split}"
            raise InputError(f"{source}: no clips{where}")
        rows: Cache = cache
        if backbone is not None:
            rows = SeenCache(cache, stream, backbone, dim, np.float32, device)
            rows.compute({stream: chosen})
        require_labels(cache, chosen)
        clips = load_clips(rows, stream, [cache.clips[clip].name for clip in chosen], card.several)
    return evaluate(network.to(device), clips, device)


def require_same_kind(source: Source, cache: Cache, stream: str, card: ModelCard) -> None:
    """Raise InputError where classes, fingerprint or stream of a cache are not those of a model."""
    if cache.classes != card.classes:
        raise InputError(
            f"{source}: classes differ from the model's: {len(cache.classes)} against {len(card.classes)}"
            f"{first_difference(cache.classes, card.classes)}"
        )
    if cache.fingerprint != card.fingerprint:
        raise InputError(
            f"{source}: feature fingerprint {cache.fingerprint[:12]} is not the model's "
            f"{card.fingerprint[:12]}: extract with the settings of the cache it was trained on"
        )
    if stream != card.stream:
        raise InputError(f"{source}: its stream {stream} is not the model's, {card.stream}")


def _told(result: Evaluation, parameters: dict[str, int], classes: Sequence[str]) -> dict[str, Any]:
    told = {
        **result.figures(),
        "measure": result.measure,
        "clips": len(result.labels),
        "parameters": parameters,
        "classes": list(classes),
    }
    return told if result.several else told | {"confusion": result.confusion().tolist()}
