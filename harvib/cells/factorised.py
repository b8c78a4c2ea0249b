"""A gated cell whose input matrix is structured, W_hh too where asked for: plain, with masks, and compact.

The equations are those of the cell's kind (harvib/cells/lstm.py and the others) with

    W_ih = the structured matrix, of G H rows, all gates of all units        W_hh dense, or structured as well

What may be removed: units as in the kind, and with them rows and columns of a dense W_hh and biases; and what the
matrices' own masks drop, ranks. A structured W_ih computes all of its rows however many units are left, and the
cell picks theirs; a structured W_hh is rebuilt and its rows and columns picked.

What may be folded: as in the kind, but the output mask's mean into W_hh only where it is dense or can take factors
on its columns. Else it stays as a factor on the states. A gate that the masks shut stays a factor zero: a
structured matrix has no row that could be set to zero.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harvib.cells.base import Cell, Compacted, Maskable
from harvib.cells.gated import GateMasked, Kind, others_than_one
from harvib.factorised import KINDS, Factor, Matrix, outline
from harvib.kernels import Factors, Step, Weights, run, stepper
from harvib.masks import VIBMask

OUTPUT_FACTOR = "state_scale"


@dataclass(frozen=True)
class FactorisedGates:
    """Makes such cells: their kind, and what their matrices are; without `hidden` W_hh is dense."""

    kind: Kind
    factor: Factor
    hidden: Factor | None = None

    def fresh(self, inputs: int, hidden: int) -> FactorisedCell:
        """A plain cell with weights drawn anew."""
        cell = FactorisedCell(self.kind, self.factor, self.hidden)
        if (cell.input_size, cell.hidden_size) != (inputs, hidden):
            raise ValueError(f"{self.factor} is no matrix of a cell of {inputs} inputs and {hidden} units")
        return cell

    def compact(self, inputs: int, hidden: int) -> CompactFactorised:
        """An empty compact cell of so many units, to load weights into."""
        return CompactFactorised(self.kind, self.factor, self.hidden, hidden)

    def size(self, inputs: int, hidden: int, factors: bool = False) -> int:
        """Parameters of such a cell that keeps so many units; `factors`: with those that masks leave in it."""
        gates, count = len(self.kind.gates), outline(self.factor).size(inputs)
        if self.hidden is None:
            count += gates * hidden * hidden
        else:
            count += outline(self.hidden).size(hidden)
        left = len(self.kind.factors) + _keeps_output(self.hidden)
        return count + 2 * gates * hidden + (left * hidden if factors else 0)


class _Cell(Cell):
    """What the forms have in common: `matrix` is W_ih, and `hidden` W_hh, or None beside a dense `weight_hh`."""

    kind: Kind
    matrix: Matrix
    hidden: Matrix | None
    weight_hh: nn.Parameter | None
    bias_ih: nn.Parameter
    bias_hh: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        weights = self._weights()
        return run(self.kind.kernel, self._products(x), weights, self._on_gates(len(x)))

    def stepper(self) -> Step:
        bare = stepper(self.kind.kernel, self._weights(), self._on_gates(1))
        return lambda x, carried: bare(self._products(x), carried)

    def _products(self, x: Tensor) -> Tensor:
        """(..., D) times W_ih, (..., G H)."""
        values: Tensor = self.matrix(x)
        return values

    def _weights(self) -> Weights:
        """Behind those products."""
        weight_hh = self.weight_hh if self.hidden is None else self._hidden(self.hidden)
        assert weight_hh is not None
        return Weights(None, weight_hh, self.bias_ih, self.bias_hh)

    def _hidden(self, matrix: Matrix) -> Tensor:
        """W_hh where it is structured."""
        return matrix.dense()

    def _on_gates(self, batch: int) -> Factors:
        """What the kernel takes: the kind's factors, then that of the output."""
        return [None] * (len(self.kind.factors) + 1)

    def matrices(self) -> dict[str, Matrix]:
        found = {"ih": self.matrix}
        return found if self.hidden is None else found | {"hh": self.hidden}

    def input_weights(self) -> int:
        """Those of the structured matrix."""
        return self.matrix.parameter_count()

    def macs(self, steps: int) -> int:
        """Of W_ih by its own count; a structured W_hh is rebuilt once, then as dense for the kept units."""
        rebuilt = 0 if self.hidden is None else self.hidden.rebuilding_macs()
        return self.matrix.macs(steps) + rebuilt + steps * self.bias_hh.numel() * self.hidden_size

    def parameter_count(self) -> int:
        """Of the matrices as they are held, and two biases."""
        weights = self.matrix.parameter_count() + 2 * self.bias_ih.numel()
        if self.weight_hh is not None:
            return weights + self.weight_hh.numel()
        return weights + sum(matrix.parameter_count() for side, matrix in self.matrices().items() if side == "hh")


