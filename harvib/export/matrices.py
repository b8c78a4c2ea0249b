"""How the matrices of a model lie in an ONNX graph, and how they are multiplied by.

Either as floats, which what is stored becomes when the model runs: then any operator can read them. Or as whole
numbers by which whole numbers are multiplied: then only a product can.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from harvib.export.graph import Graph


@dataclass(frozen=True, eq=False)
class Seen:
    """Of what a matrix is multiplied by, on the train clips: the largest absolute value of each input, (K,)."""

    largest: np.ndarray


class Stored(ABC):
    """A matrix (N, K) that stands in a graph."""

    @abstractmethod
    def times(self, graph: Graph, x: str) -> str:
        """The product (..., N) with x (..., K), in the graph that holds the matrix or in a scan's body in it."""


class FloatMatrix(Stored):
    """One whose floats have a name, `dense` (N, K)."""

    def __init__(self, graph: Graph, dense: str) -> None:
        self.dense = dense
        self._transposed = ""
        self._graph = graph

    def times(self, graph: Graph, x: str) -> str:
        # Not read by the product as it is stored: onnxruntime would fuse a product with 4-bit weights into one
        # that rounds x to 8 bits.
        if not self._transposed:
            self._transposed = self._graph.op("Transpose", self.dense, perm=[1, 0])
        return graph.op("MatMul", x, self._transposed)


class Scheme(ABC):
    """A way to store matrices. `ROUNDS_INPUTS`: products are of whole numbers, so there are no floats to read."""

    ROUNDS_INPUTS = False

    @abstractmethod
    def store(self, graph: Graph, name: str, weight: np.ndarray, seen: Seen | None, alike: bool = False) -> Stored:
        """Put (N, K) float32 into a graph.

        `seen` tells of its inputs; None where nobody has looked. `alike`: its columns mean nothing.
        """


class Float32(Scheme):
    """As they are."""

    def store(
        self, graph: Graph, name: str, weight: np.ndarray, seen: Seen | None, alike: bool = False
    ) -> FloatMatrix:
        return FloatMatrix(graph, graph.constant(weight, name))
