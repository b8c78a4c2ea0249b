"""What a user can say of a pooling model, and what is refused in one line."""

from __future__ import annotations

from typing import Any

import pytest

from harvib.errors import InputError
from harvib.settings import TrainSettings


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"circulant": "fc,foo"},
            "--circulant fc,foo: no layer is called foo; there are clusters, fc, moe, gating",
        ),
        ({"circulant": "fc,fc"}, "name each layer once"),
        ({"circulant": "gating", "gating": False}, "there is no gating"),
        ({"factors": 3}, "--factors 3: no layer is circulant; say --circulant"),
        ({"circulant_diagonal": "signs"}, "--circulant-diagonal signs: no layer is circulant"),
        ({"circulant": "moe", "factors": 2}, "--circulant moe: has no diagonal and one factor"),
        ({"clusters": "8,x"}, "--clusters 8,x: must be whole numbers above 0"),
        ({"clusters": ""}, "must be whole numbers above 0, one or one a stream"),
        ({"layers": 2}, "--layers 2: not for --model dbof; leave it out"),
        ({"bidirectional": True}, "--bidirectional: not for --model dbof"),
        ({"factorize": "tt"}, "--factorize tt: not for --model dbof"),
        ({"model": "netvlad", "bags": 3}, "--bags 3: only --model dbof has bags"),
        ({"model": "netvlad", "standardize": True}, "say --normalize, or leave it out"),
        (
            {"method": "magnitude", "target_params": 9},
            "--method magnitude: not for --model dbof; say vib or plain",
        ),
        ({"lasso": 0.1}, "not for --model dbof"),
        ({"model": "lstm", "clusters": "8"}, "--clusters 8: only for --model dbof, netvlad, netfv; leave it out"),
        ({"model": "lstm", "gating": False}, "--no-gating: only for --model dbof, netvlad, netfv; leave it out"),
    ],
)
def test_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError) as caught:
        TrainSettings(**{"model": "dbof", **fields})
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_clusters_by_stream_and_circulant_layers() -> None:
    asked = TrainSettings(model="dbof", clusters="8192+4096", circulant="fc+moe", factors=3).pooling
    assert asked is not None
    assert asked.clusters_of(2) == (8192, 4096)
    assert asked.layers == {"fc": "circulant", "moe": "circulant-bare"}
    with pytest.raises(InputError, match=r"--clusters 8192\+4096: 2 numbers for 3 streams"):
        asked.clusters_of(3)
    once = TrainSettings(model="netvlad", circulant="fc", circulant_diagonal="signs").pooling
    assert once is not None
    assert once.clusters_of(2) == (64, 64)
    assert once.layers == {"fc": "circulant-signs"}
    assert TrainSettings().pooling is None
