"""The files of a pipeline run by onnxruntime on made-up frames, and compared with Pillow and torch.

Each part is compared on equal input, so that the rounding of one is not another's error: pictures with Pillow's,
features with torch's of the same pictures, logits with torch's of the same features, and the file in one with the
files in two. What comes out of the whole is told, not judged: a model may make much of a small feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper

from harvib.export.graph import IR, OPSET, Graph
from harvib.export.pipeline.front import FrameBackbone, Pipeline
from harvib.export.pipeline.preparation import Preparation
from harvib.export.pipeline.resize import emit_pictures
from harvib.onnxfile import session

MOST_LEVELS, MOST_PIXELS = 2, 0.25
"""How far a byte of a picture may be from Pillow's, and how many of them may be off at all."""
ROUNDING = 1e-4
"""Largest difference of features and logits to torch's, as a share of the largest."""
HALF_ROUNDING = 5e-3
"""The same of features where maps are rounded to half precision inside: the last digit of a float decides how."""
IN_TWO = 1e-3
"""The same between one file and two, of logits: their features may differ by rounding."""
_CLIPS, _STEPS = 2, 3


class Files(NamedTuple):
    """The ONNX files of a pipeline as bytes."""

    pipeline: bytes
    backbone: bytes
    model: bytes


def deviations(pipeline: Pipeline, files: Files, rounded: bool = False) -> str:
    """The line that tells how far the files are from torch; RuntimeError where that is more than rounding.

    `rounded`: the model's weights are, so that its logits are told and not judged.
    """
    backbone, rng = pipeline.backbone, np.random.default_rng(0)
    height, width = backbone.preparation.scaled
    odd = made_up_frames(height * 3 // 4 + 1, width * 5 // 4 + 1, rng)
    levels, share = _pixels(backbone.preparation, odd)
    if levels > MOST_LEVELS or share > MOST_PIXELS:
        raise RuntimeError(f"onnxruntime and Pillow resize apart: {levels} levels, {share:.2%} of all bytes")
    sessions = {name: session(data) for name, data in files._asdict().items()}
    native = made_up_frames(height, width, rng)
    rows = _features(backbone, native)
    found = _apart(sessions["backbone"].run(["features"], {"frames": native})[0], rows)
    if not found <= (HALF_ROUNDING if getattr(backbone.small, "rounds", False) else ROUNDING):
        raise RuntimeError(f"the exported backbone and torch's differ by {found:.2e} of the largest feature")
    lengths = np.array([_STEPS, 1])
    model = _apart(_modelled(sessions, rows, lengths), _in_torch(pipeline, rows, lengths), 1.0)
    if not rounded and not model <= ROUNDING:
        raise RuntimeError(f"the exported model and torch's differ by {model:.2e} of the largest logit")
    clips = odd.reshape(_CLIPS, _STEPS, *odd.shape[1:])
    (in_one,) = sessions["pipeline"].run(["logits"], {"frames": clips, "lengths": lengths})
    (features,) = sessions["backbone"].run(["features"], {"frames": odd})
    in_two = _apart(_modelled(sessions, features, lengths), in_one, 1.0)
    if not in_two <= IN_TWO:
        raise RuntimeError(f"the pipeline in one file and in two differ by {in_two:.2e} of the largest logit")
    end = _apart(in_one, _in_torch(pipeline, _features(backbone, odd), lengths), 1.0)
    return (
        f"onnxruntime {onnxruntime.__version__} gives torch's features to {found:.1e} and logits to {model:.1e}; "
        f"of resized frames {share:.2%} of the bytes are {levels} of 255 off Pillow's, logits {end:.1e}"
    )


def made_up_frames(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(6, height, width, 3) uint8: areas of colour with some noise, in each frame others."""
    rows, columns = -(-height // 16), -(-width // 16)
    areas = rng.integers(20, 236, (_CLIPS * _STEPS, rows, columns, 3))
    large = areas.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width]
    return (large + rng.integers(-20, 20, large.shape)).astype(np.uint8)


def preparation_bytes(preparation: Preparation) -> bytes:
    """The preparation alone as a file: `frames` (N, H, W, 3) to `images` (N, 3, h, w), uint8."""
    graph = Graph()
    images = emit_pictures(graph, preparation, "frames")
    graph.nodes.append(helper.make_node("Identity", [images], ["images"]))
    info = helper.make_tensor_value_info
    inner = helper.make_graph(
        graph.nodes,
        "preparation",
        [info("frames", TensorProto.UINT8, ["N", "H", "W", 3])],
        [info("images", TensorProto.UINT8, ["N", 3, *preparation.size])],
        list(graph.constants.values()),
    )
    proto = helper.make_model(inner, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    return bytes(proto.SerializeToString(deterministic=True))


def _pixels(preparation: Preparation, frames: np.ndarray) -> tuple[int, float]:
    found = session(preparation_bytes(preparation)).run(["images"], {"frames": frames})[0]
    apart = np.abs(found.astype(int) - preparation.pictures(frames))
    return int(apart.max()), float((apart > 0).mean())


@torch.inference_mode()
def _features(backbone: FrameBackbone, frames: np.ndarray) -> np.ndarray:
    found: torch.Tensor = backbone.small(torch.from_numpy(backbone.preparation.pictures(frames)))
    return found.numpy()


@torch.inference_mode()
def _in_torch(pipeline: Pipeline, rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Logits of features (6, K) as two clips."""
    features = torch.from_numpy(rows).view(_CLIPS, _STEPS, -1)
    return np.asarray(pipeline.model(features, torch.from_numpy(lengths)))


def _modelled(sessions: Mapping[str, Any], rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The same by the file of the model."""
    given = {"features": rows.reshape(_CLIPS, _STEPS, -1), "lengths": lengths}
    return np.asarray(sessions["model"].run(["logits"], given)[0])


def _apart(found: np.ndarray, wanted: np.ndarray, least: float = 1e-30) -> float:
    """Largest difference, as a share of the largest value, or of `least`."""
    return float(np.abs(found - wanted).max() / max(float(np.abs(wanted).max()), least))
