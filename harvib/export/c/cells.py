"""The cells in C, a function a kind: the lines of one step, from where its input is to where its states are.

The equations are those of harvib/cells; states that a step leaves to the next stand in the state of the program.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

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
from harvib.export.c.matrices import Dense, Form
from harvib.export.c.program import Program
from harvib.export.c.structured import smallest
from harvib.export.numbers import GateValues, array
from harvib.kernels import RNNKernel


def emit_cell(cell: Cell, x: str, program: Program) -> str:
    """The step of a compact cell: where its states are. InputError where nobody has written it in C."""
    # By the class or the nearest above it: a convolution of each width is a class of its own.
    emit = next((EMITTERS[kind] for kind in type(cell).__mro__ if kind in EMITTERS), None)
    if emit is None:
        raise InputError(f"--format c: a {type(cell).__name__} cannot be written in C yet: say --format onnx")
    return emit(cell, x, program)


def _projection(cell: Cell, x: str, program: Program) -> str:
    assert isinstance(cell, Projection | FactorisedProjection)
    if isinstance(cell, Projection):
        form: Form = Dense(array(cell.linear.weight), program.int8)
        bias = array(cell.linear.bias)
    else:
        assert cell.rows is not None
        form, bias = smallest(cell.matrix, program.int8, cell.rows.cpu().numpy()), array(cell.bias)
    product, added = form.times(program, x), program.constant("b", bias)
    out = program.member("p", len(bias), zero=False)
    program.loop(len(bias), f"{out}[j] = {product}[j] + {added}[j];")
    return out


def _gated(cell: Cell, x: str, program: Program) -> str:
    assert isinstance(cell, CompactForm | CompactFactorised)
    values = GateValues.of(cell)
    state = program.member("h", values.hidden)
    ih, hh = _matrices(cell, program.int8)
    gates, recurrent = ih.times(program, x), hh.times(program, state)
    _EQUATIONS[values.kind.name](values, _Lines(program, values, gates, recurrent), state)
    return state


def _matrices(cell: CompactForm | CompactFactorised, int8: bool) -> tuple[Form, Form]:
    """W_ih and W_hh."""
    if isinstance(cell, CompactForm):
        ih, hh, *_ = cell.module.all_weights[0]
        return Dense(array(ih), int8), Dense(array(hh), int8)
    reads = smallest(cell.matrix, int8, cell.rows.cpu().numpy())
    if cell.hidden is None:
        assert cell.weight_hh is not None
        return reads, Dense(array(cell.weight_hh), int8)
    units = None if cell.units is None else cell.units.cpu().numpy()
    return reads, smallest(cell.hidden, int8, cell.hidden_rows.cpu().numpy(), units)


class _Lines:
    """Parts of the equations of unit j: what comes into its gates, and its factors."""

    def __init__(self, program: Program, values: GateValues, gates: str, recurrent: str) -> None:
        self.program, self._values = program, values
        self.gates, self.recurrent = gates, recurrent

    def bias(self, values: np.ndarray) -> str:
        """Put biases in; their name."""
        return self.program.constant("b", values)

    def at(self, name: str, gate: int) -> str:
        """The entry of unit j in the block of a gate."""
        return f"{name}[j + {gate * self._values.hidden}]" if gate else f"{name}[j]"

    def sum(self, gate: int, bias: str) -> str:
        """W_ih v + W_hh h + b."""
        return " + ".join(self.at(name, gate) for name in (self.gates, self.recurrent, bias))

    def times(self, number: int) -> str:
        """Of the factors the one of this number, as something to put before a product; empty for one."""
        factor = self._values.factors[number]
        return "" if factor is None else f"{self.program.constant('f', factor)}[j] * "


def _lstm(values: GateValues, lines: _Lines, state: str) -> None:
    program, bias = lines.program, lines.bias(values.bias_ih + values.bias_hh)
    sigmoid, tanh = program.helper("sigmoid"), program.helper("tanh")
    memory = program.member("c", values.hidden)
    new, kept, output = (lines.times(number) for number in range(3))
    program.loop(
        values.hidden,
        f"const float in = {sigmoid}({lines.sum(0, bias)});",
        f"const float forget = {sigmoid}({lines.sum(1, bias)});",
        f"const float fresh = {tanh}({lines.sum(2, bias)});",
        f"const float shown = {sigmoid}({lines.sum(3, bias)});",
        f"const float cell = {kept}forget * {memory}[j] + {new}in * fresh;",
        f"{memory}[j] = cell;",
        f"{state}[j] = {output}shown * {tanh}(cell);",
    )


def _gru(values: GateValues, lines: _Lines, state: str) -> None:
    program, hidden = lines.program, values.hidden
    # Of b_hh only the candidate's part stands apart: the reset gate multiplies it.
    outer = lines.bias(values.bias_ih + np.append(values.bias_hh[: 2 * hidden], np.zeros(hidden, np.float32)))
    inner = lines.bias(values.bias_hh[2 * hidden :])
    sigmoid, tanh = program.helper("sigmoid"), program.helper("tanh")
    reset, update, output = (lines.times(number) for number in range(3))
    within = f"{lines.at(lines.recurrent, 2)} + {inner}[j]"
    program.loop(
        hidden,
        f"const float reset = {reset}{sigmoid}({lines.sum(0, outer)});",
        f"const float update = {update}{sigmoid}({lines.sum(1, outer)});",
        f"const float fresh = {output}{tanh}({lines.at(lines.gates, 2)} + {lines.at(outer, 2)} + "
        f"reset * ({within}));",
        f"{state}[j] = (1.0f - update) * fresh + update * {state}[j];",
    )


def _rnn(values: GateValues, lines: _Lines, state: str) -> None:
    kernel, program = values.kind.kernel, lines.program
    assert isinstance(kernel, RNNKernel)
    bias = lines.bias(values.bias_ih + values.bias_hh)
    activation = program.helper("tanh" if kernel.tanh else "relu")
    program.loop(values.hidden, f"{state}[j] = {lines.times(0)}{activation}({lines.sum(0, bias)});")


_EQUATIONS: dict[str, Callable[[GateValues, _Lines, str], None]] = {"lstm": _lstm, "gru": _gru, "rnn": _rnn}


def _mlp(cell: Cell, x: str, program: Program) -> str:
    assert isinstance(cell, Feedforward)
    product, bias = _feedforward(cell, x, program)
    total, state = program.member("a", cell.hidden_size, "double"), _states(cell, program)
    program.loop(
        cell.hidden_size,
        f"{total}[j] += (double){product}[j];",
        f"{state}[j] = {program.helper('relu')}((float)({total}[j] / (s->steps + 1.0)) + {bias}[j]);",
    )
    return state


def _conv(cell: Cell, x: str, program: Program) -> str:
    """A ring of sums, one for each of the steps that this input counts for; the oldest is whole."""
    assert isinstance(cell, Feedforward)
    (product, bias), state = _feedforward(cell, x, program), _states(cell, program)
    relu, taps, hidden = program.helper("relu"), cell.TAPS, cell.hidden_size
    if taps == 1:
        program.loop(hidden, f"{state}[j] = {relu}({product}[j] + {bias}[j]);")
        return state
    ring = program.member("r", taps * hidden, zero=False)
    parameters = "float *restrict ring, const float *restrict x, size_t at, int first"
    fill = program.function(
        "taps",
        parameters,
        f"""    size_t j, tap;
    float *row = ring + {(taps - 1)} * {hidden};
    if (first) {{
        /* Before its first step a clip stands still. */
        for (j = 0; j < {hidden}; j++)
            row[j] = {bias}[j] + x[{taps - 1} * {hidden} + j];
        for (tap = {taps - 1}; tap-- > 0;)
            for (j = 0; j < {hidden}; j++)
                ring[tap * {hidden} + j] = ring[(tap + 1) * {hidden} + j] + x[tap * {hidden} + j];
        return;
    }}
    for (tap = 0; tap < {taps - 1}; tap++) {{
        row = ring + (at + tap) % {taps} * {hidden};
        for (j = 0; j < {hidden}; j++)
            row[j] += x[tap * {hidden} + j];
    }}
    row = ring + (at + {taps - 1}) % {taps} * {hidden};
    for (j = 0; j < {hidden}; j++)
        row[j] = {bias}[j] + x[{taps - 1} * {hidden} + j];
""",
    )
    program.taps = taps
    program.step.append(f"    {fill}({ring}, {product}, s->at, s->steps == 0.0);\n")
    program.loop(hidden, f"{state}[j] = {relu}({ring}[s->at * {hidden} + j]);")
    return state


def _feedforward(cell: Feedforward, x: str, program: Program) -> tuple[str, str]:
    """Where the products with the weights are, and the bias."""
    product = Dense(array(cell.weight_ih), program.int8).times(program, x)
    return product, program.constant("b", array(cell.bias_ih))


def _states(cell: Feedforward, program: Program) -> str:
    return program.member("h", cell.hidden_size)


EMITTERS: dict[type[Cell], Callable[[Cell, str, Program], str]] = {
    Projection: _projection,
    FactorisedProjection: _projection,
    CompactFactorised: _gated,
    Identity: lambda cell, x, program: x,
    CompactLSTM: _gated,
    CompactGRU: _gated,
    CompactRNN: _gated,
    CompactReluRNN: _gated,
    MLP: _mlp,
    Conv: _conv,
}
