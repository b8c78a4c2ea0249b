"""harvib.pooling: the published parameter counts, of models made by the public way and from sizes alone."""

from __future__ import annotations

import pytest
import torch

from harvib.pooling.made import pooling_spec
from harvib.pooling.matrices import layer_factor, outline
from harvib.pooling.model import PoolingSpec

CLASSES = 3862
CLUSTERS = {"dbof": (8192, 4096), "netvlad": (64, 32), "netfv": (64, 32)}


def published(kind: str, streams: int, **layers: str) -> PoolingSpec:
    chosen = {name: value for name, value in layers.items() if value}
    return pooling_spec(
        kind,
        (1024, 128)[:streams],
        CLUSTERS[kind][:streams],
        512,
        CLASSES,
        layers=chosen,
        gating="moe" not in chosen,
    )


@pytest.mark.parametrize(
    ("kind", "streams", "layers", "total"),
    [
        ("dbof", 2, {}, 65_795_732),
        ("dbof", 2, {"fc": "circulant"}, 59_528_852),
        ("netvlad", 2, {}, 86_333_460),
        ("netvlad", 2, {"fc": "circulant"}, 50_821_140),
        ("netfv", 2, {}, 122_054_676),
        ("netfv", 2, {"fc": "circulant"}, 51_030_036),
        ("dbof", 1, {}, 45_359_764),
        ("dbof", 1, {"clusters": "circulant"}, 36_987_540),
        ("dbof", 1, {"fc": "circulant"}, 41_181_844),
        ("dbof", 1, {"moe": "circulant-bare"}, 12_668_504),
    ],
)
def test_published_totals(kind: str, streams: int, layers: dict[str, str], total: int) -> None:
    spec = published(kind, streams, **layers)
    assert spec.plain_size() == total
    with torch.device("meta"):
        model = spec.build()
    counts = model.parameter_counts()
    assert counts["total"] == total == counts["recurrent"] + counts["head"]
    # What a file holds is what is counted: standardisation and selection are no parameters.
    held = {
        name: value for name, value in model.state_dict().items() if not name.startswith(("input_", "selection"))
    }
    assert sum(value.numel() for value in held.values()) == total


@pytest.mark.parametrize(("factors", "weights"), [(1, 24_576), (3, 73_728), (6, 147_456)])
def test_published_factors_of_the_fc_layer(factors: int, weights: int) -> None:
    spec = pooling_spec(
        "dbof", (1024, 128), (8192, 4096), 512, CLASSES, layers={"fc": "circulant"}, factors=factors
    )
    assert sum(outline(stream.fc.factor).parameter_count() for stream in spec.streams) == weights
    dense = sum(
        outline(layer_factor("dense", *stream.fc.factor.size)).parameter_count() for stream in spec.streams
    )
    assert dense == 6_291_456
    assert spec.plain_size() == 65_795_732 - dense + weights


def test_the_multiply_accumulates_of_a_clip() -> None:
    model = pooling_spec("netvlad", (6, 4), (3, 2), 5, 7, experts=2).build()
    before, head = model.macs(10)
    assert before == 10 * 2 * (6 * 3 + 4 * 2) + 5 * (18 + 8)
    assert head == 10 * 7 * (2 + 3) + 7 * 7


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "lstm"}, {"bags": 2}, {"bags": 2, "bag_frames": 0}, {"widths": (0, 3)}, {"clusters": (4,)},
        {"layers": {"fc": "tt"}}, {"layers": {"head": "dense"}}, {"hidden": 0}, {"features": 3}, {"dropout": 1.0},
        {"layers": {"moe": "circulant"}, "experts": -1}, {"kind": "netvlad", "bags": 2, "bag_frames": 2},
    ],
)  # fmt: skip
def test_no_such_model(wrong: dict[str, object]) -> None:
    told = {"kind": "dbof", "widths": (4, 3), "clusters": (4, 4), "hidden": 3, "classes": 5} | wrong
    with pytest.raises(ValueError):  # noqa: PT011 - any of them
        pooling_spec(**told)  # type: ignore[arg-type]
