"""The recurrent cells in ONNX, a function a kind: states (T, B, H) of inputs (T, B, D), time first as ONNX has it.

Where the matrices are floats and the cell is the plain one of torch, it is ONNX's own LSTM, GRU or RNN. Factors
that masks have left, and products of whole numbers, have no place in these: then a Scan holds the steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from harvib.cells.base import Cell
from harvib.cells.conv import Conv
from harvib.cells.factorised import CompactFactorised
from harvib.cells.factorised_linear import FactorisedProjection
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
from harvib.export.matrices import FloatMatrix, Stored
from harvib.export.numbers import GateValues, array
from harvib.export.onnx_matrices import indices, picked
from harvib.export.store import Store
from harvib.kernels import RNNKernel


class Gates(ABC):
    """The weights of a gated cell as its equations take them: the kind, its size, biases and factors left."""

    def __init__(self, cell: CompactForm | CompactFactorised, store: Store) -> None:
        values = GateValues.of(cell)
        self.kind, self.hidden, self.store = values.kind, values.hidden, store
        self.bias_ih, self.bias_hh = values.bias_ih, values.bias_hh
        self.is_plain = all(factor is None for factor in values.factors)
        self.factors = ["" if factor is None else store.bias(factor) for factor in values.factors]

    @abstractmethod
    def matrix(self, part: str, rows: np.ndarray) -> Stored:
        """Put W_ih or W_hh in with its rows in this order."""


class _Dense(Gates):
    def __init__(self, cell: CompactForm, store: Store) -> None:
        super().__init__(cell, store)
        ih, hh, *_ = cell.module.all_weights[0]
        self._weights = {"ih": ih, "hh": hh}

    def matrix(self, part: str, rows: np.ndarray) -> Stored:
        return self.store.matrix(part, array(self._weights[part])[rows])


class _Structured(Gates):
    def __init__(self, cell: CompactFactorised, store: Store) -> None:
        super().__init__(cell, store)
        self._cell = cell

    def matrix(self, part: str, rows: np.ndarray) -> Stored:
        cell, graph = self._cell, self.store.graph
        if part == "ih":
            return picked(cell.matrix, self.store, part, cell.rows.cpu().numpy()[rows])
        if cell.hidden is None:
            assert cell.weight_hh is not None
            return self.store.matrix(part, array(cell.weight_hh)[rows])
        found = picked(cell.hidden, self.store, part, cell.hidden_rows.cpu().numpy()[rows])
        if cell.units is None:
            return found
        units = indices(self.store, cell.units.cpu().numpy())
        return FloatMatrix(graph, graph.op("Gather", found.dense, units, axis=1))


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


def _structured_projection(cell: Cell, x: str, store: Store) -> str:
    assert isinstance(cell, FactorisedProjection)
    assert cell.rows is not None
    product = picked(cell.matrix, store, "ih", cell.rows.cpu().numpy()).times(store.graph, x)
    return store.graph.op("Add", product, store.bias(array(cell.bias)))


def _gated(cell: Cell, x: str, store: Store) -> str:
    assert isinstance(cell, CompactForm | CompactFactorised)
    gates = _Dense(cell, store) if isinstance(cell, CompactForm) else _Structured(cell, store)
    if gates.is_plain and not store.scheme.ROUNDS_INPUTS:
        return _native(gates, x)
    return _WRITTEN_OUT[gates.kind.name](gates, x)


_NATIVE: dict[str, tuple[str, tuple[int, ...], dict[str, object]]] = {
    "lstm": ("LSTM", (0, 3, 1, 2), {}),
    "gru": ("GRU", (1, 0, 2), {"linear_before_reset": 1}),
    "rnn": ("RNN", (0,), {}),
}
"""ONNX's operator, its order of torch's gates, and what makes the two the same; by the kind's name."""


def _native(gates: Gates, x: str) -> str:
    store, graph, hidden = gates.store, gates.store.graph, gates.hidden
    kind, order, attributes = _NATIVE[gates.kind.name]
    if kind == "RNN":
        attributes = {"activations": [_activation(gates)]}
    rows = np.concatenate([np.arange(hidden) + gate * hidden for gate in order])
    bias_ih, bias_hh = gates.bias_ih[rows], gates.bias_hh[rows]
    first = graph.constant(np.array([0]))
    matrices = []
    for part in ("ih", "hh"):
        matrix = gates.matrix(part, rows)
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