class FactorisedCell(_Cell, Maskable):
    """The cell of its kind whose matrices are those that its factors stand for."""

    def __init__(self, kind: Kind, factor: Factor, hidden: Factor | None = None) -> None:
        super().__init__()
        self.kind = kind
        self.matrix = KINDS[factor.kind](factor)
        gates = len(kind.gates)
        self.input_size, self.hidden_size = self.matrix.columns, self.matrix.rows // gates
        bound, rows = self.hidden_size**-0.5, gates * self.hidden_size
        if self.matrix.rows != rows or (hidden is not None and hidden.size != (rows, self.hidden_size)):
            raise ValueError(f"{factor} and {hidden} are no matrices of a cell of {gates} gates")
        self.hidden = None if hidden is None else KINDS[hidden.kind](hidden)
        # Drawn as torch's modules draw them.
        dense = None if hidden is not None else _uniform(bound, rows, self.hidden_size)
        self.register_parameter("weight_hh", dense)
        self.bias_ih, self.bias_hh = _uniform(bound, rows), _uniform(bound, rows)

    def masked(self) -> MaskedFactorised:
        return MaskedFactorised(self)


class MaskedFactorised(_Cell, GateMasked):
    """With a mask of H factors on each gate and those of the matrices.

    Training draws the masks of W_ih once a clip. Those of a structured W_hh it draws once for all clips of a step
    of the optimiser: each clip's own would be a matrix a clip at each step of time.
    """

    def __init__(self, plain: FactorisedCell) -> None:
        super().__init__()
        self.kind = self.KIND = plain.kind
        self.DECIDING, self.OUTPUT = plain.kind.deciding, plain.kind.output  # type: ignore[misc]  # of this cell
        self.input_size, self.hidden_size = plain.input_size, plain.hidden_size
        self.matrix = plain.matrix.masked()
        self.hidden = None if plain.hidden is None else plain.hidden.masked()
        dense = None if plain.weight_hh is None else nn.Parameter(plain.weight_hh.detach().clone())
        self.register_parameter("weight_hh", dense)
        self.bias_ih, self.bias_hh = copy.deepcopy(plain.bias_ih), copy.deepcopy(plain.bias_hh)
        self.masks = nn.ModuleDict({gate: VIBMask(self.hidden_size) for gate in self.KIND.gates})

    def _hidden(self, matrix: Matrix) -> Tensor:
        return matrix.drawn()

    def _on_gates(self, batch: int) -> Factors:
        return self.drawn(batch)

    @torch.no_grad()
    def compacted(self, inputs: Tensor, scale: Tensor, shift: Tensor) -> Compacted:
        """What can fold does; see the module."""
        units = self.kept_units(inputs)
        rows, output = self.rows_of(units), self.hard(self.OUTPUT).double()
        slim = self.matrix.compacted(rows, inputs, scale)
        folds = not _keeps_output(None if self.hidden is None else self.hidden.factor)
        slim_hidden = None
        if self.hidden is not None:
            everything = torch.arange(self.hidden_size, device=units.device)
            reads, by = (units, output) if folds else (everything, torch.ones_like(output))
            slim_hidden = self.hidden.compacted(rows, reads, by)
        hidden = None if slim_hidden is None else slim_hidden.matrix.factor
        cell = CompactFactorised(self.kind, slim.matrix.factor, hidden, len(units)).to(self.bias_ih)
        cell.matrix = slim.matrix
        cell.rows.copy_(slim.rows)
        if slim_hidden is not None:
            cell.hidden = slim_hidden.matrix
            cell.hidden_rows.copy_(slim_hidden.rows)
        if cell.units is not None:
            cell.units.copy_(units)
        if cell.weight_hh is not None and self.weight_hh is not None:
            cell.weight_hh.copy_(self.weight_hh[rows][:, units] * output[units])
        cell.bias_ih.copy_(self.bias_ih[rows] + self.matrix.shifted(shift)[rows])
        cell.bias_hh.copy_(self.bias_hh[rows])
        left = self.left_factors(units) + ([] if folds else [output[units]])
        for factor, value in zip(cell.factors(), left, strict=True):
            factor.copy_(value)
        return Compacted(cell, units, output if folds else torch.ones_like(output), torch.zeros_like(output))


