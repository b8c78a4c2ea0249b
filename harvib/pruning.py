"""A classifier from elsewhere, pruned (VIB, group lasso), compacted and fine-tuned into a run folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from harvib.errors import InputError
from harvib.foreign import ForeignModel
from harvib.manner import Manner
from harvib.methods import Given, train
from harvib.settings import TrainSettings
from harvib.settings_rules import POOLINGS_OWN
from harvib.source import Source, opened, source_of

IMPLIED = (
    "model", "hidden", "layers", "bidirectional", "kernel", "project", "readout", "standardize", "select_inputs",
    "plain_epochs", "lr", "factorize", "rank", "ranks", "input_modes", "unit_modes", "blocks", "factors",
    "factorize_hidden", "normalize", *POOLINGS_OWN,
)  # fmt: skip
"""Settings that the model decides, or that only training a plain model needs."""


def prune(
    found: ForeignModel,
    features: Path | Source,
    split: str,
    settings: TrainSettings,
    run_dir: Path,
    device: torch.device | None = None,
    allow_missing: bool = False,
    manner: Manner | None = None,
) -> dict[str, Any]:
    """Run all stages after the plain one on a model from elsewhere; the report, as of `harvib.methods.train`.

    Of `settings` those in IMPLIED are taken from the model. Raises InputError where the model does not fit the
    cache, and CacheError.
    """
    if settings.method == "plain":
        raise InputError("--method plain prunes nothing: choose another")
    spec = found.classifier.spec
    expected = "" if found.card is None else found.card.stream
    with opened(source_of(features), expected) as (cache, stream):
        if (dim := cache.dim(stream)) != spec.features:
            raise InputError(f"{found.path} reads {spec.features} values a step; {features} has {dim}")
        if len(cache.classes) != spec.classes:
            raise InputError(f"{found.path} has {spec.classes} classes; {features} has {len(cache.classes)}")
        if found.card is not None and found.card.classes != cache.classes:
            raise InputError(f"{found.path}: its classes are not those of {features}, or not in its order")
        if found.card is not None and found.card.fingerprint != cache.fingerprint:
            raise InputError(
                f"{found.path} was made for features {found.card.fingerprint[:12]}, {features} has "
                f"{cache.fingerprint[:12]}: give the cache it was trained on, or one extracted alike"
            )
        if found.card is not None and found.card.stream != stream:
            raise InputError(f"{found.path} was made for the stream {found.card.stream}, {features} is {stream}")
        source = dataclasses.replace(source_of(features), stream=stream)
    settings = dataclasses.replace(
        settings,
        model=spec.cell,
        hidden=found.hidden,
        layers=len(spec.shape),
        bidirectional=found.bidirectional,
        kernel=spec.kernel,
        project=0,
        readout=spec.readout,
        standardize=False,
        normalize=False,
        select_inputs=spec.inputs if spec.inputs < spec.features else 0,
        factorize="none",
    )
    given = Given(found.classifier, f"{found.path.name} sha256:{found.sha256}")
    return train(source, split, settings, run_dir, given, device, allow_missing, manner)