def _activation(gates: Gates) -> str:
    assert isinstance(gates.kind.kernel, RNNKernel)
    return "Tanh" if gates.kind.kernel.tanh else "Relu"


def _summed(gates: Gates, x: str, bias: np.ndarray) -> tuple[str, Stored]:
    """What the inputs give to the gates at every step, with this bias, and W_hh."""
    rows = np.arange(len(bias))
    product = gates.matrix("ih", rows).times(gates.store.graph, x)
    return gates.store.graph.op("Add", product, gates.store.bias(bias)), gates.matrix("hh", rows)


def _lstm(gates: Gates, x: str) -> str:
    new, memory, output = gates.factors
    xs, states = _summed(gates, x, gates.bias_ih + gates.bias_hh)

    def step(body: Graph, before: list[str], here: str) -> tuple[list[str], str]:
        state, memory_cell = before
        i, f, g, o = _split(body, body.op("Add", here, states.times(body, state)), 4)
        kept = body.op("Mul", _times(body, body.op("Sigmoid", f), memory), memory_cell)
        added = body.op("Mul", _times(body, body.op("Sigmoid", i), new), body.op("Tanh", g))
        after = body.op("Add", kept, added)
        out = _times(body, body.op("Mul", body.op("Sigmoid", o), body.op("Tanh", after)), output)
        return [out, after], out

    return gates.store.graph.scan(xs, [gates.hidden] * 2, step)


def _gru(gates: Gates, x: str) -> str:
    graph, hidden, bias_hh = gates.store.graph, gates.hidden, gates.bias_hh
    reset, update, output = gates.factors
    # Of b_hh only the candidate's part stands apart: the reset gate multiplies it.
    outer = gates.bias_ih + np.concatenate([bias_hh[: 2 * hidden], np.zeros(hidden, np.float32)])
    xs, states = _summed(gates, x, outer)
    inner = gates.store.bias(bias_hh[2 * hidden :])
    one = graph.constant(np.array(1, np.float32))

    def step(body: Graph, before: list[str], here: str) -> tuple[list[str], str]:
        (state,) = before
        x_r, x_u, x_n = _split(body, here, 3)
        h_r, h_u, h_n = _split(body, states.times(body, state), 3)
        r = _times(body, body.op("Sigmoid", body.op("Add", x_r, h_r)), reset)
        u = _times(body, body.op("Sigmoid", body.op("Add", x_u, h_u)), update)
        n = body.op("Tanh", body.op("Add", x_n, body.op("Mul", r, body.op("Add", h_n, inner))))
        fresh = body.op("Mul", body.op("Sub", one, u), _times(body, n, output))
        out = body.op("Add", fresh, body.op("Mul", u, state))
        return [out], out

    return graph.scan(xs, [hidden], step)


def _rnn(gates: Gates, x: str) -> str:
    (output,) = gates.factors
    xs, states = _summed(gates, x, gates.bias_ih + gates.bias_hh)
    kind = _activation(gates)

    def step(body: Graph, before: list[str], here: str) -> tuple[list[str], str]:
        out = _times(body, body.op(kind, body.op("Add", here, states.times(body, before[0]))), output)
        return [out], out

    return gates.store.graph.scan(xs, [gates.hidden], step)


_WRITTEN_OUT: dict[str, Callable[[Gates, str], str]] = {"lstm": _lstm, "gru": _gru, "rnn": _rnn}


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


def _times(graph: Graph, x: str, factor: str) -> str:
    return graph.op("Mul", x, factor) if factor else x


EMITTERS: dict[type[Cell], Callable[[Cell, str, Store], str]] = {
    Projection: _projection,
    FactorisedProjection: _structured_projection,
    CompactFactorised: _gated,
    Identity: lambda cell, x, store: x,
    CompactLSTM: _gated,
    CompactGRU: _gated,
    CompactRNN: _gated,
    CompactReluRNN: _gated,
    MLP: _feedforward(_mean_so_far),
    Conv: _feedforward(_taps),
}
