"""Recurrent cells: one file a cell with its masked recurrence and its rule of removal, and one line here."""

from __future__ import annotations

from harvib.cells.base import Cell, Compacted, MaskedCell, PlainCell
from harvib.cells.identity import Identity
from harvib.cells.lstm import PlainLSTM

CELLS: dict[str, type[PlainCell]] = {
    "lstm": PlainLSTM,
    "mean": Identity,
}

__all__ = ["CELLS", "Cell", "Compacted", "MaskedCell", "PlainCell"]
