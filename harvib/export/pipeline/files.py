"""The ONNX files of a pipeline, checked in onnxruntime against torch and Pillow before any of them is written.

    OUT.onnx            frames (B, T, H, W, 3) uint8 and lengths (B,) to logits (B, C): all in one
    OUT-backbone.onnx   frames (N, H, W, 3) uint8 to features (N, K), for a device that takes them as they come
    OUT-model.onnx      features (B, T, K) and lengths (B,) to logits (B, C)

Frames are RGB as they are decoded, of any size. The metadata of each tells classes, fingerprint and recipe; which
frames of a video to feed stands under `sampling` in the recipe.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from harvib.errors import InputError
from harvib.export.graph import IR, OPSET, Graph
from harvib.export.made import Exported, metadata_of
from harvib.export.onnx import SCHEMES, to_onnx
from harvib.export.pipeline.check import Files, deviations
from harvib.export.pipeline.front import FrameBackbone, Pipeline, pipeline_of
from harvib.export.pipeline.network import network_graph
from harvib.export.pipeline.resize import emit_pictures, require_graph

VERSION = 1
FORMAT = "harvib-pipeline"
BACKBONE_FORMAT = "harvib-pipeline-backbone"
_FRAMES, _CLIPS = ["N", "H", "W", 3], ["B", "T", "H", "W", 3]


def exported_pipeline(run: Path, out: Path, quantize: str, weights: str | None) -> Exported:
    """The files of a run's pipeline, and the lines that tell what they are.

    `weights` of the backbone as `harfeat extract` takes them; None: what timm downloads. With `quantize` "int8"
    the model's weights have 8 bits, the backbone's stay floats. Raises InputError where there is no pipeline, and
    RuntimeError, a defect, where it does not compute what torch does.
    """
    paths = [out, *(out.with_name(f"{out.stem}-{part}{out.suffix}") for part in ("backbone", "model"))]
    if taken := next((path for path in paths if path.exists() and not path.is_file()), None):
        raise InputError(f"--out {out}: {taken} is a {'folder' if taken.is_dir() else 'device or the like'}")
    pipeline = pipeline_of(run, weights)
    require_graph(pipeline.backbone.preparation, str(run))
    files = pipeline_files(pipeline, quantize)
    found = deviations(pipeline, files, rounded=quantize != "none")
    backbone, kept, classes = pipeline.backbone, len(pipeline.backbone.kept), pipeline.model.spec.classes
    lines = [
        f"{out}: ONNX, opset {OPSET}, frames (B, T, H, W, 3) uint8 RGB of any size and lengths (B,) to logits "
        f"(B, {classes})",
        f"{paths[1]} and {paths[2].name}: the same in two, frame by frame: frames (N, H, W, 3) to features "
        f"(N, {kept:,}), these to logits",
        _costs_told(backbone, len(files.backbone)),
    ]
    precision = pipeline.recipe.get("precision", "float32")
    if precision != "float32":
        lines.append(f"the model was trained on features computed in {precision}; here they are in float32")
    if quantize != "none":
        lines.append(f"{quantize}: the model's weights; those of the backbone stay floats")
    return Exported(dict(zip(paths, files, strict=True)), "\n".join([*lines, found]))


def pipeline_files(pipeline: Pipeline, quantize: str = "none") -> Files:
    """The three files as bytes."""
    backbone, card = pipeline.backbone, pipeline.card
    height, width = backbone.preparation.size
    network = network_graph(backbone.small, height, width, backbone.name)
    about = {
        "recipe": json.dumps(pipeline.recipe, sort_keys=True),
        "backbone": json.dumps(
            {
                "name": backbone.name,
                "shrinks": backbone.shrinks,
                "kept": backbone.kept.tolist(),
                "costs": {name: dict(costs) for name, costs in backbone.costs.items()},
            }
        ),
    }
    model = to_onnx(pipeline.model, card, SCHEMES[quantize], metadata=about)
    told = metadata_of(pipeline.model, card, FORMAT, VERSION) | about
    whole = _whole(backbone, network, model.graph, told, pipeline.model.spec.classes)
    frames = _frames(backbone, network, told | {"format": BACKBONE_FORMAT})
    return Files(*(proto.SerializeToString(deterministic=True) for proto in (whole, frames, model)))


def _features(graph: Graph, backbone: FrameBackbone, network: onnx.GraphProto, frames: str) -> str:
    images = emit_pictures(graph, backbone.preparation, frames)
    return graph.splice(network, "backbone", {"images": images})["features"]


def _frames(backbone: FrameBackbone, network: onnx.GraphProto, metadata: Mapping[str, str]) -> onnx.ModelProto:
    graph = Graph()
    features = _features(graph, backbone, network, "frames")
    graph.nodes.append(helper.make_node("Identity", [features], ["features"]))
    outputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", len(backbone.kept)])]
    return _proto(graph, [_bytes("frames", _FRAMES)], outputs, metadata)


def _whole(
    backbone: FrameBackbone,
    network: onnx.GraphProto,
    model: onnx.GraphProto,
    metadata: Mapping[str, str],
    classes: int,
) -> onnx.ModelProto:
    graph = Graph()
    # All frames of all clips as one batch, and back.
    sizes = graph.op("Shape", "frames", start=2)
    one_by_one = graph.op("Concat", graph.constant(np.array([-1])), sizes, axis=0)
    features = _features(graph, backbone, network, graph.op("Reshape", "frames", one_by_one))
    clips = graph.op("Shape", "frames", start=0, end=2)
    by_clip = graph.op("Concat", clips, graph.constant(np.array([len(backbone.kept)])), axis=0)
    features = graph.op("Reshape", features, by_clip)
    logits = graph.splice(model, "model", {"features": features, "lengths": "lengths"})["logits"]
    graph.nodes.append(helper.make_node("Identity", [logits], ["logits"]))
    lengths = helper.make_tensor_value_info("lengths", TensorProto.INT64, ["B"])
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", classes])]
    return _proto(graph, [_bytes("frames", _CLIPS), lengths], outputs, metadata)


def _bytes(name: str, shape: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.UINT8, shape)


def _proto(
    graph: Graph,
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    metadata: Mapping[str, str],
) -> onnx.ModelProto:
    proto = helper.make_model(
        helper.make_graph(graph.nodes, "harvib", inputs, outputs, list(graph.constants.values())),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR,
        producer_name="harvib",
    )
    helper.set_model_props(proto, dict(metadata))
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _costs_told(backbone: FrameBackbone, size: int) -> str:
    before, after = backbone.costs["whole"], backbone.costs["small"]
    kept = f"backbone {backbone.name}: {after['features']:,} of {before['features']:,} features"
    if not backbone.shrinks:
        return f"{kept}, picked at its end, for {backbone.why}: it is no smaller ({size:,} bytes)"
    if not before["parameters"]:
        return f"{kept}; no network"
    return (
        f"{kept}; parameters {before['parameters']:,} to {after['parameters']:,}, multiply-adds a frame "
        f"{before['multiply_adds']:,} to {after['multiply_adds']:,}, {size:,} bytes"
    )
