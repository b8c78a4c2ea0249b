"""Weights as TorchScript holds them: modules without arguments that give floats, stored as such or in 8 bits.

A structured matrix is stored as the weights that it is made of and rebuilt at each call, once for all its steps.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from harvib.errors import InputError
from harvib.export.numbers import array
from harvib.factorised import Matrix
from harvib.factorised.circulant_matrix import CirculantMatrix
from harvib.factorised.network import TensorNetwork
from harvib.factorised.sparse import SparseMatrix
from harvib.pooling.matrices import Dense
from harvib.quantize.numbers import Quantized, by_rows, in_rows


class Held(Protocol):
    """How a matrix is stored: a module that gives its floats. `alike`: its columns mean nothing."""

    def __call__(self, values: np.ndarray, alike: bool = False) -> nn.Module: ...


class Floats(nn.Module):
    """As they are."""

    values: Tensor

    def __init__(self, values: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("values", torch.from_numpy(values).clone())

    def forward(self) -> Tensor:
        return self.values


class Int8(nn.Module):
    """Codes, a step a row and a power of two a column; see `harvib.quantize.numbers`."""

    codes: Tensor
    steps: Tensor
    halvings: Tensor

    def __init__(self, found: Quantized) -> None:
        super().__init__()
        self.register_buffer("codes", torch.from_numpy(found.codes))
        self.register_buffer("steps", torch.from_numpy(found.steps))
        self.register_buffer("halvings", torch.from_numpy(found.halvings))

    def forward(self) -> Tensor:
        return self.codes.float() * self.steps * torch.pow(0.5, self.halvings.float())


class Shaped(nn.Module):
    """Weights that stand in rows of another width."""

    def __init__(self, held: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.held, self.shape, self.count = held, list(shape), int(np.prod(shape))

    def forward(self) -> Tensor:
        return self.held().flatten()[: self.count].view(self.shape)


class Rows(nn.Module):
    """Some rows of a matrix, and of these some columns; None for all."""

    def __init__(self, held: nn.Module, rows: Tensor | None, columns: Tensor | None = None) -> None:
        super().__init__()
        self.held = held
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns)

    def forward(self) -> Tensor:
        found = self.held()
        rows = self.rows
        if rows is not None:
            found = found.index_select(0, rows)
        columns = self.columns
        if columns is not None:
            found = found.index_select(1, columns)
        return found


class Sparse(nn.Module):
    """Entries at their places, row by row."""

    places: Tensor

    def __init__(self, held: nn.Module, places: Tensor, rows: int, columns: int) -> None:
        super().__init__()
        self.held, self.rows, self.columns = held, rows, columns
        self.register_buffer("places", places)

    def forward(self) -> Tensor:
        entries = self.held()
        whole = torch.zeros(self.rows * self.columns, dtype=entries.dtype, device=entries.device)
        return whole.index_copy(0, self.places.long(), entries).view(self.rows, self.columns)


class Network(nn.Module):
    """The einsum of cores."""

    def __init__(self, cores: list[nn.Module], equation: str, rows: int, columns: int) -> None:
        super().__init__()
        self.cores, self.equation, self.rows, self.columns = nn.ModuleList(cores), equation, rows, columns

    def forward(self) -> Tensor:
        cores: list[Tensor] = []
        for core in self.cores:
            cores.append(core())
        return torch.einsum(self.equation, cores).reshape(self.rows, self.columns)


class Turned(nn.Module):
    """A circulant matrix, factor by factor from the inputs on, as harvib/export/onnx_matrices.py has it."""

    places: Tensor
    inner: Tensor

    def __init__(self, weights: nn.Module, diagonals: list[nn.Module], places: list[Tensor], rows: int) -> None:
        super().__init__()
        self.weights, self.rows = weights, rows
        self.diagonals = nn.ModuleList(diagonals)
        self.register_buffer("places", places[0])
        self.register_buffer("inner", places[-1])

    def forward(self) -> Tensor:
        weights = self.weights()
        size = weights.size(2)
        last = weights.size(0) - 1
        found = torch.zeros(0)
        for number, diagonal in enumerate(self.diagonals):
            count = min(self.rows, size) if number == last else size
            places = self.inner if number else self.places
            at = torch.remainder(places.long() - torch.arange(count, device=places.device)[:, None], size)
            block = weights[number][:, at] * diagonal()[:, None]
            found = torch.matmul(block, found) if number else block
        return found.flatten(0, 1)[: self.rows]


def floats(values: np.ndarray, alike: bool = False) -> nn.Module:
    """As they are."""
    return Floats(values)


def int8(values: np.ndarray, alike: bool = False) -> nn.Module:
    """In 8 bits."""
    return Int8(by_rows(values, alike))


def rebuilt(matrix: Matrix, held: Held) -> nn.Module:
    """What gives the floats of a compact matrix, (rows, columns). InputError where nobody has written it."""
    emit = next((EMITTERS[kind] for kind in type(matrix).__mro__ if kind in EMITTERS), None)
    if emit is None:
        raise InputError(f"--format torchscript: a {matrix.factor.kind} matrix cannot be written yet")
    return emit(matrix, held)


def _loose(values: Tensor, held: Held) -> nn.Module:
    """Of weights that are no matrix, whatever their shape."""
    return Shaped(held(in_rows(array(values)), alike=True), tuple(values.shape))


def _dense(matrix: Matrix, held: Held) -> nn.Module:
    return held(array(matrix.dense()))


def _sparse(matrix: Matrix, held: Held) -> nn.Module:
    assert isinstance(matrix, SparseMatrix)
    if matrix.places is None:
        return _loose(matrix.weight, held)
    return Sparse(_loose(matrix.weight, held), matrix.places.clone(), matrix.rows, matrix.columns)


def _network(matrix: Matrix, held: Held) -> nn.Module:
    assert isinstance(matrix, TensorNetwork)
    cores = [_loose(core, held) for core in matrix.cores]
    return Network(cores, matrix.equation, matrix.rows, matrix.columns)


def _circulant(matrix: Matrix, held: Held) -> nn.Module:
    assert isinstance(matrix, CirculantMatrix)
    layer = matrix.layer
    everywhere = torch.arange(layer.size, dtype=torch.int32)
    first = everywhere if layer.positions is None else layer.positions.cpu().int()
    diagonals: list[nn.Module] = []
    for number in range(layer.factors):
        diagonal = layer.d if number == 0 else None if layer.inner is None else layer.inner[number - 1]
        if diagonal is None:
            # As wide as what it multiplies, so that one rule serves all.
            diagonals.append(Floats(np.ones((1, 1), np.float32)))
        elif layer.diagonal == "fixed":
            diagonals.append(Signs(array(diagonal)))
        else:
            diagonals.append(_loose(diagonal, held))
    return Turned(_loose(layer.w, held), diagonals, [first, everywhere], matrix.rows)


class Signs(nn.Module):
    """Of 1 and -1, a byte each."""

    values: Tensor

    def __init__(self, values: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("values", torch.from_numpy(values.astype(np.int8)))

    def forward(self) -> Tensor:
        return self.values.float()


EMITTERS: dict[type[Matrix], Callable[[Matrix, Held], nn.Module]] = {
    Dense: _dense,
    SparseMatrix: _sparse,
    TensorNetwork: _network,
    CirculantMatrix: _circulant,
}
