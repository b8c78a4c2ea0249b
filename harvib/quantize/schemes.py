"""The ways to quantise: what each stores in an ONNX graph. Standard operators only, so any ONNX runtime reads it.

Weights only: codes and steps are stored, and become floats when the model runs; all arithmetic is that of the
float model. Dynamic and static: inputs of a product are rounded to 8 bits too, and the product is one of integers,
summed in 32 bits. Dynamic rounds by the largest absolute value of each clip at each step, so that no clip depends
on which others are in its batch; static by that of all train clips, known beforehand, and cuts off what exceeds
it. One step serves all inputs of a product: features of very different scales lose there.

Columns of W could be scaled by their inputs' root mean square before they are rounded. Tried for the weights of
three models of UCF101-14: the logits' error grew (1.2 to 4 times in 8 bits, up to 2 times in 4), so it is not
done.

Both factors of an integer product are stored as uint8 with 128 for zero: on processors without VNNI onnxruntime's
other pairs of types may saturate in 16 bits (its documentation on quantisation, "U8S8"), this one never does.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from harvib.export.graph import Graph
from harvib.export.matrices import FloatMatrix, Scheme, Seen, Stored
from harvib.quantize.numbers import by_groups, by_rows, packed

_ZERO = np.array(128, np.uint8)


class Int8Weights(Scheme):
    """8 bits a weight, a step a row."""

    def store(self, graph: Graph, name: str, weight: np.ndarray, seen: Seen | None) -> FloatMatrix:
        found = by_rows(weight)
        codes = graph.constant(found.codes, f"{name}.codes")
        steps = graph.constant(found.steps, f"{name}.steps")
        # Not DequantizeLinear: onnxruntime fuses it with a product into one that rounds the inputs to 8 bits too.
        return FloatMatrix(graph, graph.op("Mul", graph.op("Cast", codes, to=TensorProto.FLOAT), steps))


class Int4Weights(Scheme):
    """4 bits a weight, a step of 32 bits for each 32 columns of a row: about 5 bits a weight in all."""

    def store(self, graph: Graph, name: str, weight: np.ndarray, seen: Seen | None) -> FloatMatrix:
        found = by_groups(weight)
        codes = graph.packed(packed(found.codes), found.codes.shape, f"{name}.codes")
        steps = graph.constant(found.steps, f"{name}.steps")
        return FloatMatrix(graph, graph.op("DequantizeLinear", codes, steps, axis=1, block_size=found.group))


class _Integers(Stored):
    """A product of whole numbers; the subclass rounds x, and tells the step that it took."""

    def __init__(self, graph: Graph, name: str, weight: np.ndarray) -> None:
        found = by_rows(weight)
        shifted = (found.codes.astype(np.int16) + 128).astype(np.uint8)
        self._codes = graph.constant(shifted.T, f"{name}.codes")
        self._steps = graph.constant(found.steps[:, 0], f"{name}.steps")
        self._zero = graph.constant(_ZERO)

    def _product(self, graph: Graph, x: str, step: str) -> str:
        """Of uint8 x (..., K), with a step that fits (..., 1)."""
        sums = graph.op("MatMulInteger", x, self._codes, self._zero, self._zero)
        return graph.op("Mul", graph.op("Mul", graph.op("Cast", sums, to=TensorProto.FLOAT), step), self._steps)


class _Dynamic(_Integers):
    def __init__(self, graph: Graph, name: str, weight: np.ndarray) -> None:
        super().__init__(graph, name, weight)
        self._last = graph.constant(np.array([-1]))
        self._most = graph.constant(np.array(127, np.float32))
        self._least = graph.constant(np.array(1e-30, np.float32))
        self._one = graph.constant(np.array(1, np.float32))

    def times(self, graph: Graph, x: str) -> str:
        largest = graph.op("ReduceMax", graph.op("Abs", x), self._last, keepdims=1)
        step = graph.op("Div", graph.op("Max", largest, self._least), self._most)
        codes = graph.op("QuantizeLinear", graph.op("Div", x, step), self._one, self._zero)
        return self._product(graph, codes, step)


class Int8Dynamic(Scheme):
    """8 bits a weight; inputs are rounded by the largest of each clip and step."""

    ROUNDS_INPUTS = True

    def store(self, graph: Graph, name: str, weight: np.ndarray, seen: Seen | None) -> Stored:
        return _Dynamic(graph, name, weight)


class _Static(_Integers):
    def __init__(self, graph: Graph, name: str, weight: np.ndarray, largest: float) -> None:
        super().__init__(graph, name, weight)
        self._step = graph.constant(np.array(max(largest, 1e-30) / 127, np.float32), f"{name}.input_step")

    def times(self, graph: Graph, x: str) -> str:
        return self._product(graph, graph.op("QuantizeLinear", x, self._step, self._zero), self._step)


class Int8Static(Scheme):
    """8 bits a weight; inputs are rounded by the largest that the train clips gave."""

    ROUNDS_INPUTS = True

    def store(self, graph: Graph, name: str, weight: np.ndarray, seen: Seen | None) -> Stored:
        if seen is None:
            raise ValueError(f"{name}: a static scheme needs to know what its inputs are on the train clips")
        return _Static(graph, name, weight, seen.largest)


SCHEMES: dict[str, Scheme] = {
    "int8-weights": Int8Weights(),
    "int8-dynamic": Int8Dynamic(),
    "int8-static": Int8Static(),
    "int4-weights": Int4Weights(),
}
