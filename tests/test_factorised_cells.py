"""Cells with structured matrices: equal to dense cells of the rebuilt matrices, and to their compact forms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from structured import INPUTS, dense_twin, masked_model, spec_of
from test_compact import cell_of, clips_of, difference, set_mask
from torch import nn

from harvib.budget import land
from harvib.cells.factorised import FactorisedCell
from harvib.classifier import to_json
from harvib.compact import compact
from harvib.errors import InputError
from harvib.factorised import KINDS, NETWORKS, Factor
from harvib.families import spec_from_json
from harvib.models import ModelSpec, SequenceClassifier
from harvib.objectives import input_kl
from harvib.settings import TrainSettings
from harvib.sizes import parameters_of, plain_size, smallest
from harvib.stack_ranking import StackRanking
from harvib.weights import ModelCard, load_model, save_model


@pytest.mark.parametrize(
    ("changes", "published"),
    [
        ({"factorize": "none"}, 58_982_400),
        ({"factorize": "tt", "input_modes": "8x20x20x18", "unit_modes": "4x4x4x4"}, 3_360),
        ({"factorize": "bt", "input_modes": "8x20x20x18", "unit_modes": "4x4x4x4"}, 3_392),
        (
            {
                "factorize": "tr",
                "ranks": "5,10" + ",5" * 11,
                "input_modes": "4x2x5x8x6x5x3x2",
                "unit_modes": "4x4x2x4x2",
            },
            1_725,
        ),
    ],
)
def test_input_to_hidden_is_what_papers_print(changes: dict[str, Any], published: int) -> None:
    """57,600 inputs, 256 units: LSTM, TT-LSTM, BT-LSTM, TR-LSTM on UCF11 end to end; no memory for the weights."""
    with torch.device("meta"):
        model = SequenceClassifier(spec_of(57_600, 11, hidden=256, **{"rank": 4, **changes}))
    counts = model.parameter_counts()
    assert counts["input_to_hidden"] == published
    assert counts["recurrent"] == published + 4 * 256 * 256 + 8 * 256


def test_ring_lstm_on_cnn_features_has_the_published_weights() -> None:
    with torch.device("meta"):
        changes = {"factorize": "tr", "input_modes": "64x32", "unit_modes": "32x64", "ranks": "40,60,48,48"}
        model = SequenceClassifier(spec_of(2048, 11, hidden=2048, **changes))
    assert model.parameter_counts()["input_to_hidden"] == 663_552


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("form", sorted(NETWORKS))
@pytest.mark.parametrize(("cell", "kind"), [("lstm", nn.LSTM), ("gru", nn.GRU), ("rnn", nn.RNN)])
def test_a_factorised_cell_is_the_dense_cell_of_its_matrices(
    cell: str, kind: Callable[..., nn.RNNBase], form: str, hidden: bool
) -> None:
    torch.manual_seed(0)
    spec = spec_of(model=cell, factorize=form, factorize_hidden=hidden)
    ours = cell_of(SequenceClassifier(spec))
    assert isinstance(ours, FactorisedCell)
    core = next(ours.matrix.parameters())
    twin = dense_twin(ours, kind)
    x = torch.randn(3, 5, INPUTS)
    states, expected = ours(x), twin(x)[0]
    assert torch.allclose(states, expected, atol=1e-6)
    states.square().sum().backward()
    expected.square().sum().backward()
    # The chain rule from the dense matrix's gradient to the first core's.
    (through,) = torch.autograd.grad(ours.matrix.dense(), core, twin.all_weights[0][0].grad)
    assert core.grad is not None
    assert torch.allclose(core.grad, through, atol=1e-5)


@pytest.mark.parametrize("form", sorted(NETWORKS))
def test_half_precision_is_for_products_with_the_inputs(form: str) -> None:
    """A product runs in autocast's dtype, in training and evaluation; a rebuilt matrix keeps float32."""
    torch.manual_seed(1)
    matrix = KINDS[form](factor_of(form)).masked()
    x = torch.randn(3, 40, INPUTS)
    expected = matrix.eval()(x)
    for training in (False, True):
        with torch.autocast("cpu", torch.bfloat16):
            found, drawn = matrix.train(training)(x), matrix.drawn()
        assert found.dtype == torch.bfloat16
        assert drawn.dtype == torch.float32
        assert (found.float() - expected).abs().max() <= 0.2 * expected.abs().max()
        found.float().sum().backward()


