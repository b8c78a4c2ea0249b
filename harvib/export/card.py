"""What a file of `harvib export --format torch` tells beside its weights: JSON under `model` in its metadata."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from harfeat.cache import DEFAULT_STREAM
from harvib.errors import InputError

FORMAT = "harvib-torch"
VERSION = 1


@dataclass(frozen=True)
class TorchCard:
    """`features` are the values a step in a clip, `inputs` the indices of those that are read, in order.

    `shape` are the units by layer and direction; `reads`, by layer, indices of what it reads of the states below,
    None for all; `projected`, where there is a projection, are the values of it that the first layer reads, while
    the head reads all of them before the states; `fingerprint` is that of the features, `stream` the one of the
    cache.
    """

    cell: str
    features: int
    inputs: tuple[int, ...]
    shape: tuple[tuple[int, ...], ...]
    reads: tuple[tuple[int, ...] | None, ...]
    readout: str
    classes: tuple[str, ...]
    fingerprint: str
    stream: str = DEFAULT_STREAM
    projected: tuple[int, ...] | None = None

    def metadata(self) -> dict[str, str]:
        """As metadata of a safetensors file."""
        return {"format": FORMAT, "version": str(VERSION), "model": json.dumps(dataclasses.asdict(self))}

    @property
    def nonlinearity(self) -> str | None:
        """That of an nn.RNN; None for other cells."""
        return {"rnn": "tanh", "rnn-relu": "relu"}.get(self.cell)


def read_card(path: Path) -> TorchCard | None:
    """The card of a file; None where it is no such file. InputError where it is one and is damaged or too new."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError):
        return None
    if metadata.get("format") != FORMAT:
        return None
    if metadata.get("version") != str(VERSION):
        version = metadata.get("version")
        raise InputError(f"{path}: version {version} of its format; this program reads {VERSION}: update it")
    try:
        told = TorchCard(**json.loads(metadata["model"]))
        card = dataclasses.replace(told, inputs=tuple(told.inputs), classes=tuple(told.classes))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: its metadata cannot be understood: {error!r}; export it again") from error
    indices = all(type(index) is int and 0 <= index < card.features for index in card.inputs)
    if not indices or len(set(card.inputs)) != len(card.inputs):
        raise InputError(f"{path}: its inputs are not indices of its {card.features} features; export it again")
    return card
