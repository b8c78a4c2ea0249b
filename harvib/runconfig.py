"""What a run is before it begins: the plain model given to it, the one it asks for, and its config.json."""

from __future__ import annotations

import dataclasses
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harfeat.cache import Cache
from harvib.cells import CELLS, rows_a_unit, shape_of
from harvib.classifier import Classifier, Spec
from harvib.data import Parts, view_streams
from harvib.division import Division
from harvib.errors import InputError
from harvib.factorised import Factor, outline
from harvib.factorised.asked import hidden_factor, input_factor
from harvib.models import ModelSpec
from harvib.pooling.made import pooling_spec
from harvib.pooling.model import PoolingSpec
from harvib.settings import TrainSettings
from harvib.weights import ModelCard


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """A trained plain model from elsewhere to start from; `origin` tells it from others in a run's config."""

    model: Classifier
    origin: str


def plain_spec(settings: TrainSettings, features: int, card: ModelCard) -> Spec:
    """The plain model that these settings ask for on so many features a step. Raises InputError."""
    if card.several and settings.label_smoothing:
        raise InputError(
            f"--label-smoothing {settings.label_smoothing:g}: clips with several labels have none, for it "
            "would ask for a share of every class; leave it out"
        )
    return stack_spec(settings, features, card) if settings.pooling is None else _pooled(settings, features, card)


def _pooled(settings: TrainSettings, features: int, card: ModelCard) -> PoolingSpec:
    asked, inputs = settings.pooling, min(settings.select_inputs or features, features)
    assert asked is not None
    widths = card.widths or (inputs,)
    if sum(widths) != inputs:
        raise InputError(
            f"--select-inputs {settings.select_inputs}: {len(widths)} joined streams are pooled each by itself; "
            "leave it out"
        )
    return pooling_spec(
        asked.kind,
        widths,
        asked.clusters_of(len(widths)),
        asked.hidden,
        len(card.classes),
        layers=asked.layers,
        factors=asked.factors,
        experts=asked.experts,
        gating=asked.gating,
        bags=asked.bags if asked.kind == "dbof" else 0,
        bag_frames=asked.bag_frames if asked.kind == "dbof" and asked.bags else 0,
        dropout=settings.dropout,
        normalize=settings.normalize,
        features=features,
    )


def stack_spec(settings: TrainSettings, features: int, card: ModelCard) -> ModelSpec:
    """`plain_spec` of a recurrent model or one of its like."""
    inputs = min(settings.select_inputs or features, features)
    factor, hidden = _structured(settings, inputs)
    return ModelSpec(
        cell=settings.model,
        state="plain",
        features=features,
        inputs=inputs,
        shape=(((settings.project,),) if settings.project else ())
        + shape_of(settings.hidden, settings.layers, settings.bidirectional),
        classes=len(card.classes),
        readout=_readout(settings),
        dropout=settings.dropout,
        projected=settings.project > 0,
        kernel=settings.kernel,
        factor=factor,
        hidden_factor=hidden,
        normalize=settings.normalize,
    )


def _readout(settings: TrainSettings) -> str:
    return settings.readout if settings.readout != "auto" else CELLS[settings.model].READOUT or "mean"


def _structured(settings: TrainSettings, inputs: int) -> tuple[Factor | None, Factor | None]:
    """The matrix that reads the inputs and W_hh, where they are structured."""
    asked = settings.structure
    if asked is None:
        return None, None
    rows, units = rows_a_unit(CELLS[settings.model]), settings.hidden
    if settings.project:
        rows, units = 1, settings.project
    factor = input_factor(asked, rows, units, inputs)
    if settings.standardize and not outline(factor).drops_inputs:
        raise InputError(f"--factorize {factor.kind}: --standardize does not fold into it; leave it out")
    return factor, hidden_factor(asked, rows, units, inputs) if settings.factorize_hidden else None


def require_same(origin: str, theirs: Spec, ours: Spec) -> None:
    """Raise InputError, which names the options that differ, where a plain model is not the one asked for."""
    given, asked = theirs.options(), ours.options()
    differing = [option for option in given if given[option] != asked.get(option)]
    if differing:
        is_, wanted = (
            ", ".join(f"{option} {told.get(option, 'none')}" for option in differing) for told in (given, asked)
        )
        raise InputError(f"{origin}: its plain model has {is_}; this run asks for {wanted}")


def config_of(
    cache: Cache,
    stream: str,
    split: str,
    settings: TrainSettings,
    parts: Parts | Division,
    init: Path | Given | None,
    teacher: Path | None = None,
) -> dict[str, Any]:
    """Everything needed to repeat a run, and to tell it from another."""
    return {
        "settings": dataclasses.asdict(settings),
        "init": init.origin if isinstance(init, Given) else str(init.resolve()) if init else None,
        "teacher": str(teacher.resolve()) if teacher else None,
        **features_config(cache, stream, split),
        "split_hash": parts.split_hash,
        "parts_hash": parts.parts_hash,
        "views": len(view_streams(cache, stream)) if settings.views else 0,
        "versions": versions(),
    }


def features_config(cache: Cache, stream: str, split: str) -> dict[str, Any]:
    """What of a run's config is the same for all runs on a stream and split of a cache."""
    return {
        "features": cache.path.name,
        "fingerprint": cache.fingerprint,
        "stream": stream,
        "split": split,
        "classes": list(cache.classes),
        "dataset": _dataset(cache),
        "recipe": cache.recipe,
    }


def versions() -> dict[str, str]:
    """What a run was made with."""
    return {"harvib": version("harfeat"), "torch": torch.__version__, "numpy": np.__version__}


def _dataset(cache: Cache) -> str | None:
    """The data set that the cache says it was extracted from; None where it does not tell."""
    told = cache.provenance.get("dataset")
    return told.get("name") if isinstance(told, dict) else None
