"""The files of a pipeline run by onnxruntime on made-up frames, and compared with Pillow and torch.

Three comparisons, so that none hides another: the pictures made of frames of an odd size, with Pillow's; features
and logits of frames that need no resizing, with torch's, which must be equal up to rounding; and the logits of
frames that are resized, whose pixels may differ by a level here and there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper

from harvib.export.graph import IR, OPSET, Graph
from harvib.export.pipeline.front import FrameBackbone, Pipeline
from harvib.export.pipeline.preparation import Preparation
from harvib.export.pipeline.resize import emit_pictures

MOST_LEVELS, MOST_PIXELS = 2, 0.02
"""How far a byte of a picture may be from Pillow's, and how many of them may be off at all."""
ROUNDING = 1e-4
"""Largest difference of features and logits, as a share of the largest, on equal pictures."""
HALF_ROUNDING = 5e-3
"""The same where maps are rounded to half precision inside: a last digit of a float may decide which way."""
_CLIPS, _STEPS = 2, 3


class Files(NamedTuple):
    """The ONNX files of a pipeline as bytes."""

    pipeline: bytes
    backbone: bytes
    model: bytes


def deviations(pipeline: Pipeline, files: Files, exact: bool = True) -> str:
    """The line that tells how far the files are from torch; RuntimeError where that is more than rounding.

    Without `exact` the logits are only told, for the model's weights are rounded.
    """
    backbone, rng = pipeline.backbone, np.random.default_rng(0)
    height, width = backbone.preparation.scaled
    odd = made_up_frames(height * 3 // 4 + 1, width * 5 // 4 + 1, rng)
    levels, share = _pixels(backbone.preparation, odd)
    if levels > MOST_LEVELS or share > MOST_PIXELS:
        raise RuntimeError(
            f"onnxruntime resizes frames other than Pillow: {levels} levels, {share:.2%} of all bytes"
        )
    sessions = {name: session(data) for name, data in files._asdict().items()}
    most = HALF_ROUNDING if getattr(backbone.small, "rounds", False) else ROUNDING
    native = made_up_frames(height, width, rng)
    features = sessions["backbone"].run(["features"], {"frames": native})[0]
    found = _share(features, _features(backbone, native))
    if not found <= most:
        raise RuntimeError(f"the exported backbone and torch's differ by {found:.2e} of the largest feature")
    apart = []
    for frames in (native, odd):
        ours, theirs, in_two = _logits(pipeline, sessions, frames)
        apart.append(_share(theirs, ours))
        if not _share(in_two, theirs) <= most:
            raise RuntimeError(f"the pipeline in one file and in two differ by {_share(in_two, theirs):.2e}")
    if exact and not apart[0] <= most:
        raise RuntimeError(f"the exported pipeline and torch differ by {apart[0]:.2e} of the largest logit")
    return (
        f"checked in onnxruntime {onnxruntime.__version__}: features {found:.1e}, logits {apart[0]:.1e} off torch's "
        f"(of the largest); of resized frames {share:.2%} of the bytes {levels} of 255 off Pillow's, logits "
        f"{apart[1]:.1e}"
    )


def made_up_frames(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(6, height, width, 3) uint8: areas of colour with some noise, in each frame others."""
    rows, columns = -(-height // 16), -(-width // 16)
    areas = rng.integers(20, 236, (_CLIPS * _STEPS, rows, columns, 3))
    large = areas.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width]
    return (large + rng.integers(-20, 20, large.shape)).astype(np.uint8)


def session(data: bytes) -> Any:
    """One of onnxruntime on the CPU, with torch's threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


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
def _logits(pipeline: Pipeline, sessions: dict[str, Any], frames: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of two clips of different lengths: torch's, those of the file in one, and in two."""
    lengths = np.array([_STEPS, 1])
    rows = torch.from_numpy(_features(pipeline.backbone, frames)).view(_CLIPS, _STEPS, -1)
    ours = pipeline.model(rows, torch.from_numpy(lengths)).numpy()
    clips = frames.reshape(_CLIPS, _STEPS, *frames.shape[1:])
    theirs = sessions["pipeline"].run(["logits"], {"frames": clips, "lengths": lengths})[0]
    features = sessions["backbone"].run(["features"], {"frames": frames})[0].reshape(_CLIPS, _STEPS, -1)
    return ours, theirs, sessions["model"].run(["logits"], {"features": features, "lengths": lengths})[0]


def _share(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / max(float(np.abs(wanted).max()), 1e-30))
