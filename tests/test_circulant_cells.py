"""Cells with circulant matrices: equal to dense cells of the same matrices and to their compact forms; runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import assert_refused, small_run, train_command
from structured import (
    INPUTS,
    assert_command_trains,
    assert_meets_its_budget_and_resumes,
    dense_twin,
    masked_model,
    spec_of,
)
from test_compact import cell_of, clips_of, difference, set_mask
from test_factorised_cells import FORMS
from torch import nn

from harvib.budget import land
from harvib.cells.factorised import FactorisedCell
from harvib.classifier import to_json
from harvib.compact import compact
from harvib.errors import InputError
from harvib.factorised.circulant_matrix import CIRCULANTS
from harvib.families import spec_from_json
from harvib.models import SequenceClassifier
from harvib.settings import TrainSettings
from harvib.sizes import parameters_of, plain_size, smallest
from harvib.weights import ModelCard, load_model, read_tensors, save_model, write_tensors


@pytest.mark.parametrize("factors", [1, 2])
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("form", sorted(CIRCULANTS))
@pytest.mark.parametrize(("cell", "kind"), [("lstm", nn.LSTM), ("gru", nn.GRU)])
def test_a_circulant_cell_is_the_dense_cell_of_its_matrices(
    cell: str, kind: Callable[..., nn.RNNBase], form: str, hidden: bool, factors: int
) -> None:
    torch.manual_seed(0)
    # 7 units: the blocks of W_hh have a column that no unit stands for.
    spec = spec_of(model=cell, factorize=form, factorize_hidden=hidden, factors=factors, hidden=7)
    ours = cell_of(SequenceClassifier(spec))
    assert isinstance(ours, FactorisedCell)
    twin = dense_twin(ours, kind)
    x = torch.randn(3, 5, INPUTS)
    assert torch.allclose(ours(x), twin(x)[0], atol=1e-6)


@st.composite
def cases(draw: st.DrawFn) -> SequenceClassifier:
    changes = dict(draw(st.sampled_from(FORMS)))
    form = draw(st.sampled_from([*CIRCULANTS, "circulant"]))
    model = masked_model(
        standardize=form == "circulant" and draw(st.booleans()),
        seed=draw(st.integers(0, 2**31)),
        inputs=draw(st.integers(3, 12)),
        select_inputs=draw(st.sampled_from([0, 3, 5])),
        factorize=form,
        factors=draw(st.integers(1, 3)),
        hidden=draw(st.integers(1, 9)),
        **changes,
    )
    kept = st.sampled_from([True, True, True, False])
    for mask in model.masks().values():
        size = mask.mu.numel()
        signs = (torch.rand(size) < 0.5).mul(2).sub(1)
        keep = draw(st.lists(kept, min_size=size, max_size=size))
        set_mask(mask, keep, (0.5 + torch.rand(size)) * signs)
    return model


@given(cases())
@settings(max_examples=150, deadline=None)
def test_compact_equals_masked(model: SequenceClassifier) -> None:
    inputs = model.kept_inputs()
    alive = all(map(sum, model.kept_units())) and all(model.recurrent.kept_reads(inputs))
    if not len(inputs) or not alive:
        with pytest.raises(InputError, match="lower --beta"):
            compact(model)
        return
    small = compact(model)
    assert difference(model, small, [4, 2, 5]) <= 1e-5
    assert small.spec.inputs == len(inputs)
    assert model.spec.factor is not None
    if model.spec.factor.kind == "circulant-signs":
        assert "input" not in model.masks()
        assert len(inputs) == model.spec.inputs
    small.recurrent.use_hard_scales()
    counted = small.parameter_counts()
    assert counted["total"] == sum(weight.numel() for weight in small.parameters())
    assert counted["total"] == parameters_of(small.spec, len(inputs), small.spec.shape, small.spec.reads, False)
    assert counted["total"] <= parameters_of(model.spec, len(inputs), small.spec.shape, small.spec.reads, False)


@given(cases(), st.floats(0, 1), st.booleans())
@settings(max_examples=40, deadline=None)
def test_landing_is_at_most_the_target(model: SequenceClassifier, share: float, factors: bool) -> None:
    least, most = smallest(model.spec, factors), plain_size(model.spec)
    if most - 1 < least:
        return
    target = int(least + share * (most - 1 - least))
    landing = land(model, target, factors, lambda m: (float(len(m.kept_inputs())), 0.0))
    small = compact(model)
    if not factors:
        small.recurrent.use_hard_scales()
    assert small.parameter_counts()["total"] <= landing.parameters <= target


def test_a_dropped_input_costs_an_entry_of_each_block_and_no_more() -> None:
    """8 units of an LSTM on 12 inputs: 32 rows are three blocks of 12."""
    model = masked_model(factorize="circulant", standardize=True)
    assert model.parameter_counts()["input_to_hidden"] == 3 * (12 + 12)
    set_mask(model.masks()["input"], [unit % 2 == 0 for unit in range(INPUTS)])
    for gate in "ifgo":
        set_mask(model.masks()[gate], [True] * 8)
    small = compact(model)
    assert small.parameter_counts()["input_to_hidden"] == 3 * (12 + 6)
    positions = dict(small.recurrent.named_buffers())["layers.0.cells.0.matrix.layer.positions"]
    assert positions.tolist() == [0, 2, 4, 6, 8, 10]


def test_blocks_of_dropped_units_go() -> None:
    """One gate's rows of 8 units on 4 inputs are two blocks; the units of one of them leave."""
    model = masked_model(model="rnn", inputs=4, factorize="circulant")
    set_mask(model.masks()["input"], [True] * 4)
    set_mask(model.masks()["h"], [unit >= 4 for unit in range(8)])
    small = compact(model)
    assert small.parameter_counts()["input_to_hidden"] == 4 + 4
    assert difference(model, small, [4, 2, 5]) <= 1e-5