class CompactFactorised(_Cell):
    """K of the units. `rows` and `hidden_rows` (G * K,) are theirs in the products of the structured matrices.

    `units` (K,) are the columns of a structured W_hh that they are, where it has one for each unit that there was.
    A constant factor (K,) for each of the kind's `factors` is a buffer of that name; `state_scale` is one on the
    states, where the output mask folds nowhere.
    """

    rows: Tensor
    hidden_rows: Tensor
    units: Tensor | None

    def __init__(self, kind: Kind, factor: Factor, hidden: Factor | None, hidden_size: int) -> None:
        super().__init__()
        self.kind = kind
        self.matrix = KINDS[factor.kind](factor)
        self.input_size, self.hidden_size = self.matrix.columns, hidden_size
        rows, output_stays = len(kind.gates) * hidden_size, _keeps_output(hidden)
        self.hidden = None if hidden is None else KINDS[hidden.kind](hidden)
        self.register_parameter("weight_hh", None if hidden is not None else _uniform(0.0, rows, hidden_size))
        self.bias_ih, self.bias_hh = _uniform(0.0, rows), _uniform(0.0, rows)
        self.register_buffer("rows", torch.arange(rows))
        self.register_buffer("hidden_rows", None if hidden is None else torch.arange(rows))
        self.register_buffer("units", torch.arange(hidden_size) if output_stays else None)
        self._names = [*kind.factors, *([OUTPUT_FACTOR] if output_stays else [])]
        for name in self._names:
            self.register_buffer(name, torch.ones(hidden_size))

    def factors(self) -> list[Tensor]:
        """In the order of the kind, and then that on the states where there is one."""
        return [self.get_buffer(name) for name in self._names]

    def _products(self, x: Tensor) -> Tensor:
        values: Tensor = self.matrix(x)[..., self.rows]
        return values

    def _on_gates(self, batch: int) -> Factors:
        factors = others_than_one(self.factors())
        return [*factors, *[None] * (len(self.kind.factors) + 1 - len(factors))]

    def _hidden(self, matrix: Matrix) -> Tensor:
        rebuilt = matrix.dense()[self.hidden_rows]
        return rebuilt if self.units is None else rebuilt[:, self.units]

    @torch.no_grad()
    def use_hard_scales(self) -> None:
        """Put one for every factor that is not zero; this changes the function, fine-tuning repairs it."""
        for factor in self.factors():
            factor.copy_((factor != 0).to(factor.dtype))

    def parameter_count(self) -> int:
        """Of the matrices and biases, and the factors where they are not all zero or one."""
        factors = self.factors()
        trivial = all(bool(((factor == 0) | (factor == 1)).all()) for factor in factors)
        return super().parameter_count() + (0 if trivial else len(factors) * self.hidden_size)


def _keeps_output(hidden: Factor | None) -> bool:
    """Whether the output mask's means stay as factors: no structured W_hh takes them that drops no inputs."""
    return hidden is not None and not outline(hidden).drops_inputs


def _uniform(bound: float, *shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))
