"""What one stream of a pooling model is, weights apart, and its exact parameters from these sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harvib.factorised.base import Factor
from harvib.pooling.block import BlockShape
from harvib.pooling.matrices import LEAVE_SCALE, cut

VECTORS = {"dbof": 0, "netvlad": 1, "netfv": 2}
"""How many vectors of D numbers a cluster has, by kind: so many are learned, and so many describe a clip in it.

Without any a cluster is described by one number.
"""


@dataclass(frozen=True)
class PoolShape:
    """The clusters. `assign` reads the frames and says how far each belongs to each cluster.

    `ghosts` of the clusters take part in that, but describe nothing. `scaled`: the descriptions of the others have
    a factor each, which masks have left.
    """

    assign: BlockShape
    ghosts: int = 0
    scaled: bool = False

    def __post_init__(self) -> None:
        known = type(self.ghosts) is int and type(self.scaled) is bool
        if not known or not 0 <= self.ghosts < self.assign.units:
            raise ValueError(f"no such clusters: {self}")

    @property
    def width(self) -> int:
        """Inputs that it reads."""
        return self.assign.inputs

    @property
    def clusters(self) -> int:
        """That describe a clip."""
        return self.assign.units - self.ghosts


@dataclass(frozen=True)
class StreamShape:
    """The clusters of a stream, and the FC layer that reads what is pooled."""

    pool: PoolShape
    fc: BlockShape

    @classmethod
    def fresh(cls, assign: Factor, fc: Factor) -> StreamShape:
        """With these matrices."""
        return cls(PoolShape(BlockShape.fresh(assign)), BlockShape.fresh(fc))

    def check(self, kind: str) -> None:
        """Raise ValueError where a model of this kind has no such stream."""
        pool = self.pool
        if self.fc.inputs != pool.clusters * (VECTORS[kind] * pool.width or 1):
            raise ValueError(f"{kind} gives its FC layer something else to read: {self}")
        if not VECTORS[kind] and (pool.ghosts or pool.scaled):
            raise ValueError(f"{kind} has neither ghosts nor factors of clusters: {self}")

    def size(self, kind: str) -> int:
        """Parameters."""
        pool = self.pool
        vectors = VECTORS[kind] * pool.clusters * pool.width
        return pool.assign.size() + vectors + (pool.clusters if pool.scaled else 0) + self.fc.size()

    def left(self, kind: str, inputs: int, clusters: Tensor, units: Tensor, factors: bool) -> StreamShape:
        """Of a masked one that keeps so many inputs, and these clusters and units, bools, what compaction leaves.

        `factors`: with those that masks leave where they do not fold.
        """
        kept, assign = int(clusters.sum()), self.pool.assign
        if not VECTORS[kind]:
            return StreamShape(
                PoolShape(_cut(assign.factor, clusters, inputs, factors)),
                _cut(self.fc.factor, units, kept, factors),
            )
        # The clusters' factors are on what describes them, so that nothing is left for the FC layer to fold.
        fc = _cut(self.fc.factor, units, kept * VECTORS[kind] * inputs, False)
        return StreamShape(PoolShape(assign, self.pool.clusters - kept, factors), fc)

    def least(self, kind: str, factors: bool, units_stay: bool) -> StreamShape:
        """What is left of a masked one at least: one input where these can go, one cluster and one unit."""
        clusters, units = (torch.zeros(count, dtype=torch.bool) for count in (self.pool.clusters, self.fc.units))
        clusters[: None if units_stay else 1] = True
        units[: None if units_stay else 1] = True
        return self.left(kind, self.pool.width if VECTORS[kind] else 1, clusters, units, factors)

    def bounds(self, name: str) -> dict[str, int]:
        """Of the index tensors of such a stream, by their names."""
        assign = self.pool.assign
        described = {f"{name}.pool.described": assign.units}
        return described | assign.bounds(f"{name}.pool.assign") | self.fc.bounds(f"{name}.fc")

    @classmethod
    def of(cls, fields: dict[str, Any]) -> StreamShape:
        """From the fields as JSON gives them back."""
        pool = PoolShape(**{**fields["pool"], "assign": BlockShape.of(fields["pool"]["assign"])})
        return cls(pool, BlockShape.of(fields["fc"]))


def _cut(factor: Factor, rows: Tensor, columns: int, factors: bool) -> BlockShape:
    """The compact form that keeps these rows, bools, and so many columns."""
    left = cut(factor, rows.nonzero().squeeze(1), columns)
    return BlockShape(left, int(rows.sum()), factors and left.kind in LEAVE_SCALE)