def test_a_projection_of_selected_inputs_costs_two_weights_an_input() -> None:
    spec = spec_of(4096, select_inputs=512, project=16, factorize="circulant")
    assert SequenceClassifier(spec).parameter_counts()["input_to_hidden"] == 1024 + 4 * 8 * 16
    dense = spec_of(4096, select_inputs=512, project=16)
    assert SequenceClassifier(dense).parameter_counts()["input_to_hidden"] == 8192 + 4 * 8 * 16


def test_a_compact_model_survives_its_file(tmp_path: Path) -> None:
    model = masked_model(factorize="circulant", factorize_hidden=True, factors=2, hidden=5)
    for mask in model.masks().values():
        set_mask(mask, [unit % 3 != 1 for unit in range(mask.mu.numel())])
    small, path = compact(model).eval(), tmp_path / "m.safetensors"
    save_model(path, small, ModelCard(("a", "b", "c", "d"), ""))
    again = load_model(path)[0]
    x, lengths = clips_of(INPUTS, [3, 5])
    assert torch.equal(again(x, lengths), small(x, lengths))
    assert spec_from_json(to_json(small.spec)) == small.spec
    metadata, tensors = read_tensors(path)
    for name in [name for name in tensors if name.endswith("positions")]:
        damaged = {**tensors, name: tensors[name] + 100}
        write_tensors(path, damaged, metadata)
        with pytest.raises(InputError, match="points outside"):
            load_model(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factorize": "circulant", "input_modes": "3x4"}, "neither modes nor ranks"),
        ({"factorize": "circulant", "ranks": "3"}, "neither modes nor ranks"),
        ({"factorize": "tt", "factors": 2}, "--factors 2"),
        ({"factorize": "circulant", "rank": 9}, "--rank 9: a circulant matrix has no ranks"),
        ({"factorize": "sparse", "rank": 9}, "--rank 9: a sparse matrix has no ranks"),
        ({"factorize": "tt", "blocks": 3}, "--blocks 3: only block terms have blocks, not tt"),
        ({"rank": 9}, "--rank: no matrix is structured"),
        ({"blocks": 3}, "--blocks: no matrix is structured"),
        ({"factors": 2}, "--factors: no matrix is structured"),
        ({"factorize": "circulant", "lasso_input": 0.1}, "no groups of weights"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainSettings(**changes)


def test_a_run_meets_its_budget_and_resumes_exactly(tmp_path: Path) -> None:
    assert_meets_its_budget_and_resumes(tmp_path, 130, 0.9, factorize="circulant", project=4, hidden=4)


def test_vib_drops_inputs_of_a_circulant_lstm(tmp_path: Path) -> None:
    report = json.loads((small_run(tmp_path, factorize="circulant") / "report.json").read_text())
    assert 0 < report["compact"]["inputs"] < report["plain"]["inputs"]
    assert report["compaction"]["max_abs_difference"] <= 1e-5
    assert report["compact"]["parameters"]["input_to_hidden"] < report["plain"]["parameters"]["input_to_hidden"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--model", "linear", "--factorize", "circulant", "--standardize"),
        ("--model", "gru", "--factorize", "circulant", "--factorize-hidden", "--factors", "2"),
        ("--select-inputs", "8", "--project", "4", "--factorize", "circulant"),
        ("--factorize", "circulant-signs", "--method", "plain"),
    ],
)
def test_the_command_trains_it(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert_command_trains(tmp_path, CIRCULANTS, "--vib-epochs", "2", *arguments)


def test_wrong_use_is_one_line(tmp_path: Path) -> None:
    small_run(tmp_path, method="plain", name="other", plain_epochs=1)
    arguments = ("--factorize", "circulant-signs", "--standardize")
    result = train_command(tmp_path / "cache.h5", tmp_path / "run", *arguments)
    assert_refused(result, "--standardize does not fold")
