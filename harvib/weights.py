"""Model files: safetensors whose metadata holds the spec and what a stranger needs to use the model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from harfeat.cache import DEFAULT_STREAM, Cache, fingerprint_of
from harvib.classifier import Classifier, Spec, to_json
from harvib.errors import InputError
from harvib.families import spec_from_json
from harvib.front import Ahead, fresh
from harvib.joined import widths_of

VERSION = 1


@dataclass(frozen=True)
class ModelCard:
    """Beside the weights: the classes in order, and which features the model was trained on.

    Two streams of one cache have one fingerprint; files from before streams had names are of `rgb`. `widths` are
    the values a row of each joined stream (`rgb+audio`), none of one that is not joined. `several`: clips have
    several labels, and logits are the log-odds of each class by itself. `recipe` is what the fingerprint is the
    hash of: all that makes such features of a video; empty in files from before it was kept.
    """

    classes: tuple[str, ...]
    fingerprint: str
    stream: str = DEFAULT_STREAM
    widths: tuple[int, ...] = ()
    several: bool = False
    recipe: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def extra(self) -> dict[str, str]:
        """What is not so of the usual model, as metadata of a file."""
        found = {"widths": json.dumps(self.widths)} if self.widths else {}
        found |= {"several": "true"} if self.several else {}
        return found | ({"recipe": json.dumps(self.recipe, sort_keys=True)} if self.recipe else {})

    @classmethod
    def told(cls, metadata: Mapping[str, str]) -> ModelCard:
        """From the metadata of a file; KeyError, TypeError or ValueError where they are damaged."""
        classes, widths = (tuple(json.loads(text)) for text in (metadata["classes"], metadata.get("widths", "[]")))
        if not all(type(width) is int and width > 0 for width in widths):
            raise ValueError(f"widths {widths}")
        stream, several = metadata.get("stream", DEFAULT_STREAM), metadata.get("several") == "true"
        recipe = json.loads(metadata.get("recipe", "{}"))
        if not isinstance(recipe, dict) or (recipe and fingerprint_of(recipe) != metadata["fingerprint"]):
            raise ValueError("the recipe of its features is not the one of its fingerprint")
        return cls(classes, metadata["fingerprint"], stream, widths, several, recipe)


def card_of(cache: Cache, stream: str) -> ModelCard:
    """Of models trained on this stream of a cache."""
    widths = widths_of(cache, stream)
    return ModelCard(cache.classes, cache.fingerprint, stream, widths, cache.has_several, cache.recipe)


def save_model(path: Path, model: Classifier, card: ModelCard) -> None:
    """Write a model file atomically."""
    metadata = {
        "format": "harvib",
        "version": str(VERSION),
        "spec": to_json(model.spec),
        "classes": json.dumps(card.classes),
        "fingerprint": card.fingerprint,
        "stream": card.stream,
        **card.extra,
    }
    tensors = {name: value for name, value in model.state_dict().items() if not name.startswith("front.")}
    write_tensors(path, tensors, metadata)


def save_whole(path: Path, model: Classifier, card: ModelCard) -> None:
    """Write a model file, and before it, beside it, the model's front where it has one."""
    if model.front is not None:
        write_tensors(front_file(path), model.front.state_dict(), {"format": "harvib-front"})
    save_model(path, model, card)


def load_whole(path: Path, ahead: Ahead | None) -> Classifier:
    """A model with the front that was saved beside it. Raises InputError where either is missing or damaged."""
    model, front = load_model(path)[0], fresh(ahead)
    if front is not None:
        try:
            front.load_state_dict(load_file(front_file(path)))
        except (SafetensorError, OSError, RuntimeError) as error:
            raise InputError(f"{front_file(path)}: missing or damaged; delete {path} too") from error
    model.front = front
    return model


def front_file(model_file: Path) -> Path:
    """Where the front of a model lies."""
    return model_file.with_name(f"{model_file.stem}-block.safetensors")


