"""Which cells stand in each layer of a stack, and what makes them."""

from __future__ import annotations

from dataclasses import dataclass

from harvib.cells.base import Maker, PlainCell
from harvib.cells.factorised import FactorisedGates
from harvib.cells.factorised_linear import FactorisedRows
from harvib.cells.gated import PlainForm
from harvib.cells.linear import Projection
from harvib.factorised import Factor


@dataclass(frozen=True)
class Factors:
    """The structured matrices of a model, None for a dense one.

    `inputs` is that which reads the inputs: the projection's where there is one, else W_ih. `hidden` is W_hh.
    """

    inputs: Factor | None = None
    hidden: Factor | None = None


def rows_a_unit(kind: type[PlainCell]) -> int:
    """How many rows of the input matrix a unit of such a cell has; 0 where no structured one can stand for it."""
    if issubclass(kind, PlainForm):
        return len(kind.KIND.gates)
    return 1 if issubclass(kind, Projection) else 0


def makers(kind: type[PlainCell], layers: int, projected: bool, factors: Factors) -> list[Maker]:
    """One a layer; ValueError where such cells cannot have these matrices."""
    first: type[PlainCell] = Projection if projected else kind
    found: list[Maker] = [first, *[kind] * (layers - 1)]
    if factors.inputs is not None:
        found[0] = _factorised(first, factors.inputs, factors.hidden)
    return found


def _factorised(kind: type[PlainCell], factor: Factor, hidden: Factor | None) -> Maker:
    if issubclass(kind, PlainForm):
        return FactorisedGates(kind.KIND, factor, hidden)
    if issubclass(kind, Projection) and hidden is None:
        return FactorisedRows(factor)
    raise ValueError(f"{kind.__name__} cannot have {factor}")
