"""harvib.pooling: forward passes against naive loops, bags against all draws, statistics of valid frames alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pooling_models import clips, masked_model, plain_model
from torch import Tensor

from harvib.noise import Share, sharing
from harvib.pooling.dbof import DBoF, expected_maximum
from harvib.pooling.frames import Frames
from harvib.pooling.model import PoolingClassifier
from harvib.pooling.netvlad import NetVLAD
from harvib.pooling.norm import EPSILON, Norm
from harvib.pooling.stream import Stream

POOLING = ("dbof", "netvlad", "netfv")


def array(value: Tensor) -> np.ndarray:
    return value.detach().double().numpy()


def normed(norm: Norm, values: np.ndarray) -> np.ndarray:
    spread = np.sqrt(array(norm.variance) + EPSILON)
    return (values - array(norm.mean)) / spread * array(norm.weight) + array(norm.bias)


def unit(values: np.ndarray) -> np.ndarray:
    length = np.sqrt((values**2).sum())
    return values / length if length > 0 else values


def naive_pool(stream: Stream, frames: np.ndarray) -> np.ndarray:
    """Of one clip (T, D), frame by frame and cluster by cluster."""
    pool = stream.pool
    seen = [normed(pool.assign.norm, array(pool.assign.matrix.dense()) @ frame) for frame in frames]
    mask = np.ones(pool.shape.clusters) if pool.mask is None else array(pool.mask.hard())
    if isinstance(pool, DBoF):
        values = np.clip(np.stack(seen), 0, 6)
        if not pool.bags.count:
            return values.max(0) * mask
        draws = itertools.product(range(len(frames)), repeat=pool.bags.frames)
        return np.mean([values[list(draw)].max(0) for draw in draws], axis=0) * mask
    assert isinstance(pool, NetVLAD)
    centres = array(pool.centres)
    first, second = np.zeros_like(centres), np.zeros_like(centres)
    for frame, scores in zip(frames, seen, strict=True):
        share = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        for cluster, centre in enumerate(centres):
            away = frame - centre
            if "roots" in pool.learned():
                away = away / (array(pool.learned()["roots"])[cluster] ** 2 + 1e-6)
            first[cluster] += share[cluster] * away
            second[cluster] += share[cluster] * (away**2 - 1)
    halves = [first, second][: len(pool.learned())]
    done = [unit(np.stack([mask[k] * unit(row) for k, row in enumerate(half)])) for half in halves]
    return np.stack(done, axis=1).ravel()


def naive(model: PoolingClassifier, clip: np.ndarray) -> np.ndarray:
    """Log-odds of one clip (T, D)."""
    if model.input_mask is not None:
        factor = array(model.input_mask.hard()) * array(model.input_scale)
        clip = (clip - array(model.input_mean)) * factor
    units, first = [], 0
    for stream, width in zip(model.parts(), model.spec.widths, strict=True):
        pooled = naive_pool(stream, clip[:, first : first + width])
        values = np.clip(normed(stream.fc.norm, array(stream.fc.matrix.dense()) @ pooled), 0, 6)
        units.append(values if stream.mask is None else values * array(stream.mask.hard()))
        first += width
    experts, x = model.experts, np.concatenate(units)
    said = array(experts.units.dense()) @ x + array(experts.bias)
    p = 1 / (1 + np.exp(-said))
    if experts.gates is not None:
        classes, count = experts.shape.classes, experts.shape.experts
        gates = np.exp(array(experts.gates.dense()) @ x).reshape(classes, count + 1)
        p = (p.reshape(classes, count) * (gates / gates.sum(1, keepdims=True))[:, :count]).sum(1)
    if model.gating is not None:
        p = p / (1 + np.exp(-normed(model.gating.norm, array(model.gating.matrix.dense()) @ p)))
    return np.log(p) - np.log1p(-p)


@given(
    kind=st.sampled_from(POOLING),
    masked=st.booleans(),
    streams=st.integers(1, 2),
    experts=st.sampled_from([0, 3]),
    gating=st.booleans(),
    bags=st.booleans(),
    layers=st.dictionaries(
        st.sampled_from(["clusters", "fc", "moe", "gating"]),
        st.sampled_from(["circulant", "circulant-signs", "circulant-bare"]),
    ),
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=100, deadline=None)
def test_a_forward_pass_is_that_of_naive_loops_clip_by_clip(
    kind: str,
    masked: bool,
    streams: int,
    experts: int,
    gating: bool,
    bags: bool,
    layers: dict[str, str],
    lengths: list[int],
    seed: int,
) -> None:
    make = masked_model if masked else plain_model
    drawn = {"bags": 2, "bag_frames": 3} if bags and kind == "dbof" else {}
    sizes = {"widths": (4, 3)[:streams], "clusters": (5, 6)[:streams]}
    model = make(kind, seed, layers=layers, experts=experts, gating=gating, **sizes, **drawn)
    x, steps = clips(model.spec.features, lengths, seed)
    odds = array(model(x, steps))
    for row, length in enumerate(lengths):
        wanted = naive(model, array(x[row, :length]))
        assert odds[row] == pytest.approx(wanted, rel=1e-7, abs=1e-7)


@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4), draws=st.integers(1, 4), seed=st.integers(0, 99)
)
@settings(max_examples=50, deadline=None)
def test_the_expected_maximum_is_the_mean_over_all_draws(lengths: list[int], draws: int, seed: int) -> None:
    x, steps = clips(3, lengths, seed)
    values = x.clamp(0, 6)
    found = expected_maximum(values, steps, draws)
    for row, length in enumerate(lengths):
        every = itertools.product(range(length), repeat=draws)
        wanted = torch.stack([values[row, list(draw)].max(0).values for draw in every]).mean(0)
        assert torch.allclose(found[row], wanted, atol=1e-12)
    asked = values.clone().requires_grad_()
    assert torch.allclose(expected_maximum(asked, steps, draws), found, atol=1e-12)


def test_bags_drawn_in_training_have_the_expected_maximum_as_their_mean() -> None:
    model = plain_model("dbof", widths=(4,), clusters=(6,), bags=2000, bag_frames=3)
    pool, (x, steps) = model.parts()[0].pool, clips(4, [5, 2, 7])
    frames = Frames.of(steps, 7)
    torch.manual_seed(0)
    drawn = frames.drawn(6000)
    for row, (first, length) in enumerate(zip((0, 5, 7), (5, 2, 7), strict=True)):
        assert drawn[row].unique().tolist() == list(range(first, first + length))
    assert torch.allclose(pool(x, frames, drawn), pool(x, frames, None), atol=0.1)


def test_shares_of_a_batch_draw_what_one_process_draws() -> None:
    _, steps = clips(2, [3, 9, 1, 5])
    torch.manual_seed(4)
    whole = Frames.of(steps, 9).drawn(8)
    for first, last in ((0, 1), (1, 4)):
        own, before = steps[first:last], int(steps[:first].sum())
        torch.manual_seed(4)
        with sharing(Share(first, 4)):
            drawn = Frames.of(own, 9).drawn(8)
        assert torch.equal(drawn + before, whole[first:last])


@pytest.mark.parametrize("kind", POOLING)
def test_statistics_of_a_batch_are_those_of_its_frames_without_padding(kind: str) -> None:
    model = plain_model(kind, widths=(4,), clusters=(5,))
    x, steps = clips(4, [3, 1, 6])
    norm = model.parts()[0].pool.assign.norm
    norm.mean.zero_()
    norm.variance.zero_()
    model.train()
    odds = model(x, steps)
    rows = torch.cat([x[row, :length] for row, length in enumerate(steps.tolist())])
    values = rows @ model.parts()[0].pool.assign.matrix.dense().T
    assert torch.allclose(norm.mean, 0.1 * values.mean(0), atol=1e-12)
    assert torch.allclose(norm.variance, 0.1 * values.var(0), atol=1e-12)
    # Longer padding, whatever it holds, changes nothing.
    longer = torch.cat([x, torch.full((3, 2, 4), 9.0, dtype=x.dtype)], dim=1)
    assert torch.allclose(model(longer, steps), odds, atol=1e-10)


@pytest.mark.parametrize("kind", POOLING)
def test_a_clip_alone_is_the_clip_in_a_padded_batch(kind: str) -> None:
    drawn = {"bags": 2, "bag_frames": 3} if kind == "dbof" else {}
    model = masked_model(kind, **drawn)
    x, steps = clips(7, [3, 1, 6])
    together = model(x, steps)
    for row, length in enumerate(steps.tolist()):
        alone = model(x[row : row + 1, :length], steps[row : row + 1])
        assert torch.allclose(alone[0], together[row], atol=1e-12)
    # The same twice: nothing is drawn.
    assert torch.equal(model(x, steps), together)


@pytest.mark.parametrize("kind", POOLING)
@pytest.mark.parametrize("training", [True, False])
def test_gradients(kind: str, training: bool) -> None:
    drawn = {"bags": 2, "bag_frames": 2} if kind == "dbof" else {}
    layers = {"fc": "circulant"}
    model = plain_model(kind, 1, widths=(3,), clusters=(3,), hidden=4, classes=2, layers=layers, **drawn)
    x, steps = clips(3, [2, 4, 3])
    model.train(training)
    weights = [weight for weight in model.parameters() if weight.requires_grad]

    def odds(*values: Tensor) -> Tensor:
        torch.manual_seed(0)
        given = dict(zip((name for name, _ in model.named_parameters()), values, strict=True))
        found: Tensor = torch.func.functional_call(model, given, (x, steps))
        return found

    assert torch.autograd.gradcheck(odds, [weight.detach().clone().requires_grad_() for weight in weights])


@pytest.mark.parametrize("kind", POOLING)
def test_half_precision_trains(kind: str) -> None:
    drawn = {"bags": 2, "bag_frames": 2} if kind == "dbof" else {}
    model = masked_model(kind, **drawn).float().train()
    x, steps = clips(7, [2, 4, 3])
    with torch.autocast("cpu", torch.bfloat16):
        odds = model(x.float(), steps)
    odds.float().square().sum().backward()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert all(weight.grad is not None and torch.isfinite(weight.grad).all() for weight in trained)


def test_a_row_a_clip_will_do() -> None:
    for kind in POOLING:
        model = plain_model(kind)
        x, steps = clips(7, [1, 1])
        assert torch.isfinite(model(x, steps)).all()


def test_moving_statistics_begin_with_the_first_batch_and_a_lone_row_moves_nothing() -> None:
    norm, rows = Norm(3).double().train(), torch.randn(3, 8, 3, dtype=torch.float64)
    norm(rows[0])
    assert torch.allclose(norm.mean, rows[0].mean(0))
    assert torch.allclose(norm.variance, rows[0].var(0))
    norm(rows[1])
    assert torch.allclose(norm.mean, 0.9 * rows[0].mean(0) + 0.1 * rows[1].mean(0))
    before = norm.mean.clone()
    alone = norm(rows[2, :1])
    assert torch.equal(norm.mean, before)
    assert torch.equal(norm.eval()(rows[2, :1]), alone)
    # One that is loaded is not fresh.
    again = Norm(3).double()
    again.load_state_dict(norm.state_dict())
    again.train()(rows[2])
    assert torch.allclose(again.mean, 0.9 * before + 0.1 * rows[2].mean(0))