def factor_of(form: str) -> Factor:
    factor = spec_of(factorize=form).factor
    assert factor is not None
    return factor


FORMS: list[dict[str, Any]] = [
    {"model": "lstm"},
    {"model": "gru"},
    {"model": "rnn-relu"},
    {"model": "lstm", "factorize_hidden": True},
    {"model": "gru", "factorize_hidden": True},
    {"model": "lstm", "project": 6},
    {"model": "linear"},
]


@st.composite
def cases(draw: st.DrawFn) -> SequenceClassifier:
    changes = dict(draw(st.sampled_from(FORMS)))
    changes |= {"factorize": draw(st.sampled_from(sorted(NETWORKS))), "rank": draw(st.integers(1, 3))}
    changes |= {"readout": draw(st.sampled_from(["mean", "last"])), "seed": draw(st.integers(0, 2**31))}
    model = masked_model(**changes)
    kept = st.sampled_from([True, True, True, False])
    for mask in model.masks().values():
        size = mask.mu.numel()
        keep = draw(st.lists(kept, min_size=size, max_size=size))
        signs = (torch.rand(size) < 0.5).mul(2).sub(1)
        set_mask(mask, keep, (0.5 + torch.rand(size)) * signs)
    return model


@given(cases(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_compact_equals_masked(model: SequenceClassifier, hard: bool) -> None:
    kept = {name: int(mask.keep().sum()) for name, mask in model.masks().items()}
    bonds = {name: count for name, count in kept.items() if "ih-" in name or "hh-" in name}
    if (
        not all(bonds.values())
        or not all(map(sum, model.kept_units()))
        or not all(model.recurrent.kept_reads(model.kept_inputs()))
    ):
        with pytest.raises(InputError, match=r"lower --beta$"):
            compact(model)
        return
    small = compact(model)
    assert difference(model, small, [4, 2, 5]) <= 1e-5
    assert small.spec.inputs == INPUTS
    for side, factor in {"ih": small.spec.factor, "hh": small.spec.hidden_factor}.items():
        ranks = sorted(rank for rank in (factor.ranks if factor else ()) if rank > 1)
        assert ranks == sorted(count for name, count in bonds.items() if f"{side}-" in name and count > 1)
    counted = small.parameter_counts()
    assert counted["total"] <= parameters_of(small.spec, INPUTS, small.spec.shape, small.spec.reads, True)
    small.recurrent.use_hard_scales()
    counted = small.parameter_counts()
    assert counted["total"] == sum(weight.numel() for weight in small.parameters())
    assert counted["total"] == parameters_of(small.spec, INPUTS, small.spec.shape, small.spec.reads, False)


def test_a_compact_model_survives_its_file(tmp_path: Any) -> None:
    model = masked_model(factorize="tt", factorize_hidden=True, rank=3)
    for name, mask in model.masks().items():
        set_mask(mask, [unit % 3 != 1 for unit in range(mask.mu.numel())], None if "-" in name else torch.ones(8))
    small = compact(model).eval()
    assert small.spec.factor is not None
    assert small.spec.factor.ranks == (2,)
    save_model(tmp_path / "m.safetensors", small, ModelCard(("a", "b", "c", "d"), ""))
    again = load_model(tmp_path / "m.safetensors")[0]
    x, lengths = clips_of(INPUTS, [3, 5])
    assert torch.equal(again(x, lengths), small(x, lengths))
    assert spec_from_json(to_json(small.spec)) == small.spec


def test_masks_of_one_change_nothing_and_draws_are_one_a_clip() -> None:
    model = masked_model(factorize="tr", rank=3, dropout=0.0)
    for mask in model.masks().values():
        set_mask(mask, [True] * mask.mu.numel(), torch.ones(mask.mu.numel()))
    x, lengths = clips_of(INPUTS, [4, 4])
    still = model(x, lengths)
    assert torch.allclose(model.train()(x, lengths), still, atol=1e-5), "log variance -40 is no noise"
    bond = next(mask for name, mask in model.masks().items() if name == "ih-r1")
    with torch.no_grad():
        bond.log_variance.fill_(0.0)
    x[1] = x[0]
    one, other = model(x, lengths)
    assert not torch.allclose(one, other, atol=1e-3)


def test_inputs_are_never_masked_nor_in_the_penalty() -> None:
    model = masked_model(factorize="tt")
    assert "input" not in model.masks()
    assert float(input_kl(model)) == 0
    assert len(model.kept_inputs()) == INPUTS
    assert model.input_mask is not None
    assert not model.input_mask.mu.requires_grad


@given(cases(), st.floats(0, 1), st.booleans())
@settings(max_examples=40, deadline=None)
def test_landing_is_at_most_the_target(model: SequenceClassifier, share: float, factors: bool) -> None:
    least, most = smallest(model.spec, factors), plain_size(model.spec)
    assert most == sum(w.numel() for w in SequenceClassifier(spec_as_plain(model.spec)).parameters())
    target = max(least, int(least + share * (most - 1 - least)))
    landing = land(model, target, factors, lambda m: (float(sum(map(sum, m.kept_units()))), 0.0))
    small = compact(model)
    if not factors:
        small.recurrent.use_hard_scales()
    assert small.parameter_counts()["total"] <= landing.parameters <= target


def spec_as_plain(spec: ModelSpec) -> ModelSpec:
    return dataclasses.replace(spec, state="plain")


def test_a_bond_is_ranked_as_units_are_and_keeps_its_best() -> None:
    model = masked_model(factorize="tt", rank=3)
    ranking = StackRanking(model)
    mask = model.masks()["ih-r1"]
    with torch.no_grad():
        mask.mu.fill_(1.0)
        mask.log_variance.copy_(torch.tensor([3.0, -1.0, 2.0]))
    ranking = StackRanking(model)
    assert ranking.kept_ranks(2.5)["ih"]["r1"].tolist() == [False, True, True]
    assert ranking.kept_ranks(-9.0)["ih"]["r1"].tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factorize": "tt", "layers": 2}, "one layer in one direction"),
        ({"factorize": "tt", "bidirectional": True}, "one layer in one direction"),
        ({"factorize": "tt", "model": "mean"}, "--model mean has no matrix"),
        ({"factorize": "tt", "method": "magnitude", "target_params": 100}, "no groups of weights"),
        ({"factorize": "tt", "lasso": 0.1}, "no groups of weights"),
        ({"factorize": "tt", "project": 4, "factorize_hidden": True}, "--factorize-hidden"),
        ({"factorize": "tt", "input_modes": "3*4"}, "with x between them"),
        ({"ranks": "2"}, "say --factorize"),
        ({"model": "linear", "project": 3}, "cannot stand behind one"),
        ({"model": "linear", "layers": 2}, "no layers"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("*", r"\*")):
        TrainSettings(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factorize": "tt", "input_modes": "3x5"}, "gives 15, not 12 inputs"),
        ({"factorize": "tt", "unit_modes": "2x2x2", "input_modes": "3x4"}, "as many unit modes as input modes"),
        ({"factorize": "tt", "standardize": True}, "--standardize does not fold"),
        ({"factorize": "tt", "ranks": "2,2"}, "has 1 bonds, not 2"),
        ({"factorize": "tt", "inputs": 97}, "97 do not divide into 2 balanced modes; 96 would"),
    ],
)
def test_modes_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        spec_of(**changes)
