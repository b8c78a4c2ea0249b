"""Structured matrices in ONNX: stored as the weights that they are made of, and rebuilt when the model is loaded.

So a file is as small as the weights are, in every scheme that stores floats; the products are those of a dense
matrix, which runtimes hold in memory. A function a class of harvib/factorised, to the name of (rows, columns).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from harvib.errors import InputError
from harvib.export.matrices import FloatMatrix
from harvib.export.numbers import array, array_of_indices
from harvib.export.store import Store
from harvib.factorised import Matrix
from harvib.factorised.circulant_matrix import CirculantMatrix
from harvib.factorised.network import TensorNetwork
from harvib.factorised.sparse import SparseMatrix


def rebuilt(matrix: Matrix, store: Store, part: str) -> str:
    """Put a compact matrix in: the name of its floats (rows, columns). InputError where nobody has written it."""
    emit = next((EMITTERS[kind] for kind in type(matrix).__mro__ if kind in EMITTERS), None)
    if emit is None:
        raise InputError(f"a {matrix.factor.kind} matrix cannot be written as ONNX yet, nor quantised")
    return emit(matrix, store, part)


def picked(matrix: Matrix, store: Store, part: str, rows: np.ndarray) -> FloatMatrix:
    """The same with its rows in this order."""
    dense = rebuilt(matrix, store, part)
    if rows.tolist() != list(range(matrix.rows)):
        dense = store.graph.op("Gather", dense, indices(store, rows), axis=0)
    return FloatMatrix(store.graph, dense)


def indices(store: Store, values: np.ndarray) -> str:
    """Whole numbers as operators take them."""
    return store.graph.op("Cast", store.graph.constant(array_of_indices(values)), to=TensorProto.INT64)


def _sparse(matrix: Matrix, store: Store, part: str) -> str:
    assert isinstance(matrix, SparseMatrix)
    graph, shape = store.graph, store.whole(np.array([matrix.rows, matrix.columns]))
    entries = store.floats(part, array(matrix.weight))
    if matrix.places is None:
        return entries
    size = store.whole(np.array([matrix.rows * matrix.columns]))
    zeros = graph.op("ConstantOfShape", size)
    places = indices(store, matrix.places.cpu().numpy())
    return graph.op("Reshape", graph.op("ScatterElements", zeros, places, entries, axis=0), shape)


def _network(matrix: Matrix, store: Store, part: str) -> str:
    assert isinstance(matrix, TensorNetwork)
    cores = [store.floats(f"{part}.{number}", array(core)) for number, core in enumerate(matrix.cores)]
    whole = store.graph.op("Einsum", *cores, equation=matrix.equation)
    return store.graph.op("Reshape", whole, store.whole(np.array([matrix.rows, matrix.columns])))


def _circulant(matrix: Matrix, store: Store, part: str) -> str:
    """Factor by factor from the inputs on: entry (m, k) of a block is w[(k - m) mod N] times the diagonal's k."""
    assert isinstance(matrix, CirculantMatrix)
    graph, layer = store.graph, matrix.layer
    size = store.whole(np.array(layer.size))
    weights = store.floats(f"{part}.w", array(layer.w))
    found = ""
    for number in range(layer.factors):
        places, diagonal = _range(store, layer.size), layer.d
        if number:
            assert layer.inner is not None
            diagonal = layer.inner[number - 1]
        elif layer.positions is not None:
            places = indices(store, layer.positions.cpu().numpy())
        # Of the last only the rows that there are.
        count = min(matrix.rows, layer.size) if number == layer.factors - 1 else layer.size
        rows = graph.op("Unsqueeze", _range(store, count), store.whole(np.array([1])))
        turned = graph.op("Mod", graph.op("Sub", places, rows), size)
        of_factor = graph.op("Gather", weights, store.whole(np.array(number)), axis=0)
        block = graph.op("Gather", of_factor, turned, axis=1)
        if diagonal is not None:
            name = f"{part}.d{number}"
            if layer.diagonal == "fixed":
                signs = graph.constant(array(diagonal).astype(np.int8), store.named(name))
                by = graph.op("Cast", signs, to=TensorProto.FLOAT)
            else:
                by = store.floats(name, array(diagonal))
            block = graph.op("Mul", block, graph.op("Unsqueeze", by, store.whole(np.array([1]))))
        found = graph.op("MatMul", block, found) if found else block
    stacked = graph.op("Reshape", found, store.whole(np.array([-1, matrix.columns])))
    return graph.op("Slice", stacked, store.whole(np.array([0])), store.whole(np.array([matrix.rows])))


def _range(store: Store, size: int) -> str:
    zero, one = store.whole(np.array(0)), store.whole(np.array(1))
    return store.graph.op("Range", zero, store.whole(np.array(size)), one)


EMITTERS: dict[type[Matrix], Callable[[Matrix, Store, str], str]] = {
    SparseMatrix: _sparse,
    TensorNetwork: _network,
    CirculantMatrix: _circulant,
}
