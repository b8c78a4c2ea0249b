"""harvib.pooling: a compact model computes what the masked one computes, circulant or not, and fits a file."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pooling_models import clips, masked_model, plain_model
from test_compact import set_mask

from harvib.budget import land
from harvib.classifier import Classifier, to_json
from harvib.compact import compact
from harvib.errors import InputError
from harvib.families import ranking_of, spec_from_json
from harvib.pooling.matrices import LAYERS
from harvib.pooling.model import PoolingClassifier
from harvib.report.run import mask_title
from harvib.weights import ModelCard, load_model, save_model

POOLING = ("dbof", "netvlad", "netfv")


@st.composite
def masked_models(draw: st.DrawFn) -> PoolingClassifier:
    kind, seed = draw(st.sampled_from(POOLING)), draw(st.integers(0, 10_000))
    streams = draw(st.integers(1, 3))
    matrices = st.sampled_from(tuple(LAYERS))
    layers = {part: draw(matrices) for part in ("clusters", "fc", "moe", "gating")}
    several = kind == "dbof" and draw(st.booleans())
    factors = draw(st.integers(1, 2)) if "circulant-bare" not in layers.values() else 1
    model = masked_model(
        kind,
        seed,
        widths=tuple(draw(st.integers(1, 6)) for _ in range(streams)),
        clusters=tuple(draw(st.integers(1, 9)) for _ in range(streams)),
        hidden=draw(st.integers(1, 9)),
        layers=layers,
        factors=factors,
        experts=draw(st.integers(0, 2)),
        gating=draw(st.booleans()),
        bags=3 if several else 0,
        bag_frames=2 if several else 0,
    )
    share = draw(st.sampled_from([0.3, 0.7, 0.95]))
    for mask in model.masks().values():
        set_mask(mask, (torch.rand(mask.mu.numel()) < share).tolist())
    return model


@given(model=masked_models(), lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_compaction_is_exact(model: PoolingClassifier, lengths: list[int]) -> None:
    try:
        small = compact(model)
    except InputError:
        assert not len(model.kept_inputs()) or not any(c and u for c, u in zip(*model.kept_units(), strict=True))
        return
    x, steps = clips(model.spec.features, lengths)
    with torch.no_grad():
        ours, theirs = model(x, steps), small(x, steps)
    assert float((ours - theirs).abs().max() / ours.abs().max().clamp_min(1)) < 1e-9
    told = small.parameter_counts()["total"]
    held = {name: value for name, value in small.state_dict().items() if value.is_floating_point()}
    # Fixed signs are no parameters.
    signs = [
        name for name in held if name.endswith((".d", ".inner")) and name not in dict(small.named_parameters())
    ]
    assert told == sum(value.numel() for name, value in held.items() if name not in signs) == small.spec.size()
    widths = zip(*model.kept_units(), strict=True)
    assert small.kept_units() == tuple(zip(*[pair for pair in widths if all(pair)], strict=True))
    assert spec_from_json(to_json(small.spec)) == small.spec
    small.use_hard_scales()
    assert small.parameter_counts()["total"] == small.spec.size() <= told
    small.spec.build().double().load_state_dict(small.state_dict())


@pytest.mark.parametrize("kind", POOLING)
def test_a_model_that_is_circulant_and_pruned_is_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    layers = {"clusters": "circulant", "fc": "circulant", "moe": "circulant-bare"}
    model = masked_model(kind, 3, widths=(7, 4), clusters=(9, 8), hidden=16, layers=layers, gating=False)
    for mask in model.masks().values():
        set_mask(mask, (torch.rand(mask.mu.numel()) < 0.6).tolist())
    small = compact(model).float()
    assert small.parameter_counts()["total"] < model.parameter_counts()["total"]
    save_model(tmp_path / "m.safetensors", small, ModelCard(tuple("abcd"), "f"))
    again, _ = load_model(tmp_path / "m.safetensors")
    x, steps = clips(11, [3, 5, 1])
    assert torch.equal(again(x, steps), small(x, steps))
    for name, bound in small.spec.bounds().items():
        tensor = small.state_dict().get(name)
        assert tensor is None or int(tensor.max()) < bound
    indices = {name for name, value in small.state_dict().items() if not value.is_floating_point()}
    assert indices <= small.spec.bounds().keys()


def test_what_is_left_of_a_circulant_layer_is_dense_where_that_is_less() -> None:
    layers = {"clusters": "circulant-signs", "fc": "circulant", "moe": "circulant-bare"}
    model = masked_model("dbof", widths=(40,), clusters=(50,), hidden=32, layers=layers, gating=False)
    for name, kept in (("input", 38), ("clusters", 3), ("fc", 9)):
        mask = model.masks()[name]
        set_mask(mask, [number < kept for number in range(mask.mu.numel())])
    model.input_scale.fill_(1)
    small = compact(model)
    stream = small.spec.streams[0]
    # 38 * 3 against 40, and 38 of a scale; 3 * 9 against 50 + 3; 9 * 20 against 2 * 32.
    assert stream.pool.assign.factor.kind == "circulant-signs"
    assert stream.pool.assign.scaled
    assert (stream.fc.factor.kind, stream.fc.factor.size) == ("dense", (9, 3))
    assert small.spec.experts.units.kind == "circulant-bare"
    set_mask(model.masks()["fc"], [number < 2 for number in range(32)])
    assert compact(model).spec.experts.units.kind == "dense"


def test_a_stream_without_an_input_a_cluster_or_a_unit_is_gone() -> None:
    for name in ("clusters.2", "fc.2"):
        model = masked_model()
        set_mask(model.masks()[name], [False] * model.masks()[name].mu.numel())
        small = compact(model)
        assert small.spec.widths == (len(model.kept_inputs()),)
        assert model.kept_units() == ((5, 0), (6, 0))
    model = masked_model()
    set_mask(model.masks()["input"], [False] * 4 + [True] * 3)
    assert compact(model).spec.clusters == (4,)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("clusters.1", "clusters.2"), "no cluster is left"),
        (("fc.1", "fc.2"), "no unit of the FC layer is left"),
        (("clusters.1", "fc.2"), "no stream with an input, a cluster and a unit is left"),
        (("input",), "no input feature is left"),
    ],
)
def test_masks_that_keep_nothing_are_named(names: tuple[str, ...], told: str) -> None:
    model = masked_model()
    for name in names:
        set_mask(model.masks()[name], [False] * model.masks()[name].mu.numel())
    with pytest.raises(InputError, match=told):
        compact(model)
    x, steps = clips(7, [2])
    assert torch.isfinite(model(x, steps)).all()


def test_a_masked_model_starts_as_the_plain_one_and_its_masks_have_titles() -> None:
    model = plain_model("netfv")
    masked = model.masked()
    for mask in masked.masks().values():
        mask.freeze(open_all=True)
    x, steps = clips(7, [2, 4])
    assert torch.allclose(masked.double().eval()(x, steps), model(x, steps), atol=1e-12)
    assert [mask_title(name) for name in masked.masks()] == [
        "clusters of stream 1", "units of the FC layer of stream 1",
        "clusters of stream 2", "units of the FC layer of stream 2",
    ]  # fmt: skip
    assert list(masked_model(widths=(4,), clusters=(5,)).masks()) == ["input", "clusters", "fc"]


def scattered(model: PoolingClassifier, spread: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for mask in model.masks().values():
            mask.mu.copy_(torch.randn(mask.mu.shape, generator=generator))
            mask.log_variance.copy_(spread * torch.randn(mask.mu.shape, generator=generator))


def no_score(model: Classifier) -> tuple[float, float]:
    return 0.0, 0.0


@given(
    kind=st.sampled_from(POOLING),
    clusters=st.sampled_from(tuple(LAYERS)),
    fc=st.sampled_from(tuple(LAYERS)),
    several=st.booleans(),
    factors=st.booleans(),
    share=st.floats(0, 0.999),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=80, deadline=None)
def test_a_landing_stays_within_its_target_and_counts_exactly(
    kind: str, clusters: str, fc: str, several: bool, factors: bool, share: float, seed: int
) -> None:
    sizes = {"widths": (8, 5), "clusters": (9, 6)} if several else {"widths": (8,), "clusters": (9,)}
    model = masked_model(kind, seed, hidden=12, layers={"clusters": clusters, "fc": fc}, **sizes)
    scattered(model, 3.0, seed)
    least, most = model.spec.smallest(factors), model.spec.plain_size()
    target = int(least + share * (most - least))
    if target < least:
        return
    landing = land(model, target, factors, no_score)
    small = compact(model)
    if not factors:
        small.use_hard_scales()
    assert landing.parameters == small.parameter_counts()["total"] <= target


@pytest.mark.parametrize("kind", POOLING)
@pytest.mark.parametrize("fc", ["dense", "circulant"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_landing_comes_within_five_percent(kind: str, fc: str, share: float) -> None:
    clusters = (128, 64) if kind == "dbof" else (16, 12)
    model = masked_model(
        kind, 1, widths=(64, 32), clusters=clusters, hidden=64, classes=10, layers={"fc": fc}, gating=False
    )
    scattered(model, 3.0, 2)
    least, most = model.spec.smallest(False), model.spec.plain_size()
    target = int(least + share * (most - least))
    assert 0.95 * target <= land(model, target, False, no_score).parameters <= target


def test_the_best_stay_and_dropped_ones_can_come_back() -> None:
    model = masked_model("dbof", widths=(9,), clusters=(8,), hidden=8)
    with torch.no_grad():
        model.input_scale.fill_(1)
        for mask in model.masks().values():
            mask.mu.fill_(1.0)
            mask.log_variance.copy_(5.0 + torch.arange(mask.mu.numel()))
    least = copy.deepcopy(model)
    land(model, 300, False, no_score)
    for mask in model.masks().values():
        assert mask.keep().nonzero().flatten().tolist() == list(range(int(mask.keep().sum())))
        assert mask.keep().any()
    assert ranking_of(least).border(300, False) > 0
    smallest = least.spec.smallest(False)
    assert land(least, smallest, False, no_score).parameters == smallest
