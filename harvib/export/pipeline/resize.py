"""A frame resized and cropped as Pillow and timm do it, as an ONNX graph.

Pillow resizes bytes along one axis, rounds to bytes, then along the other; onnxruntime's antialiased Resize does
so too where each axis has one of its own. Its coefficients are float32 and Pillow's have 22 bits behind the point,
so about one value in a thousand rounds to the byte beside it. Both axes in one Resize differ by up to 28 of 255,
which is why it is two. Width comes first; since Pillow 13 height does where it loses more than twice as many
pixels as the width (its pull request 9549; the rule was found by trying sizes). Sizes and corners are those of
timm's evaluation transform for every size of frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import PIL
from onnx import TensorProto

from harvib.errors import InputError
from harvib.export.graph import Graph
from harvib.export.pipeline.preparation import Preparation

_MODES: dict[str, dict[str, Any]] = {
    "bilinear": {"mode": "linear"},
    "bicubic": {"mode": "cubic", "cubic_coeff_a": -0.5},
}
_CROPS = ("center", "squash")
_HEIGHT_MAY_COME_FIRST = int(PIL.__version__.partition(".")[0]) >= 13


def require_graph(preparation: Preparation, where: str) -> None:
    """Raise InputError, which begins with `where`, for what has no ONNX form here."""
    asked = preparation.transform
    for name, value, known in (
        ("interpolation", asked.interpolation, tuple(_MODES)),
        ("crop_mode", asked.crop_mode, _CROPS),
    ):
        if value not in known:
            raise InputError(
                f"{where}: its frames are prepared with {name} {value}, which has no ONNX form here; there are "
                f"{', '.join(known)}"
            )
    if asked.crop_pct > 1:
        raise InputError(f"{where}: crop_pct {asked.crop_pct:g}: a border around frames has no ONNX form here")


def emit_pictures(graph: Graph, preparation: Preparation, frames: str) -> str:
    """Frames (N, H, W, 3) uint8 to pictures (N, 3, h, w) uint8; the name of these."""
    x = graph.op("Transpose", frames, perm=[0, 3, 1, 2])
    height, width = (graph.op("Shape", x, start=axis, end=axis + 1) for axis in (2, 3))
    tall, wide = _resized(graph, preparation, height, width)

    def along(*axes: int) -> Callable[[Graph], str]:
        return lambda here: _along(here, preparation, x, {2: tall, 3: wide}, axes)

    if not _HEIGHT_MAY_COME_FIRST:
        return along(3, 2)(graph)
    lost, lost_wide = graph.op("Sub", height, tall), graph.op("Sub", width, wide)
    most = graph.op("Max", graph.op("Add", lost_wide, lost_wide), graph.constant(np.array([0])))
    return graph.branch(graph.op("Greater", lost, most), along(2, 3), along(3, 2), TensorProto.UINT8)


def _along(
    graph: Graph, preparation: Preparation, x: str, lengths: Mapping[int, str], axes: tuple[int, ...]
) -> str:
    """Resize to these lengths by axis, and crop, along one axis after the other."""
    for axis in axes:
        length, crop = lengths[axis], preparation.size[axis - 2]
        kept = [graph.op("Shape", x, start=other, end=other + 1) for other in range(4)]
        sizes = graph.op("Concat", *kept[:axis], length, *kept[axis + 1 :], axis=0)
        mode = _MODES[preparation.transform.interpolation]
        x = graph.op("Resize", x, "", "", sizes, antialias=1, exclude_outside=1, **mode)
        start = _corner(graph, length, crop)
        end = graph.op("Add", start, graph.constant(np.array([crop])))
        x = graph.op("Slice", x, start, end, graph.constant(np.array([axis])))
    return x


def _resized(graph: Graph, preparation: Preparation, height: str, width: str) -> tuple[str, str]:
    """Height and width (1,) int64 after the resize and before the crop."""
    asked = [graph.constant(np.array([side])) for side in preparation.scaled]
    if preparation.transform.crop_mode == "squash":
        return asked[0], asked[1]
    if asked[0] == asked[1]:
        # The shorter side is as long as asked; the other one in proportion, rounded down.
        short = graph.op("Min", height, width)
        tall, wide = (graph.op("Div", graph.op("Mul", asked[0], side), short) for side in (height, width))
        return tall, wide
    sides = [graph.op("Cast", side, to=TensorProto.DOUBLE) for side in (height, width)]
    wanted = [graph.constant(np.array([float(side)])) for side in preparation.scaled]
    ratio = graph.op("Min", *(graph.op("Div", *pair) for pair in zip(sides, wanted, strict=True)))
    tall, wide = (_whole(graph, graph.op("Round", graph.op("Div", side, ratio))) for side in sides)
    return tall, wide


def _corner(graph: Graph, length: str, crop: int) -> str:
    """Where the crop begins (1,): half of what is too much, of two whole numbers as near the even one."""
    excess = graph.op("Cast", graph.op("Sub", length, graph.constant(np.array([crop]))), to=TensorProto.DOUBLE)
    return _whole(graph, graph.op("Round", graph.op("Mul", excess, graph.constant(np.array([0.5])))))


def _whole(graph: Graph, x: str) -> str:
    return graph.op("Cast", x, to=TensorProto.INT64)