def load_model(path: Path) -> tuple[Classifier, ModelCard]:
    """Read a model file; InputError, one line, where it is missing, damaged, foreign or too new."""
    if not path.is_file():
        raise InputError(f"{path}: no such model file; is the run finished? `harvib train` writes it")
    metadata, tensors = read_tensors(path)
    if metadata.get("format") != "harvib":
        raise InputError(f"{path}: not a harvib model (no format in its metadata)")
    version = metadata.get("version", "")
    if not version.isascii() or not version.isdigit():
        raise InputError(f"{path}: model version {version!r} is not a number: file damaged")
    if int(version) > VERSION:
        raise InputError(f"{path}: model version {version}; this program reads up to {VERSION}: update it")
    try:
        card = ModelCard.told(metadata)
        spec = spec_from_json(metadata["spec"])
    except KeyError as error:
        raise InputError(f"{path}: {error} is missing from its metadata: file damaged") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: metadata cannot be understood: {error}") from error
    if not all(isinstance(name, str) for name in card.classes):
        raise InputError(f"{path}: its class names are not all texts: file damaged")
    if len(card.classes) != spec.classes:
        raise InputError(f"{path}: {len(card.classes)} class names for {spec.classes} classes: file damaged")
    if card.widths and sum(card.widths) != spec.features:
        raise InputError(
            f"{path}: joined streams of {card.widths} values for {spec.features} features: file damaged"
        )
    _check(path, spec, tensors)
    model = spec.build()
    model.load_state_dict(tensors)
    return model.eval(), card


def _check(path: Path, spec: Spec, tensors: Mapping[str, Tensor]) -> None:
    """Compare tensors with what the spec asks for, before memory is taken for it."""
    try:
        with torch.device("meta"):
            expected = spec.build().state_dict()
    except RuntimeError as error:
        raise InputError(f"{path}: no model can be so large: {spec}") from error
    if differing := sorted(expected.keys() ^ tensors.keys()):
        raise InputError(f"{path}: spec and weights do not fit: {differing[0]} is only in one of them")
    for name, wanted in expected.items():
        found = tensors[name]
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            raise InputError(
                f"{path}: spec and weights do not fit: {name} is {found.dtype} {tuple(found.shape)}, "
                f"expected {wanted.dtype} {tuple(wanted.shape)}"
            )
        if not torch.isfinite(found).all():
            raise InputError(f"{path}: {name} holds NaN or infinity")
    for name, bound in spec.bounds().items():
        chosen = tensors.get(name)
        if chosen is not None and not ((chosen >= 0) & (chosen < bound)).all():
            raise InputError(f"{path}: {name} points outside of the {bound} values that it chooses from")
        if chosen is not None and name.endswith("places") and not (chosen[1:] > chosen[:-1]).all():
            raise InputError(f"{path}: {name} is not ascending: two entries at one place, or out of order")


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file; InputError where it cannot be read."""
    try:
        path.open("rb").close()  # safetensors says of a file that may not be read that there is none
        with safe_open(path, "pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: not a readable safetensors file: {reason}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file so that it is either whole or not there; InputError where it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        # Not by safetensors' save_file, whose files only their owner may read.
        temporary.write_bytes(tensor_bytes(tensors, metadata))
        replace_synced(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file as bytes; equal contents give equal bytes."""
    data = save(_contiguous(tensors), metadata)
    end = 8 + int.from_bytes(data[:8], "little")
    return data[:8] + _sorted_header(data[8:end]) + data[end:]


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that it is either whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_together({path: data})


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write files that belong together: all are written whole before the first gets its name."""
    parts = {path: path.with_name(f".{path.name}.part") for path in files}
    try:
        for path, data in files.items():
            parts[path].write_bytes(data)
        for path, part in parts.items():
            replace_synced(part, path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def _sorted_header(header: bytes) -> bytes:
    """Its keys in order, as long as before: safetensors writes its metadata in an order drawn by chance."""
    text = json.dumps(json.loads(header), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    # The format lets a header end in spaces.
    return text.encode().ljust(len(header))


def replace_synced(temporary: Path, path: Path) -> None:
    """Sync a file to disk and give it its final name."""
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(path)
