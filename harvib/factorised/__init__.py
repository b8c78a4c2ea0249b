"""Structured matrices for the cells: tensor networks and others, one line a kind here."""

from __future__ import annotations

from functools import lru_cache

import torch

from harvib.factorised.base import Factor, Matrix, Slim
from harvib.factorised.circulant_matrix import CIRCULANTS
from harvib.factorised.network import TensorNetwork
from harvib.factorised.shapes import NETWORKS
from harvib.factorised.sparse import SparseMatrix

KINDS: dict[str, type[Matrix]] = {
    **dict.fromkeys(NETWORKS, TensorNetwork),
    **CIRCULANTS,
    "sparse": SparseMatrix,
}
"""The class of a matrix, which makes a fresh one from its description, by kind."""

RANKED = ("sparse",)
"""Those whose masks drop what has a norm of its own, so that magnitude can rank it."""


@lru_cache(maxsize=4096)
def outline(factor: Factor) -> Matrix:
    """The matrix without memory for its weights: for its sizes and rules."""
    with torch.device("meta"):
        return KINDS[factor.kind](factor)


def is_possible(factor: Factor) -> bool:
    """Whether there is such a matrix, and memory has addresses for its weights."""
    try:
        return factor.kind in KINDS and outline(factor).factor == factor
    except (ValueError, RuntimeError, OverflowError):
        return False


__all__ = ["KINDS", "NETWORKS", "RANKED", "Factor", "Matrix", "Slim", "is_possible", "outline"]
