"""The recurrent cells in ONNX, a function a kind: states (T, B, H) of inputs (T, B, D), time first as ONNX has it.

Where the matrices are floats and the cell is the plain one of torch, it is ONNX's own LSTM, GRU or RNN. Factors
that masks have left, and products of whole numbers, have no place in these: then a Scan holds the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from onnx import TensorProto
from torch import Tensor

from harvib.cells.base import Cell
from harvib.cells.conv import Conv
from harvib.cells.feedforward import Feedforward
from harvib.cells.gated import CompactForm
from harvib.cells.gru import CompactGRU
from harvib.cells.identity import Identity
from harvib.cells.linear import Projection
from harvib.cells.lstm import CompactLSTM
from harvib.cells.mlp import MLP
from harvib.cells.rnn import CompactReluRNN, CompactRNN
from harvib.errors import InputError
from harvib.export.graph import Graph
from harvib.export.matrices import FloatMatrix, Scheme, Seen, Stored


class Store:
    """Where the matrices of one cell go: a graph, by a scheme, under names with a prefix."""

    def __init__(self, graph: Graph, scheme: Scheme, prefix: str, seen: Mapping[str, Seen] | None) -> None:
        self.graph, self.scheme = graph, scheme
        self._prefix, self._seen = prefix, seen

    def matrix(self, part: str, weight: np.ndarray) -> Stored:
        """Put one in: `part` ih reads the cell's inputs, hh its states."""
        name = f"{self._prefix}{part}"
        return self.scheme.store(self.graph, name, weight, None if self._seen is None else self._seen[name])

    def bias(self, value: np.ndarray) -> str:
        """Floats in every scheme: they are few, and added, not multiplied."""
        return self.graph.constant(value)


def array(value: Tensor) -> np.ndarray:
    """As float32."""
    return value.detach().cpu().float().numpy()


def emit_cell(cell: Cell, x: str, store: Store) -> str:
    """States of a compact cell, (T, B, D) to (T, B, H). InputError where nobody has written it in ONNX."""
    # By the class or the nearest above it: a convolution of each width is a class of its own.
    emit = next((EMITTERS[kind] for kind in type(cell).__mro__ if kind in EMITTERS), None)
    if emit is None:
        raise InputError(
            f"a {type(cell).__name__} cannot be written as ONNX yet, so it cannot be quantised either"
        )
    return emit(cell, x, store)


def _projection(cell: Cell, x: str, store: Store) -> str:
    assert isinstance(cell, Projection)
    product = store.matrix("ih", array(cell.linear.weight)).times(store.graph, x)
    return store.graph.op("Add", product, store.bias(array(cell.linear.bias)))


def _gated(cell: Cell, x: str, store: Store) -> str:
    assert isinstance(cell, CompactForm)
    if cell.is_plain() and not store.scheme.ROUNDS_INPUTS:
        return _native(cell, x, store)
    written_out = _lstm if isinstance(cell, CompactLSTM) else _gru if isinstance(cell, CompactGRU) else _rnn
    return written_out(cell, x, store)


_NATIVE: dict[type[CompactForm], tuple[str, tuple[int, ...], dict[str, object]]] = {
    CompactLSTM: ("LSTM", (0, 3, 1, 2), {}),
    CompactGRU: ("GRU", (1, 0, 2), {"linear_before_reset": 1}),
    CompactRNN: ("RNN", (0,), {}),
    CompactReluRNN: ("RNN", (0,), {"activations": ["Relu"]}),
}
"""ONNX's operator, its order of torch's gates, and what makes the two the same."""


def _native(cell: CompactForm, x: str, store: Store) -> str:
    graph = store.graph
    kind, order, attributes = _NATIVE[type(cell)]
    hidden = cell.hidden_size
    rows = np.concatenate([np.arange(hidden) + gate * hidden for gate in order])
    ih, hh, bias_ih, bias_hh = (array(weight)[rows] for weight in cell.module.all_weights[0])
    first = graph.constant(np.array([0]))
    matrices = []
    for part, weight in (("ih", ih), ("hh", hh)):
        matrix = store.matrix(part, weight)
        assert isinstance(matrix, FloatMatrix)
        matrices.append(graph.op("Unsqueeze", matrix.dense, first))
    if kind == "GRU":
        bias = store.bias(np.concatenate([bias_ih, bias_hh])[None])
    else:
        # What is only ever summed is stored once.
        widths = graph.constant(np.array([0, 0, 0, len(rows)]))
        bias = graph.op("Pad", store.bias((bias_ih + bias_hh)[None]), widths)
    states = graph.op(kind, x, *matrices, bias, hidden_size=hidden, **attributes)
    return graph.op("Squeeze", states, graph.constant(np.array([1])))


def _lstm(cell: CompactForm, x: str, store: Store) -> str:
    graph = store.graph
    ih, hh, bias_ih, bias_hh = (array(weight) for weight in cell.module.all_weights[0])
    new, memory = (_factor(store, factor) for factor in cell.factors())
    xs = graph.op("Add", store.matrix("ih", ih).times(graph, x), store.bias(bias_ih + bias_hh))
    states = store.matrix("hh", hh)

    def step(body: Graph, before: list[str], here: str) -> tuple[list[str], str]:
        state, memory_cell = before
        i, f, g, o = _split(body, body.op("Add", here, states.times(body, state)), 4)
        kept = body.op("Mul", _times(body, body.op("Sigmoid", f), memory), memory_cell)
        added = body.op("Mul", _times(body, body.op("Sigmoid", i), new), body.op("Tanh", g))
        after = body.op("Add", kept, added)
        out = body.op("Mul", body.op("Sigmoid", o), body.op("Tanh", after))
        return [out, after], out

    return graph.scan(xs, [cell.hidden_size] * 2, step)


