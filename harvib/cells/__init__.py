"""Recurrent cells: one file a cell with its masked recurrence and its rule of removal, and one line here."""

from __future__ import annotations

from harvib.cells.base import Cell, Compacted, MaskedCell, PlainCell
from harvib.cells.conv import Conv
from harvib.cells.gru import PlainGRU
from harvib.cells.identity import Identity
from harvib.cells.linear import Projection
from harvib.cells.lstm import PlainLSTM
from harvib.cells.makers import Factors, rows_a_unit
from harvib.cells.mlp import MLP
from harvib.cells.rnn import PlainReluRNN, PlainRNN
from harvib.cells.stack import Shape, Stack, shape_of

CELLS: dict[str, type[PlainCell]] = {
    "lstm": PlainLSTM,
    "gru": PlainGRU,
    "rnn": PlainRNN,
    "rnn-relu": PlainReluRNN,
    "conv": Conv,
    "mlp": MLP,
    "mean": Identity,
    "linear": Projection,
}

__all__ = [
    "CELLS",
    "Cell",
    "Compacted",
    "Factors",
    "MaskedCell",
    "PlainCell",
    "Shape",
    "Stack",
    "rows_a_unit",
    "shape_of",
]
