"""Pooling models in ONNX: the equations of harvib/pooling in evaluation, batch first, time of any length.

Clips of different lengths stay padded; what stands beyond a clip's length is put at zero where it would count.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from harvib.export.graph import Graph
from harvib.export.matrices import Stored
from harvib.export.numbers import array, normed
from harvib.export.onnx_matrices import picked
from harvib.export.store import Store
from harvib.factorised import Matrix
from harvib.pooling.block import Block
from harvib.pooling.dbof import DBoF
from harvib.pooling.experts import Experts
from harvib.pooling.gating import ContextGating
from harvib.pooling.matrices import Dense
from harvib.pooling.model import PoolingClassifier
from harvib.pooling.netfv import NetFV, deviation
from harvib.pooling.netvlad import TINY, NetVLAD
from harvib.pooling.pool import Pool

Make = Callable[[str], Store]
"""From the prefix of the names to where weights go."""


def emit_pooling(graph: Graph, small: PoolingClassifier, x: str, make: Make) -> str:
    """Inputs (B, T, K) to logits (B, C)."""
    wide = _wide(graph, "lengths", 1)
    steps = graph.op("Range", _whole(graph, 0), _steps(graph, x), _whole(graph, 1))
    inside = _wide(graph, graph.op("Less", _wide(graph, steps, 0), wide), 2)
    x = _inside(graph, inside, x)
    widths = small.spec.widths
    parts = [x] if len(widths) == 1 else graph.ops("Split", len(widths), x, _whole(graph, *widths), axis=2)
    units = []
    for number, (stream, own) in enumerate(zip(small.parts(), parts, strict=True)):
        store = make(f"{number}.")
        described = _pooled(stream.pool, own, inside, store)
        units.append(_relu6(graph, _normed(stream.fc, described, store, "fc")))
    read = units[0] if len(units) == 1 else graph.op("Concat", *units, axis=1)
    odds = _experts(small.experts, read, make("experts."))
    return odds if small.gating is None else _gated(small.gating, odds, make("gating."))


def _product(matrix: Matrix, store: Store, part: str, rows: np.ndarray | None = None) -> Stored:
    if isinstance(matrix, Dense):
        return store.matrix(part, array(matrix.weight))
    return picked(matrix, store, part, np.arange(matrix.rows) if rows is None else rows)


def _normed(block: Block, x: str, store: Store, part: str) -> str:
    """A matrix, and batch normalisation of what it gives."""
    graph, (by, shift) = store.graph, normed(block.norm)
    if block.scale is not None:
        x = graph.op("Mul", x, store.bias(array(block.scale)))
    rows = None if block.rows is None else block.rows.cpu().numpy()
    found = graph.op("Mul", _product(block.matrix, store, part, rows).times(graph, x), store.bias(by))
    return graph.op("Add", found, store.bias(shift))


def _pooled(pool: Pool, x: str, inside: str, store: Store) -> str:
    if isinstance(pool, DBoF):
        return _largest(pool, x, inside, store)
    assert isinstance(pool, NetVLAD)
    return _described(pool, x, inside, store)


def _largest(pool: DBoF, x: str, inside: str, store: Store) -> str:
    """DBoF: the largest value of a clip's frames, or the mean over all draws of some of them."""
    graph = store.graph
    # No value is below the zeros that pad.
    values = _inside(graph, inside, _relu6(graph, _normed(pool.assign, x, store, "assign")))
    if not pool.bags.count:
        return graph.op("ReduceMax", values, _whole(graph, [1]), keepdims=0)
    count = _steps(graph, values)
    ascending, _ = graph.ops("TopK", 2, values, _wide(graph, count, 0), axis=1, largest=0, sorted=1)
    places = graph.op("Range", _whole(graph, 1), graph.op("Add", count, _whole(graph, 1)), _whole(graph, 1))
    lengths = _wide(graph, "lengths", 1)
    # What pads comes first in order, with the place 0 or less.
    place = graph.op("Sub", places, graph.op("Sub", count, lengths))

    def share(at: str) -> str:
        whole = (
            graph.op("Cast", graph.op("Max", at, _whole(graph, 0)), to=TensorProto.DOUBLE),
            _double(graph, lengths),
        )
        return graph.op("Pow", graph.op("Div", *whole), graph.constant(np.array(float(pool.bags.frames))))

    often = graph.op("Sub", share(place), share(graph.op("Sub", place, _whole(graph, 1))))
    often = _wide(graph, graph.op("Cast", often, to=TensorProto.FLOAT), 2)
    return graph.op("ReduceSum", graph.op("Mul", ascending, often), _whole(graph, [1]), keepdims=0)


