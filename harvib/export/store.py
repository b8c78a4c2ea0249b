"""Where the weights of one cell go in an ONNX graph: by a scheme, under names that tell what they are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from harvib.errors import InputError
from harvib.export.graph import Graph
from harvib.export.matrices import FloatMatrix, Scheme, Seen, Stored
from harvib.quantize.numbers import in_rows


class Store:
    """A graph, a scheme, and the prefix of the names."""

    def __init__(self, graph: Graph, scheme: Scheme, prefix: str, seen: Mapping[str, Seen] | None) -> None:
        self.graph, self.scheme = graph, scheme
        self._prefix, self._seen = prefix, seen

    def matrix(self, part: str, weight: np.ndarray) -> Stored:
        """Put one in: `part` ih reads the cell's inputs, hh its states."""
        name = self.named(part)
        return self.scheme.store(self.graph, name, weight, None if self._seen is None else self._seen[name])

    def matrix_floats(self, part: str, weight: np.ndarray) -> str:
        """Put one in that no product reads: the name of its floats.

        Raises InputError where the scheme has no floats.
        """
        if self.scheme.ROUNDS_INPUTS:
            raise InputError("a pooling model has no product of whole numbers: say --quantize int8")
        stored = self.scheme.store(self.graph, self.named(part), weight, None)
        assert isinstance(stored, FloatMatrix)
        return stored.dense

    def floats(self, part: str, values: np.ndarray) -> str:
        """Weights of any shape that something else is made of: the name of their floats, of the same shape.

        Raises InputError where the scheme has no floats.
        """
        if self.scheme.ROUNDS_INPUTS:
            raise InputError(
                "a structured matrix has no product of whole numbers: say --to int8-weights --to int4-weights"
            )
        rows = in_rows(values)
        stored = self.scheme.store(self.graph, self.named(part), rows, None, alike=True)
        assert isinstance(stored, FloatMatrix)
        found = self.graph.op("Reshape", stored.dense, self.whole(np.array([-1])))
        if rows.size > values.size:
            found = self.graph.op("Slice", found, self.whole(np.array([0])), self.whole(np.array([values.size])))
        return self.graph.op("Reshape", found, self.whole(np.array(values.shape)))

    def named(self, part: str) -> str:
        """The name of a part."""
        return f"{self._prefix}{part}"

    def bias(self, value: np.ndarray) -> str:
        """Floats in every scheme: they are few, and added, not multiplied."""
        return self.graph.constant(value)

    def whole(self, value: np.ndarray) -> str:
        """Whole numbers that say where something stands."""
        return self.graph.constant(value)
