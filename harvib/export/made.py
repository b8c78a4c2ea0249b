"""What every format of `harvib export` gives, and how weights may be stored in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harvib.classifier import Classifier
from harvib.weights import ModelCard

QUANTIZE = ("none", "int8")
"""As floats; in 8 bits each (harvib/quantize/numbers.py), while all arithmetic stays that of floats."""


@dataclass(frozen=True)
class Exported:
    """The files that hold a model, each by its path, and one line that tells of them."""

    files: Mapping[Path, bytes]
    told: str


Exporter = Callable[[Classifier, ModelCard, Path, str], Exported]
"""From a model, its card, the file to write and one of QUANTIZE. Nothing is written yet; InputError where the
format cannot hold the model or have such a name."""


def metadata_of(small: Classifier, card: ModelCard, form: str, version: int) -> dict[str, str]:
    """What a file tells beside the model, all as texts: `ModelCard.told` reads it; `parameters` are the counts."""
    return {
        "format": form,
        "version": str(version),
        "classes": json.dumps(card.classes),
        "fingerprint": card.fingerprint,
        "stream": card.stream,
        **card.extra,
        "parameters": json.dumps(small.parameter_counts()),
    }