def _described(pool: NetVLAD, x: str, inside: str, store: Store) -> str:
    """NetVLAD, and with deviations NetFV."""
    graph = store.graph
    belongs = graph.op("Softmax", _normed(pool.assign, x, store, "assign"), axis=2)
    if pool.described is not None:
        belongs = graph.op("Gather", belongs, store.whole(pool.described.cpu().numpy()), axis=2)
    belongs = graph.op("Transpose", _inside(graph, inside, belongs), perm=[0, 2, 1])
    mass = graph.op("ReduceSum", belongs, _whole(graph, [2]), keepdims=1)
    first, centres = graph.op("MatMul", belongs, x), store.matrix_floats("centres", array(pool.centres))
    moved = graph.op("Sub", first, graph.op("Mul", mass, centres))
    vectors = [moved]
    if isinstance(pool, NetFV):
        spread = store.matrix_floats("deviations", array(deviation(pool.roots)))
        two = graph.constant(np.array(2, np.float32))
        second = graph.op("MatMul", belongs, graph.op("Mul", x, x))
        crossed = graph.op("Mul", graph.op("Mul", centres, first), two)
        own = graph.op("Mul", graph.op("Mul", centres, centres), mass)
        squares = graph.op("Add", graph.op("Sub", second, crossed), own)
        scaled = graph.op("Div", squares, graph.op("Mul", spread, spread))
        vectors = [graph.op("Div", moved, spread), graph.op("Sub", scaled, mass)]
    found = graph.op("Concat", *(_wide(graph, vector, 2) for vector in vectors), axis=2)
    found = _unit(graph, found, [3])
    if pool.scale is not None:
        found = graph.op("Mul", found, store.bias(array(pool.scale)[:, None, None]))
    return graph.op("Flatten", _unit(graph, found, [1, 3]), axis=1)


def _experts(experts: Experts, x: str, store: Store) -> str:
    """Log-odds of the mixture, or of a linear layer where there are no experts."""
    graph, shape = store.graph, experts.shape
    if experts.scale is not None:
        x = graph.op("Mul", x, store.bias(array(experts.scale)))
    units = graph.op(
        "Add", _product(experts.units, store, "units").times(graph, x), store.bias(array(experts.bias))
    )
    if experts.gates is None:
        return units
    units = graph.op("Reshape", units, _whole(graph, -1, shape.classes, shape.experts))
    gates = _product(experts.gates, store, "gates").times(graph, x)
    gates = graph.op("Reshape", gates, _whole(graph, -1, shape.classes, shape.experts + 1))
    gates = graph.op("LogSoftmax", gates, axis=2)
    own, dummy = graph.ops("Split", 2, gates, _whole(graph, shape.experts, 1), axis=2)
    last = _whole(graph, [2])
    yes = graph.op("ReduceLogSumExp", graph.op("Add", own, _log_sigmoid(graph, units)), last, keepdims=0)
    against = graph.op("Add", own, _log_sigmoid(graph, graph.op("Neg", units)))
    no = graph.op("ReduceLogSumExp", graph.op("Concat", against, dummy, axis=2), last, keepdims=0)
    return graph.op("Sub", yes, no)


def _gated(gating: ContextGating, odds: str, store: Store) -> str:
    graph, (by, shift) = store.graph, normed(gating.norm)
    gate = _product(gating.matrix, store, "matrix").times(graph, graph.op("Sigmoid", odds))
    gate = graph.op("Add", graph.op("Mul", gate, store.bias(by)), store.bias(shift))
    yes, no = _log_sigmoid(graph, odds), _log_sigmoid(graph, graph.op("Neg", odds))
    open_, shut = _log_sigmoid(graph, gate), _log_sigmoid(graph, graph.op("Neg", gate))
    # log(exp(no) + exp(yes + shut)), from the larger of the two.
    other = graph.op("Add", yes, shut)
    apart = graph.op("Neg", graph.op("Abs", graph.op("Sub", no, other)))
    never = graph.op("Add", graph.op("Max", no, other), graph.op("Softplus", apart))
    return graph.op("Sub", graph.op("Add", yes, open_), never)


def _log_sigmoid(graph: Graph, x: str) -> str:
    return graph.op("Neg", graph.op("Softplus", graph.op("Neg", x)))


def _relu6(graph: Graph, x: str) -> str:
    return graph.op("Clip", x, graph.constant(np.array(0, np.float32)), graph.constant(np.array(6, np.float32)))


def _unit(graph: Graph, x: str, axes: list[int]) -> str:
    """Divided by the length over these axes; zero stays zero."""
    length = graph.op("ReduceL2", x, _whole(graph, axes), keepdims=1)
    return graph.op("Div", x, graph.op("Max", length, graph.constant(np.array(TINY, np.float32))))


def _inside(graph: Graph, inside: str, x: str) -> str:
    return graph.op("Where", inside, x, graph.constant(np.array(0, np.float32)))


def _steps(graph: Graph, x: str) -> str:
    return graph.op("Squeeze", graph.op("Shape", x, start=1, end=2))


def _wide(graph: Graph, x: str, axis: int) -> str:
    return graph.op("Unsqueeze", x, _whole(graph, [axis]))


def _double(graph: Graph, x: str) -> str:
    return graph.op("Cast", x, to=TensorProto.DOUBLE)


def _whole(graph: Graph, *values: int | list[int]) -> str:
    """One number, or several in a row."""
    return graph.constant(np.array(values[0] if len(values) == 1 else values, np.int64))