def _gru(cell: CompactForm, x: str, store: Store) -> str:
    graph = store.graph
    hidden = cell.hidden_size
    ih, hh, bias_ih, bias_hh = (array(weight) for weight in cell.module.all_weights[0])
    reset, update = (_factor(store, factor) for factor in cell.factors())
    # Of b_hh only the candidate's part stands apart: the reset gate multiplies it.
    outer = bias_ih + np.concatenate([bias_hh[: 2 * hidden], np.zeros(hidden, np.float32)])
    xs = graph.op("Add", store.matrix("ih", ih).times(graph, x), store.bias(outer))
    inner, states = store.bias(bias_hh[2 * hidden :]), store.matrix("hh", hh)
    one = graph.constant(np.array(1, np.float32))

    def step(body: Graph, before: list[str], here: str) -> tuple[list[str], str]:
        (state,) = before
        x_r, x_u, x_n = _split(body, here, 3)
        h_r, h_u, h_n = _split(body, states.times(body, state), 3)
        r = _times(body, body.op("Sigmoid", body.op("Add", x_r, h_r)), reset)
        u = _times(body, body.op("Sigmoid", body.op("Add", x_u, h_u)), update)
        n = body.op("Tanh", body.op("Add", x_n, body.op("Mul", r, body.op("Add", h_n, inner))))
        fresh = body.op("Mul", body.op("Sub", one, u), n)
        out = body.op("Add", fresh, body.op("Mul", u, state))
        return [out], out

    return graph.scan(xs, [hidden], step)


def _rnn(cell: CompactForm, x: str, store: Store) -> str:
    graph = store.graph
    ih, hh, bias_ih, bias_hh = (array(weight) for weight in cell.module.all_weights[0])
    xs = graph.op("Add", store.matrix("ih", ih).times(graph, x), store.bias(bias_ih + bias_hh))
    states = store.matrix("hh", hh)
    kind = "Relu" if isinstance(cell, CompactReluRNN) else "Tanh"

    def step(body: Graph, before: list[str], here: str) -> tuple[list[str], str]:
        out = body.op(kind, body.op("Add", here, states.times(body, before[0])))
        return [out], out

    return graph.scan(xs, [cell.hidden_size], step)


def _feedforward(over_time: Callable[[Graph, str, Feedforward], str]) -> Callable[[Cell, str, Store], str]:
    def emit(cell: Cell, x: str, store: Store) -> str:
        assert isinstance(cell, Feedforward)
        products = store.matrix("ih", array(cell.weight_ih)).times(store.graph, x)
        total = over_time(store.graph, products, cell)
        return store.graph.op("Relu", store.graph.op("Add", total, store.bias(array(cell.bias_ih))))

    return emit


def _mean_so_far(graph: Graph, products: str, cell: Feedforward) -> str:
    zero, one = graph.constant(np.array(0)), graph.constant(np.array(1))
    count = graph.op("Add", graph.op("Squeeze", graph.op("Shape", products, start=0, end=1)), one)
    steps = graph.op("Cast", graph.op("Range", one, count, one), to=TensorProto.FLOAT)
    wide = graph.op("Unsqueeze", steps, graph.constant(np.array([1, 2])))
    return graph.op("Div", graph.op("CumSum", products, zero), wide)


def _taps(graph: Graph, products: str, cell: Feedforward) -> str:
    """The sum of the taps, each as many steps later as its number; a clip stands still before its first step."""
    if cell.TAPS == 1:
        return products
    total, *later = graph.ops("Split", cell.TAPS, products, axis=2, num_outputs=cell.TAPS)
    zero = graph.constant(np.array([0]))
    for tap, values in enumerate(later, 1):
        late = graph.op("Pad", values, graph.constant(np.array([tap, 0, 0, 0, 0, 0])), mode="edge")
        total = graph.op("Add", total, graph.op("Slice", late, zero, graph.constant(np.array([-tap])), zero))
    return total


def _split(graph: Graph, x: str, parts: int) -> list[str]:
    return graph.ops("Split", parts, x, axis=1, num_outputs=parts)


def _factor(store: Store, factor: Tensor) -> str:
    """A factor by name; empty where it is one everywhere."""
    return "" if bool((factor == 1).all()) else store.bias(array(factor))


def _times(graph: Graph, x: str, factor: str) -> str:
    return graph.op("Mul", x, factor) if factor else x


EMITTERS: dict[type[Cell], Callable[[Cell, str, Store], str]] = {
    Projection: _projection,
    Identity: lambda cell, x, store: x,
    CompactLSTM: _gated,
    CompactGRU: _gated,
    CompactRNN: _gated,
    CompactReluRNN: _gated,
    MLP: _feedforward(_mean_so_far),
    Conv: _feedforward(_taps),
}
