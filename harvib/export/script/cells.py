"""The cells in TorchScript, a module a kind: states (B, T, H) of inputs (B, T, D).

A gated cell that is the plain one of torch runs as torch's own recurrence; factors that masks have left have no
place in it, and then the steps are written out. The equations are those of harvib/cells.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

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
from harvib.export.numbers import GateValues, array
from harvib.export.script.weights import Held, Rows, rebuilt
from harvib.kernels import RNNKernel


def script_cell(cell: Cell, held: Held) -> nn.Module:
    """A compact cell as a module that can be scripted; InputError where nobody has written it."""
    # By the class or the nearest above it: a convolution of each width is a class of its own.
    emit = next((EMITTERS[kind] for kind in type(cell).__mro__ if kind in EMITTERS), None)
    if emit is None:
        raise InputError(f"--format torchscript: a {type(cell).__name__} cannot be written yet: say --format onnx")
    return emit(cell, held)


class Linear(nn.Module):
    """W x + b at every step; also the head."""

    bias: Tensor

    def __init__(self, weight: nn.Module, bias: np.ndarray) -> None:
        super().__init__()
        self.weight = weight
        self.register_buffer("bias", torch.from_numpy(bias).clone())

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight(), self.bias)


class Gated(nn.Module):
    """What gated cells have in common: matrices, biases (G*H,), and the factors (H,), None for one everywhere."""

    WIDTH = 1
    """Of what a step leaves to the next, in units."""
    bias_ih: Tensor
    bias_hh: Tensor
    factor_0: Tensor | None
    factor_1: Tensor | None
    factor_2: Tensor | None

    def __init__(self, values: GateValues, ih: nn.Module, hh: nn.Module) -> None:
        super().__init__()
        self.ih, self.hh, self.hidden = ih, hh, values.hidden
        self.width = self.WIDTH * values.hidden
        self.register_buffer("bias_ih", torch.from_numpy(values.bias_ih).clone())
        self.register_buffer("bias_hh", torch.from_numpy(values.bias_hh).clone())
        for number in range(3):
            found = values.factors[number] if number < len(values.factors) else None
            self.register_buffer(f"factor_{number}", None if found is None else torch.from_numpy(found).clone())

    def forward(self, x: Tensor) -> Tensor:
        return x


class Own(Gated):
    """What torch's own recurrences are given."""

    def zeros(self, x: Tensor) -> Tensor:
        """The state before the first step, (1, B, H)."""
        return torch.zeros(1, x.size(0), self.hidden, dtype=x.dtype, device=x.device)

    def weights(self) -> list[Tensor]:
        """In torch's order."""
        return [self.ih(), self.hh(), self.bias_ih, self.bias_hh]


class PlainLSTM(Own):
    """torch's own."""

    def forward(self, x: Tensor) -> Tensor:
        zeros = self.zeros(x)
        return torch.lstm(x, [zeros, zeros], self.weights(), True, 1, 0.0, False, False, True)[0]


class PlainGRU(Own):
    """torch's own."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.gru(x, self.zeros(x), self.weights(), True, 1, 0.0, False, False, True)[0]


class PlainTanh(Own):
    """torch's own nn.RNN."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.rnn_tanh(x, self.zeros(x), self.weights(), True, 1, 0.0, False, False, True)[0]


class PlainRelu(Own):
    """The same with relu."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.rnn_relu(x, self.zeros(x), self.weights(), True, 1, 0.0, False, False, True)[0]


class WrittenOut(Gated):
    """Step by step. A state (B, S) is what a step leaves to the next, the cell's output (B, H) first."""

    def inputs(self, x: Tensor) -> Tensor:
        """What the inputs give to the gates, (..., G*H)."""
        return nn.functional.linear(x, self.ih(), self.bias_ih + self.bias_hh)

    def after(self, given: Tensor, hh: Tensor, state: Tensor) -> Tensor:
        """The state after a step, from what the inputs gave it (B, G*H), W_hh and the state before."""
        return state

    def forward(self, x: Tensor) -> Tensor:
        given, hh = self.inputs(x), self.hh()
        state = torch.zeros(x.size(0), self.width, dtype=x.dtype, device=x.device)
        states: list[Tensor] = []
        for step in range(x.size(1)):
            state = self.after(given[:, step], hh, state)
            states.append(state[:, : self.hidden])
        return torch.stack(states, dim=1)


class LSTM(WrittenOut):
    """Its factors: new, memory, output. A state is the output and the memory."""

    WIDTH = 2

    def after(self, given: Tensor, hh: Tensor, state: Tensor) -> Tensor:
        before, memory = state.chunk(2, dim=1)
        i, f, g, o = (given + nn.functional.linear(before, hh)).chunk(4, dim=1)
        kept, new = f.sigmoid() * memory, i.sigmoid() * g.tanh()
        factor_0, factor_1, factor_2 = self.factor_0, self.factor_1, self.factor_2
        if factor_1 is not None:
            kept = kept * factor_1
        if factor_0 is not None:
            new = new * factor_0
        memory = kept + new
        out = o.sigmoid() * memory.tanh()
        if factor_2 is not None:
            out = out * factor_2
        return torch.cat([out, memory], dim=1)


class GRU(WrittenOut):
    """Its factors: reset, update, output."""

    def inputs(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.ih(), self.bias_ih)

    def after(self, given: Tensor, hh: Tensor, state: Tensor) -> Tensor:
        x_r, x_u, x_n = given.chunk(3, dim=1)
        h_r, h_u, h_n = nn.functional.linear(state, hh, self.bias_hh).chunk(3, dim=1)
        r, u = (x_r + h_r).sigmoid(), (x_u + h_u).sigmoid()
        factor_0, factor_1, factor_2 = self.factor_0, self.factor_1, self.factor_2
        if factor_0 is not None:
            r = r * factor_0
        if factor_1 is not None:
            u = u * factor_1
        n = (x_n + r * h_n).tanh()
        if factor_2 is not None:
            n = n * factor_2
        return (1 - u) * n + u * state


