"""Backbones to be timed: the run's own, whole and shrunk to what the compact model reads, and small ones to offer.

Networks of timm have random weights here: how long one takes does not depend on them, and no download is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from harvib.backbones import Backbone, Origin, build, create, load_backbone, of_network
from harvib.bench.subject import Subject
from harvib.errors import InputError
from harvib.export.pipeline.preparation import Preparation, preparation_of, resized_whole
from harvib.onnxfile import session
from harvib.recipes import of_frames, recipe_of
from harvib.rundir import RunFolder


@dataclass(frozen=True, eq=False)
class Timed:
    """A backbone, prepared pictures (N, 3, H, W) uint8 to features, and how frames are prepared for it.

    `small` computes only the features that the compact model reads; None where there is no such model or it needs
    them all; `why` tells where its last block is no smaller.
    """

    name: str
    preparation: Preparation
    whole: nn.Module
    small: nn.Module | None
    costs: Mapping[str, Mapping[str, int]]
    why: str = ""

    @property
    def modules(self) -> dict[str, nn.Module]:
        """`whole`, and `small` where there is one."""
        return {"whole": self.whole} | ({} if self.small is None else {"small": self.small})


def of_run(folder: RunFolder, subjects: Sequence[Subject], asked: str) -> Timed:
    """The backbone of a run, or the one of timm that is `asked` for. Raises InputError where there is none."""
    subject = subjects[-1]
    if len(subject.parts) > 1:
        names = " or ".join(str(stream.path) for stream in folder.streams.values())
        raise InputError(f"{folder.path}: --with-backbone: a fused run has several backbones: name {names}")
    ((model, card),) = subject.parts.values()
    recipe, kept = recipe_of(folder.path, card), _kept(model, subject.name)
    if folder.backbone.is_file() and not asked:
        return _trained(folder, recipe)
    if asked:
        return of_timm(asked, kept)
    if recipe.get("kind") != "video" or "flow" in recipe or of_frames(recipe):
        told = "are optical flow" if "flow" in recipe else "are not those of a timm backbone that its cache names"
        raise InputError(
            f"{folder.path}: --with-backbone: its features {told}; say --backbone NAME to time one all the same"
        )
    transform = recipe.get("transform")
    preparation = preparation_of(transform if isinstance(transform, dict) else {}, str(folder.path))
    return of_timm(str(recipe["model"]), kept, preparation)


def of_timm(name: str, kept: Tensor | None = None, preparation: Preparation | None = None) -> Timed:
    """A timm network, with random weights; `kept`: also without the features that are not among these.

    Raises InputError where timm has none of this name.
    """
    from timm.data import resolve_model_data_config  # noqa: PLC0415 - timm takes a second to import

    network = create(name).eval()
    config = resolve_model_data_config(network)
    if preparation is None:
        size = {"input_size": config["input_size"][1:]}
        told = {key: config[key] for key in ("interpolation", "crop_pct", "crop_mode")}
        preparation = preparation_of(told | size, f"--backbones {name}")
    origin = Origin(name, tuple(map(float, config["mean"])), tuple(map(float, config["std"])))
    full, why = of_network(network, origin, *preparation.size)
    return _timed(full, preparation, kept, why)


def _timed(full: Backbone, preparation: Preparation, kept: Tensor | None, why: str = "") -> Timed:
    costs, small = {"whole": full.costs(*preparation.size)}, None
    if kept is not None and int(kept.max()) < len(full.block.kept):
        small = full.with_block(full.block.shrunk(kept.sort().values)).eval()
        costs["small"] = small.costs(*preparation.size)
    return Timed(full.origin.model, preparation, full, small, costs, why)


def _trained(folder: RunFolder, recipe: Mapping[str, Any]) -> Timed:
    """The backbone of a run on videos, which has shrunk already; as a whole it is timm's."""
    small = load_backbone(folder.path)
    preparation = resized_whole(recipe, str(folder.path))
    full = build(small.origin.model)
    costs = {"whole": full.costs(*preparation.size), "small": small.costs(*preparation.size)}
    return Timed(small.origin.model, preparation, full, small, costs)


def _kept(model: Any, state: str) -> Tensor | None:
    """Which features a compact model reads; None where it is not compact, or needs all of them."""
    spec = model.spec
    if state != "compact" or spec.normalize or spec.inputs == spec.features:
        return None
    kept: Tensor = model.selection
    return kept


def in_onnxruntime(module: nn.Module, preparation: Preparation, name: str) -> Callable[[Any], object]:
    """A network by onnxruntime, pictures (N, 3, H, W) uint8 as numpy to features; torch's threads.

    Raises InputError where torch cannot write it as ONNX.
    """
    from onnx import helper  # noqa: PLC0415 - an extra

    from harvib.export.graph import IR, OPSET  # noqa: PLC0415 - an extra
    from harvib.export.pipeline.network import network_graph  # noqa: PLC0415 - an extra

    graph = network_graph(module, *preparation.size, name)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    opened = session(proto.SerializeToString())
    return lambda images: opened.run(None, {"images": images})[0]
