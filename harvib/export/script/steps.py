"""Models one frame at a time: a frame and a state to the logits of the frames so far and the next state.

The state is one row of floats, zeros before the first frame: the count of frames, what each cell leaves to its
next step, and where the mean is read, the sum of what the head would read.
"""

import torch
from torch import Tensor, nn

from harvib.cells.base import Cell
from harvib.cells.conv import Conv
from harvib.cells.factorised import CompactFactorised
from harvib.cells.gated import CompactForm
from harvib.cells.mlp import MLP
from harvib.cells.stack import Layer
from harvib.errors import InputError
from harvib.export.numbers import array
from harvib.export.script.cells import Linear, MeanSoFar, Taps, WrittenOut, script_cell, written_out
from harvib.export.script.weights import Held
from harvib.models import SequenceClassifier
from harvib.unitrows import SMALLEST


class Stepwise(nn.Module):
    """Frame (1, D) and state (1, S) to logits (1, C) and state (1, S), any number of rows in place of one."""

    selection: Tensor | None

    def __init__(self, small: SequenceClassifier, held: Held) -> None:
        super().__init__()
        layers = [layer for layer in small.recurrent.layers if isinstance(layer, Layer)]
        if any(direction for layer in layers for direction, _ in layer.directions()):
            raise InputError(
                "--format executorch goes through a clip frame by frame, and this model also reads it backwards "
                "(--bidirectional): say --format onnx"
            )
        self.normalize, self.mean = small.spec.normalize, small.spec.readout == "mean"
        reads = small.spec.inputs < small.spec.features
        self.register_buffer("selection", small.selection.cpu().clone() if reads else None)
        self.reads = [None if layer.reads is None else layer.reads.cpu().clone() for layer in layers]
        cells = [_step(cell, held) for layer in layers for _, cell in layer.directions()]
        self.cells = nn.ModuleList(cells)
        self.projected = small.recurrent.projected
        self.head = Linear(held(array(small.head.weight)), array(small.head.bias))
        self.widths = [1, *(cell.width for cell in cells), self.mean * small.head.in_features]
        self.width = sum(self.widths)

    def forward(self, frame: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        count, *before, total = state.split(self.widths, dim=1)
        x, after, shown = frame, [count + 1], []
        if self.normalize:
            x = x / x.norm(2.0, -1, keepdim=True).clamp_min(SMALLEST)
        if self.selection is not None:
            x = x.index_select(1, self.selection)
        for cell, reads, own in zip(self.cells, self.reads, before, strict=True):
            x, left = cell(x if reads is None else x.index_select(1, reads), own, count)
            after.append(left)
            shown.append(x)
        read = torch.cat([shown[0], shown[-1]], dim=1) if self.projected else x
        if self.mean:
            total = total + read
            read = total / (count + 1)
        return self.head(read), torch.cat([*after, total], dim=1)


class _Step(nn.Module):
    """One step of a cell: input (B, D), state (B, width) and count (B, 1) to output (B, H) and state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width


class _Alone(_Step):
    """A cell that sees its own step only."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__(0)
        self.cell = cell

    def forward(self, x: Tensor, state: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        return self.cell(x), state


class _Gated(_Step):
    """The state is the cell's own."""

    def __init__(self, cell: WrittenOut) -> None:
        super().__init__(cell.width)
        self.cell = cell

    def forward(self, x: Tensor, state: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        state = self.cell.after(self.cell.inputs(x), self.cell.hh(), state)
        return state[:, : self.cell.hidden], state


class _Mean(_Step):
    """The state is the sum of the products so far."""

    def __init__(self, cell: MeanSoFar) -> None:
        super().__init__(len(cell.bias))
        self.cell = cell

    def forward(self, x: Tensor, state: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        state = state + nn.functional.linear(x, self.cell.weight())
        return (state / (count + 1) + self.cell.bias).relu(), state


class _Taps(_Step):
    """The state is what is already known of the sums of the next steps, one after another."""

    def __init__(self, cell: Taps) -> None:
        super().__init__((cell.taps - 1) * len(cell.bias))
        self.cell = cell

    def forward(self, x: Tensor, state: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        hidden = len(self.cell.bias)
        products = nn.functional.linear(x, self.cell.weight())
        # Before its first step a clip stands still: each step then counts this one for all taps that reach back.
        taps = list(products.split(hidden, dim=1))
        still = [taps[-1]]
        for tap in reversed(taps[:-1]):
            still.insert(0, still[0] + tap)
        moved = torch.cat([state, torch.zeros_like(taps[0])], dim=1) + products
        sums = torch.where(count == 0, torch.cat(still, dim=1), moved)
        return (sums[:, :hidden] + self.cell.bias).relu(), sums[:, hidden:]


def _step(cell: Cell, held: Held) -> _Step:
    if isinstance(cell, CompactForm | CompactFactorised):
        return _Gated(written_out(cell, held))
    made = script_cell(cell, held)
    if isinstance(cell, MLP):
        assert isinstance(made, MeanSoFar)
        return _Mean(made)
    if isinstance(cell, Conv):
        assert isinstance(made, Taps)
        return _Taps(made)
    return _Alone(made)
