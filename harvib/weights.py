"""Model files: safetensors whose metadata holds the spec and what a stranger needs to use the model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from harvib.errors import InputError
from harvib.models import ModelSpec, SequenceClassifier

VERSION = 1


@dataclass(frozen=True)
class ModelCard:
    """Beside the weights: the classes in order, and the fingerprint of the features the model was trained on."""

    classes: tuple[str, ...]
    fingerprint: str


def save_model(path: Path, model: SequenceClassifier, card: ModelCard) -> None:
    """Write a model file atomically."""
    metadata = {
        "format": "harvib",
        "version": str(VERSION),
        "spec": model.spec.to_json(),
        "classes": json.dumps(card.classes),
        "fingerprint": card.fingerprint,
    }
    write_tensors(path, model.state_dict(), metadata)


def load_model(path: Path) -> tuple[SequenceClassifier, ModelCard]:
    """Read a model file; InputError, one line, where it is missing, damaged, foreign or too new."""
    if not path.is_file():
        raise InputError(f"{path}: no such model file; is the run finished? `harvib train` writes it")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file: {error}") from error
    if metadata.get("format") != "harvib":
        raise InputError(f"{path}: not a harvib model (no format in its metadata)")
    if int(metadata["version"]) > VERSION:
        raise InputError(f"{path}: model version {metadata['version']}; this program reads up to {VERSION}")
    try:
        model = SequenceClassifier(ModelSpec.from_json(metadata["spec"]))
        model.load_state_dict(tensors)
        card = ModelCard(tuple(json.loads(metadata["classes"])), metadata["fingerprint"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: spec and weights do not fit: {error}") from error
    return model.eval(), card


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file so that it is either whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, temporary, metadata)
    replace_synced(temporary, path)


def replace_synced(temporary: Path, path: Path) -> None:
    """Sync a file to disk and give it its final name."""
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(path)
