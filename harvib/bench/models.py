"""Models in torch against each other, whatever runs they are of: what `harvib compare` measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from harvib.bench.settings import BenchSettings
from harvib.bench.timing import Runner, interleaved, per_clip, random_clips, threads
from harvib.classifier import Classifier
from harvib.devices import machine

SCOPE = (
    "This is the classifier alone, on features already in memory: decoding the video and the CNN backbone, "
    "which every clip needs first, are not in it."
)


def measure(models: Mapping[str, Classifier], widest: str, settings: BenchSettings) -> dict[str, Any]:
    """Measure models against each other: by name the times per clip, and parameters; then how.

    The clips have the features that the model `widest` takes; one that takes fewer gets the first of them.
    """
    readers = {name: _reader(model) for name, model in models.items()}
    with threads(settings.threads):
        features = models[widest].spec.features
        seconds = interleaved(readers, random_clips(features, settings), settings.repeats)
    result: dict[str, Any] = {
        name: {**per_clip(taken, settings.batch), "parameters": models[name].parameter_counts()["total"]}
        for name, taken in seconds.items()
    }
    result |= {"settings": asdict(settings), "features": features, "scope": SCOPE}
    return result | {"torch": torch.__version__, "machine": machine()}


def _reader(model: Classifier) -> Runner:
    """The model, on the first of the features where it reads fewer, as behind a backbone that shrank with it."""
    return lambda features, lengths: model(features[..., : model.spec.features], lengths)