class RNN(WrittenOut):
    """Its factor is on the states."""

    def __init__(self, values: GateValues, ih: nn.Module, hh: nn.Module) -> None:
        super().__init__(values, ih, hh)
        assert isinstance(values.kind.kernel, RNNKernel)
        self.tanh = values.kind.kernel.tanh

    def after(self, given: Tensor, hh: Tensor, state: Tensor) -> Tensor:
        summed = given + nn.functional.linear(state, hh)
        out = summed.tanh() if self.tanh else summed.relu()
        factor_0 = self.factor_0
        if factor_0 is not None:
            out = out * factor_0
        return out


class MeanSoFar(nn.Module):
    """relu of the mean of the products so far, and a bias."""

    bias: Tensor

    def __init__(self, weight: nn.Module, bias: np.ndarray) -> None:
        super().__init__()
        self.weight = weight
        self.register_buffer("bias", torch.from_numpy(bias).clone())

    def forward(self, x: Tensor) -> Tensor:
        products = nn.functional.linear(x, self.weight())
        steps = torch.arange(1, x.size(1) + 1, device=x.device)
        return (products.cumsum(1) / steps[:, None] + self.bias).relu()


class Taps(nn.Module):
    """relu of the sum of the taps, each as many steps later as its number, and a bias."""

    bias: Tensor

    def __init__(self, weight: nn.Module, bias: np.ndarray, taps: int) -> None:
        super().__init__()
        self.weight, self.taps = weight, taps
        self.register_buffer("bias", torch.from_numpy(bias).clone())

    def forward(self, x: Tensor) -> Tensor:
        taps = nn.functional.linear(x, self.weight()).chunk(self.taps, dim=2)
        total = taps[0]
        steps = x.size(1)
        for tap in range(1, self.taps):
            # A clip stands still before its first step.
            before = taps[tap][:, :1].expand(-1, min(tap, steps), -1)
            total = total + torch.cat([before, taps[tap][:, : steps - min(tap, steps)]], dim=1)
        return (total + self.bias).relu()


_PLAIN: dict[str, type[Own]] = {"lstm": PlainLSTM, "gru": PlainGRU}
_WRITTEN_OUT: dict[str, type[WrittenOut]] = {"lstm": LSTM, "gru": GRU, "rnn": RNN}


def _gated(cell: Cell, held: Held) -> nn.Module:
    assert isinstance(cell, CompactForm | CompactFactorised)
    values = GateValues.of(cell)
    if any(factor is not None for factor in values.factors):
        return written_out(cell, held)
    ih, hh = _matrices(cell, held)
    if isinstance(values.kind.kernel, RNNKernel):
        return (PlainTanh if values.kind.kernel.tanh else PlainRelu)(values, ih, hh)
    return _PLAIN[values.kind.name](values, ih, hh)


def written_out(cell: CompactForm | CompactFactorised, held: Held) -> WrittenOut:
    """A gated cell whose steps can be taken one by one."""
    values = GateValues.of(cell)
    return _WRITTEN_OUT[values.kind.name](values, *_matrices(cell, held))


def _matrices(cell: CompactForm | CompactFactorised, held: Held) -> tuple[nn.Module, nn.Module]:
    """W_ih and W_hh."""
    if isinstance(cell, CompactForm):
        ih, hh, *_ = cell.module.all_weights[0]
        return held(array(ih)), held(array(hh))
    reads = _picked(rebuilt(cell.matrix, held), cell.rows, cell.matrix.rows)
    if cell.hidden is None:
        assert cell.weight_hh is not None
        return reads, held(array(cell.weight_hh))
    hidden = _picked(rebuilt(cell.hidden, held), cell.hidden_rows, cell.hidden.rows)
    return reads, hidden if cell.units is None else Rows(hidden, None, cell.units.cpu().clone())


def _picked(matrix: nn.Module, rows: Tensor, count: int) -> nn.Module:
    return matrix if rows.tolist() == list(range(count)) else Rows(matrix, rows.cpu().clone())


def _projection(cell: Cell, held: Held) -> nn.Module:
    assert isinstance(cell, Projection)
    return Linear(held(array(cell.linear.weight)), array(cell.linear.bias))


def _structured_projection(cell: Cell, held: Held) -> nn.Module:
    assert isinstance(cell, FactorisedProjection)
    assert cell.rows is not None
    return Linear(_picked(rebuilt(cell.matrix, held), cell.rows, cell.matrix.rows), array(cell.bias))


def _mlp(cell: Cell, held: Held) -> nn.Module:
    assert isinstance(cell, Feedforward)
    return MeanSoFar(held(array(cell.weight_ih)), array(cell.bias_ih))


def _conv(cell: Cell, held: Held) -> nn.Module:
    assert isinstance(cell, Feedforward)
    return Taps(held(array(cell.weight_ih)), array(cell.bias_ih), cell.TAPS)


EMITTERS: dict[type[Cell], Callable[[Cell, Held], nn.Module]] = {
    Projection: _projection,
    FactorisedProjection: _structured_projection,
    CompactFactorised: _gated,
    Identity: lambda cell, held: nn.Identity(),
    CompactLSTM: _gated,
    CompactGRU: _gated,
    CompactRNN: _gated,
    CompactReluRNN: _gated,
    MLP: _mlp,
    Conv: _conv,
}
