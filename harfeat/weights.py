"""Where a backbone's weights come from: timm's download, a seeded random draw, or a file that is checked.

A file may name its tensors as another library does. Where every tensor stands in the same order with the same
shape and the same last part of its name (weight, bias, running_mean, ...), it is the same network, and its
tensors are taken in order; this is said in the provenance.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from harfeat.errors import InputError
from harfeat.hashing import sha256_of_file, sha256_of_tensors

RANDOM_SEED = 0
_UNREADABLE = (
    *(SafetensorError, pickle.UnpicklingError, EOFError, OSError, RuntimeError),
    *(ValueError, TypeError, LookupError, AttributeError, struct.error),
)
"""What the readers of weight files raise on bytes that make no sense."""
_WRAPPERS = ("state_dict", "model", "model_state_dict")


@dataclass(frozen=True)
class WeightSource:
    """What was loaded. `tensors_sha256` is the identity: it does not depend on the container of the weights."""

    kind: str
    tensors_sha256: str
    file: str | None = None
    file_sha256: str | None = None
    matched_by: str | None = None


def load_backbone(model: str, weights: str) -> tuple[nn.Module, WeightSource]:
    """A timm model at its pooled features, (B, 3, H, W) to (B, D), in evaluation mode.

    `weights` is `auto` (what timm downloads), `none` (a seeded random draw, for tests), or a file
    (.safetensors, or a torch state dict). Raises InputError.
    """
    _require_known(model)
    if weights == "none":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            network = timm.create_model(model, pretrained=False, num_classes=0)
        return network.eval(), WeightSource("none", identity(network))
    if weights == "auto":
        network = _download(model, num_classes=0)
        return network.eval(), WeightSource("auto", identity(network))
    path = Path(weights)
    network, matched_by = _from_file(model, path)
    network.reset_classifier(0)
    return network.eval(), WeightSource("file", identity(network), path.name, sha256_of_file(path), matched_by)


def export_weights(model: str, weights: str, out: Path) -> WeightSource:
    """Write the weights that `load_backbone` finds as safetensors with timm's names. Raises InputError."""
    if out.exists():
        raise InputError(f"--out {out}: exists already; choose another name")
    network, source = load_backbone(model, weights)
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    temporary = out.with_name(f".{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, {"model": model, "tensors_sha256": source.tensors_sha256})
        temporary.replace(out)
    except (OSError, SafetensorError) as error:
        raise InputError(f"--out {out}: cannot be written ({error})") from error
    return source


def load_classifier(model: str, weights: str) -> nn.Module | None:
    """The same model with the classifier that its weights hold, in evaluation mode; None where they hold none.

    (B, 3, H, W) to (B, classes) logits. `weights` as for `load_backbone`. Raises InputError.
    """
    _require_known(model)
    if weights == "none":
        return None
    network = _download(model) if weights == "auto" else _from_file(model, Path(weights))[0]
    return network.eval() if network.num_classes else None


def _require_known(model: str) -> None:
    if not _known(model):
        close = ", ".join(timm.list_models(f"*{model[:8]}*")[:5]) or "see timm.list_models()"
        raise InputError(f"--model {model}: timm knows no such model; perhaps {close}")


def _known(model: str) -> bool:
    """Whether timm knows the architecture, and the pretrained tag after a dot where there is one."""
    _, _, tag = model.partition(".")
    return timm.is_model(model) and (not tag or model in timm.list_models(f"{model}*", pretrained=True))


def identity(network: nn.Module) -> str:
    """Hash of every tensor that enters a feature (the counters of batch normalisation do not)."""
    tensors = network.state_dict()
    return sha256_of_tensors({name: value for name, value in tensors.items() if "num_batches" not in name})


def _download(model: str, **options: Any) -> Any:
    try:
        return timm.create_model(model, pretrained=True, **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"--weights auto: timm could not fetch the weights of {model}; check the network, or give a file with "
            f"--weights FILE ({_first_line(error)})"
        ) from error


def _from_file(model: str, path: Path) -> tuple[Any, str]:
    """The model with the file's classifier, where it has one, and how its tensors were matched."""
    tensors, ordered_file = _read(path)
    head = _classifier_size(model, tensors)
    network: Any = timm.create_model(model, pretrained=False, num_classes=head)
    ours = network.state_dict()
    if tensors.keys() == ours.keys():
        ordered, matched_by = dict(tensors), "name"
    elif ordered_file and _same_order(ours, tensors):
        ordered, matched_by = dict(zip(ours, tensors.values(), strict=True)), "order"
    else:
        raise InputError(f"--weights {path}: does not fit {model}: {_first_difference(ours, tensors)}")
    try:
        network.load_state_dict(ordered)
    except RuntimeError as error:
        raise InputError(f"--weights {path}: does not fit {model}: {_first_difference(ours, ordered)}") from error
    bad = next((name for name, value in ordered.items() if not torch.isfinite(value).all()), None)
    if bad is not None:
        raise InputError(f"--weights {path}: tensor {bad} holds NaN or infinity")
    return network, matched_by


def _read(path: Path) -> tuple[Mapping[str, Tensor], bool]:
    """The tensors, and whether they stand in the order of the network: safetensors sorts them."""
    if not path.is_file():
        raise InputError(f"--weights {path}: no such file (or say auto, or none)")
    ordered = path.suffix != ".safetensors"
    try:
        # weights_only: the restricted unpickler, which builds tensors and nothing else.
        found: Any = torch.load(path, map_location="cpu", weights_only=True) if ordered else load_file(path)
    except _UNREADABLE as error:
        raise InputError(
            f"--weights {path}: not a file of plain tensors (safetensors or torch state dict)"
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()
    ):
        raise InputError(f"--weights {path}: holds something else than a state dict of tensors")
    return {name.removeprefix("module."): value for name, value in found.items()}, ordered


def _classifier_size(model: str, tensors: Mapping[str, Tensor]) -> int:
    """Classes of the file's classifier, by its name or as the last bias; 0 where it ends at the features."""
    with torch.device("meta"):
        network: Any = timm.create_model(model, pretrained=False, num_classes=0)
    if len(tensors) <= len(network.state_dict()):
        return 0
    name = network.pretrained_cfg.get("classifier")
    bias = tensors.get(f"{name}.bias", list(tensors.values())[-1])
    return int(bias.shape[0]) if bias.ndim == 1 else 0


def _same_order(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return len(ours) == len(theirs) and all(
        a.shape == b.shape and name.rsplit(".", 1)[-1] == other.rsplit(".", 1)[-1]
        for (name, a), (other, b) in zip(ours.items(), theirs.items(), strict=True)
    )


def _first_difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str:
    for name, value in ours.items():
        if name not in theirs:
            return f"{len(theirs)} tensors for {len(ours)}, and {name} is missing"
        if theirs[name].shape != value.shape:
            return f"{name} is {tuple(theirs[name].shape)}, expected {tuple(value.shape)}"
    extra = next(name for name in theirs if name not in ours)
    return f"{extra} is not part of the model"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
