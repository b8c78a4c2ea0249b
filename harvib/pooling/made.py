"""The plain pooling model that somebody asks for, by its sizes and the kind of each layer's matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harvib.factorised.base import Factor
from harvib.pooling.asked import PARTS
from harvib.pooling.experts import ExpertsShape
from harvib.pooling.matrices import layer_factor
from harvib.pooling.model import PoolingSpec
from harvib.pooling.shape import VECTORS, StreamShape


def pooling_spec(
    kind: str,
    widths: Sequence[int],
    clusters: Sequence[int],
    hidden: int,
    classes: int,
    *,
    layers: Mapping[str, str] | None = None,
    factors: int = 1,
    experts: int = 4,
    gating: bool = True,
    bags: int = 0,
    bag_frames: int = 0,
    dropout: float = 0.0,
    normalize: bool = False,
    features: int | None = None,
) -> PoolingSpec:
    """A plain model of streams of these widths, with so many clusters in each, and FC layers of `hidden` units.

    `layers` gives the kind of a layer's matrices (harvib/pooling/matrices.py) by its name among PARTS, dense
    where it does not; `factors` of a circulant one with diagonals are multiplied. Raises ValueError where there
    is no such model.
    """
    layers = layers or {}
    if unknown := set(layers) - set(PARTS):
        raise ValueError(f"no layer is called {min(unknown)}")
    if kind not in VECTORS or len(widths) != len(clusters):
        raise ValueError(f"no {kind} of {len(widths)} streams with {len(clusters)} numbers of clusters")

    def factor(part: str, rows: int, columns: int) -> Factor:
        chosen = layers.get(part, "dense")
        return layer_factor(chosen, rows, columns, 1 if chosen == "circulant-bare" else factors)

    streams = tuple(
        StreamShape.fresh(
            factor("clusters", count, width), factor("fc", hidden, count * (VECTORS[kind] * width or 1))
        )
        for width, count in zip(widths, clusters, strict=True)
    )
    units, moe = hidden * len(widths), layers.get("moe", "dense")
    return PoolingSpec(
        kind=kind,
        state="plain",
        features=sum(widths) if features is None else features,
        inputs=sum(widths),
        streams=streams,
        experts=ExpertsShape.fresh(moe, units, classes, experts, 1 if moe == "circulant-bare" else factors),
        gating=factor("gating", classes, classes) if gating else None,
        bags=bags,
        bag_frames=bag_frames,
        dropout=dropout,
        normalize=normalize,
    )
