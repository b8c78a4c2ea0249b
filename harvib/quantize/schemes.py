"""The ways to quantise: what each stores in an ONNX graph. Standard operators only, so any ONNX runtime reads it.

Weights only: codes and steps are stored, and become floats when the model runs; all arithmetic is that of the
float model. Dynamic and static: inputs of a product are rounded to 8 bits too, and the product is one of integers,
summed in 32 bits. Dynamic rounds by the largest absolute value of each clip at each step, so that no clip depends
on which others are in its batch; static by that of all train clips, known beforehand, and cuts off what exceeds
it. One step serves all inputs of a product, after they are multiplied by their columns' powers of two.

Columns of W have these powers, by their own sizes (harvib/quantize/numbers.py): with a step a row alone, a model
whose standardisation was folded in lost up to all that it had learned. By their inputs' root mean square instead
the logits' error grew on three models of UCF101-14 (1.2 to 4 times in 8 bits, up to 2 times in 4).

Both factors of an integer product are stored as uint8 with 128 for zero: on processors without VNNI onnxruntime's
other pairs of types may saturate in 16 bits (its documentation on quantisation, "U8S8"), this one never does.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from onnx import TensorProto

from harvib.export.graph import Graph
from harvib.export.matrices import FloatMatrix, Scheme, Seen, Stored
from harvib.quantize.numbers import Quantized, by_groups, by_rows, packed

_ZERO = np.array(128, np.uint8)


def _scales(graph: Graph, name: str, found: Quantized) -> str:
    """Powers of two of the columns, (K,); empty where all are one."""
    if not found.halves:
        return ""
    halvings = graph.constant(found.halvings, f"{name}.halvings")
    return graph.op(
        "Pow", graph.constant(np.array(0.5, np.float32)), graph.op("Cast", halvings, to=TensorProto.FLOAT)
    )


def _scaled(graph: Graph, x: str, scales: str) -> str:
    return graph.op("Mul", x, scales) if scales else x


class Int8Weights(Scheme):
    """8 bits a weight, a step a row."""

    def store(
        self, graph: Graph, name: str, weight: np.ndarray, seen: Seen | None, alike: bool = False
    ) -> FloatMatrix:
        found = by_rows(weight, alike)
        codes = graph.constant(found.codes, f"{name}.codes")
        steps = graph.constant(found.steps, f"{name}.steps")
        # Not DequantizeLinear: onnxruntime fuses it with a product into one that rounds the inputs to 8 bits too.
        whole = graph.op("Mul", graph.op("Cast", codes, to=TensorProto.FLOAT), steps)
        return FloatMatrix(graph, _scaled(graph, whole, _scales(graph, name, found)))


class Int4Weights(Scheme):
    """4 bits a weight, a step of 32 bits for each 32 columns of a row: about 5 bits a weight in all."""

    def store(
        self, graph: Graph, name: str, weight: np.ndarray, seen: Seen | None, alike: bool = False
    ) -> FloatMatrix:
        found = by_groups(weight, alike)
        codes = graph.packed(packed(found.codes), found.codes.shape, f"{name}.codes")
        steps = graph.constant(found.steps, f"{name}.steps")
        whole = graph.op("DequantizeLinear", codes, steps, axis=1, block_size=found.group)
        return FloatMatrix(graph, _scaled(graph, whole, _scales(graph, name, found)))


class _Integers(Stored):
    """A product of whole numbers; the subclass rounds x, and tells the step that it took."""

    def __init__(self, graph: Graph, name: str, found: Quantized) -> None:
        shifted = (found.codes.astype(np.int16) + 128).astype(np.uint8)
        self._codes = graph.constant(shifted.T, f"{name}.codes")
        self._steps = graph.constant(found.steps[:, 0], f"{name}.steps")
        self._zero = graph.constant(_ZERO)
        self._scales = _scales(graph, name, found)

    def times(self, graph: Graph, x: str) -> str:
        codes, step = self._rounded(graph, _scaled(graph, x, self._scales))
        sums = graph.op("MatMulInteger", codes, self._codes, self._zero, self._zero)
        return graph.op("Mul", graph.op("Mul", graph.op("Cast", sums, to=TensorProto.FLOAT), step), self._steps)

    @abstractmethod
    def _rounded(self, graph: Graph, x: str) -> tuple[str, str]:
        """X (..., K) as uint8, and its step, which fits (..., 1)."""


class _Dynamic(_Integers):
    def __init__(self, graph: Graph, name: str, found: Quantized) -> None:
        super().__init__(graph, name, found)
        self._last = graph.constant(np.array([-1]))
        self._most = graph.constant(np.array(127, np.float32))
        self._least = graph.constant(np.array(1e-30, np.float32))
        self._one = graph.constant(np.array(1, np.float32))

    def _rounded(self, graph: Graph, x: str) -> tuple[str, str]:
        largest = graph.op("ReduceMax", graph.op("Abs", x), self._last, keepdims=1)
        step = graph.op("Div", graph.op("Max", largest, self._least), self._most)
        return graph.op("QuantizeLinear", graph.op("Div", x, step), self._one, self._zero), step


class Int8Dynamic(Scheme):
    """8 bits a weight; inputs are rounded by the largest of each clip and step."""

    ROUNDS_INPUTS = True

    def store(self, graph: Graph, name: str, weight: np.ndarray, seen: Seen | None, alike: bool = False) -> Stored:
        return _Dynamic(graph, name, by_rows(weight, alike))


class _Static(_Integers):
    def __init__(self, graph: Graph, name: str, found: Quantized, seen: Seen) -> None:
        super().__init__(graph, name, found)
        largest = float((seen.largest * found.scales()).max())
        self._step = graph.constant(np.array(max(largest, 1e-30) / 127, np.float32), f"{name}.input_step")

    def _rounded(self, graph: Graph, x: str) -> tuple[str, str]:
        return graph.op("QuantizeLinear", x, self._step, self._zero), self._step


class Int8Static(Scheme):
    """8 bits a weight; inputs are rounded by the largest that the train clips gave."""

    ROUNDS_INPUTS = True

    def store(self, graph: Graph, name: str, weight: np.ndarray, seen: Seen | None, alike: bool = False) -> Stored:
        if seen is None:
            raise ValueError(f"{name}: a static scheme needs to know what its inputs are on the train clips")
        return _Static(graph, name, by_rows(weight, alike), seen)


SCHEMES: dict[str, Scheme] = {
    "int8-weights": Int8Weights(),
    "int8-dynamic": Int8Dynamic(),
    "int8-static": Int8Static(),
    "int4-weights": Int4Weights(),
}
