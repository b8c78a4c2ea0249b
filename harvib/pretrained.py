"""The weights that a backbone starts from: timm's download, or a safetensors file with timm's names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from harvib.backbones import Backbone, build, create
from harvib.errors import InputError


def pretrained(model: str, weights: str) -> tuple[Backbone, str]:
    """A backbone with its weights, and their SHA-256 (hex), which does not depend on where they came from.

    `weights` is `auto` (what timm downloads), or a safetensors file; a classifier in it is left out. Raises
    InputError.
    """
    build(model)  # a family that is not supported is told before anything is fetched
    network = _downloaded(model) if weights == "auto" else _from_file(model, Path(weights))
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy())
    return build(model, network), digest.hexdigest()


def _downloaded(model: str) -> Any:
    try:
        return create(model, pretrained=True)
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"--backbone-weights auto: timm could not fetch the weights of {model}; check the network, or give a "
            f"file ({reason})"
        ) from error


def _from_file(model: str, path: Path) -> Any:
    network = create(model)
    if not path.is_file():
        raise InputError(f"--backbone-weights {path}: no such file (or say auto)")
    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"--backbone-weights {path}: not a safetensors file; `harfeat weights` makes one"
        ) from error
    head = network.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{name}." for name in ((head,) if isinstance(head, str) else head))
    tensors = {name: value for name, value in found.items() if not (heads and name.startswith(heads))}
    if difference := _difference(network.state_dict(), tensors):
        raise InputError(
            f"--backbone-weights {path}: does not fit {model}: {difference}; `harfeat weights` writes timm's names"
        )
    network.load_state_dict(tensors)
    return network


def _difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str:
    """What is the first to differ, and how; empty where nothing does."""
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in theirs:
            return f"{name} is missing"
        if name not in ours:
            return f"{name} is not part of it"
        if ours[name].shape != theirs[name].shape:
            return f"{name} is {tuple(theirs[name].shape)}, expected {tuple(ours[name].shape)}"
        if not torch.isfinite(theirs[name]).all():
            return f"{name} holds NaN or infinity"
    return ""
