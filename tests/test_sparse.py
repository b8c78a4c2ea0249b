"""Sparse matrices: against dense ones, explicit draws and naive loops; compact forms, budgets, files, runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import structured
import torch
from click.testing import CliRunner
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from small_runs import assert_refused, small_run, train_command
from structured import INPUTS, assert_command_trains, assert_meets_its_budget_and_resumes, spec_of
from test_compact import clips_of, difference, set_mask
from torch import Tensor
from torch.nn.functional import linear

from harvib.budget import TOLERANCE, land, target_of
from harvib.cli import main
from harvib.compact import compact
from harvib.errors import InputError
from harvib.factorised import Factor
from harvib.factorised.sparse import ENTRIES, SparseMatrix, sparse
from harvib.lasso import freeze_masks
from harvib.magnitude import rank_by_norm
from harvib.masks import VIBMask
from harvib.models import SequenceClassifier
from harvib.objectives import gate_kl
from harvib.settings import TrainSettings
from harvib.sizes import parameters_of, plain_size, smallest
from harvib.weights import ModelCard, load_model, read_tensors, save_model, write_tensors

FORMS: list[dict[str, Any]] = [
    {"model": "linear"},
    {"model": "lstm"},
    {"model": "lstm", "project": 6},
    {"model": "gru", "factorize_hidden": True},
    {"model": "lstm", "factorize_hidden": True},
]


def masked_model(**changes: Any) -> SequenceClassifier:
    return structured.masked_model(factorize="sparse", **changes)


def matrix_of(model: SequenceClassifier, side: str = "ih") -> SparseMatrix:
    matrix = model.recurrent.matrices()[side]
    assert isinstance(matrix, SparseMatrix)
    return matrix


def entries_of(matrix: SparseMatrix) -> VIBMask:
    mask = matrix.masks[ENTRIES]
    assert isinstance(mask, VIBMask)
    return mask


def unit_masks(model: SequenceClassifier) -> dict[str, VIBMask]:
    return {name: mask for name, mask in model.masks().items() if not name.endswith(ENTRIES)}


def random_masks(model: SequenceClassifier, entries: float = 0.5, units: float = 0.8) -> None:
    """Keep about these shares, and at least the first of each."""
    for name, mask in model.masks().items():
        keep = torch.rand(mask.mu.numel()) < (entries if name.endswith(ENTRIES) else units)
        keep[0] = True
        set_mask(mask, keep.tolist(), (0.5 + torch.rand(len(keep))) * (torch.rand(len(keep)) - 0.5).sign())


def few(rows: int, columns: int, places: list[int]) -> SparseMatrix:
    matrix = SparseMatrix(Factor("sparse", (rows,), (columns,), (len(places),)))
    assert matrix.places is not None
    matrix.places.copy_(torch.tensor(places))
    return matrix


@given(st.integers(1, 6), st.integers(1, 7), st.integers(0, 2**31), st.data())
@settings(max_examples=60, deadline=None)
def test_the_product_is_a_loop_over_the_entries(rows: int, columns: int, seed: int, data: st.DataObject) -> None:
    assume(rows * columns > 1)
    torch.manual_seed(seed)
    numbers = st.integers(0, rows * columns - 1)
    places = sorted(data.draw(st.sets(numbers, min_size=1, max_size=rows * columns - 1)))
    matrix = few(rows, columns, places)
    assert matrix.parameter_count() == len(places)
    assert matrix.macs(7) == 7 * len(places)
    x = torch.randn(2, 3, columns)
    expected, dense = torch.zeros(2, 3, rows), torch.zeros(rows, columns)
    for weight, place in zip(matrix.weight.tolist(), places, strict=True):
        row, column = divmod(place, columns)
        expected[..., row] += weight * x[..., column]
        dense[row, column] = weight
    assert torch.equal(matrix.dense(), dense)
    for training in (False, True):
        assert torch.allclose(matrix.train(training)(x), expected, atol=1e-5)
    assert torch.allclose(matrix._by_entry(x, torch.tensor(places)), expected, atol=1e-5)
    matrix.zero_grad()
    matrix._by_entry(x, torch.tensor(places)).square().sum().backward()
    by_entry = matrix.weight.grad
    (by_dense,) = torch.autograd.grad(linear(x, matrix.dense()).square().sum(), matrix.weight)
    assert by_entry is not None
    assert torch.allclose(by_entry, by_dense, atol=1e-4)


def test_few_entries_of_a_large_matrix_are_multiplied_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """And many of a small one are not, since that takes longer."""
    taken: list[int] = []
    genuine = SparseMatrix._by_entry

    def note(self: SparseMatrix, x: Tensor, places: Tensor) -> Tensor:
        taken.append(len(places))
        return genuine(self, x, places)

    monkeypatch.setattr(SparseMatrix, "_by_entry", note)
    for rows, columns, entries in ((256, 1024, 300), (8, 64, 300)):
        matrix, x = few(rows, columns, list(range(entries))).eval(), torch.randn(2, 3, columns)
        assert torch.allclose(matrix(x), linear(x, matrix.dense()), atol=1e-4)
    assert taken == [300]


def test_the_plain_form_is_a_dense_matrix_of_its_size() -> None:
    matrix = SparseMatrix(sparse(5, 7))
    x = torch.randn(2, 3, 7)
    assert torch.equal(matrix(x), linear(x, matrix.weight))
    assert matrix.parameter_count() == 35
    assert "places" not in matrix.state_dict()


def test_a_training_draw_has_the_mean_and_variance_of_drawn_matrices() -> None:
    torch.manual_seed(3)
    matrix = SparseMatrix(sparse(4, 6)).masked().train()
    mask = entries_of(matrix)
    with torch.no_grad():
        mask.mu.normal_()
        mask.log_variance.uniform_(-2, 0.5)
    clip, draws = torch.randn(1, 2, 6), 40_000
    with torch.no_grad():
        ours = matrix(clip.expand(draws, -1, -1))
        # A matrix a clip, entry by entry.
        factors = mask.mu + torch.exp(0.5 * mask.log_variance) * torch.randn(draws, 24)
        naive = torch.einsum("nrc,tc->ntr", matrix.weight * factors.view(draws, 4, 6), clip[0])
    scale = naive.std(0)
    assert ((ours.mean(0) - naive.mean(0)).abs() < 0.04 * scale).all()
    assert (ours.std(0) / scale - 1).abs().max() < 0.04
    # One draw a clip and row for all steps; rows are independent, as are clips.
    noise = (ours - ours.mean(0)) / ours.std(0)
    assert torch.allclose(noise[:, 0], noise[:, 1], atol=1e-2)
    assert (torch.corrcoef(noise[:, 0].T) - torch.eye(4)).abs().max() < 0.04


def test_drawn_matrices_of_all_clips_have_the_masks_spread() -> None:
    torch.manual_seed(3)
    matrix = SparseMatrix(sparse(2, 3)).masked().train()
    mask = entries_of(matrix)
    with torch.no_grad():
        mask.log_variance.fill_(math.log(0.25))
        drawn = torch.stack([matrix.drawn() for _ in range(4000)])
    assert torch.allclose(drawn.std(0), 0.5 * matrix.weight.detach().abs(), rtol=0.1)
    assert torch.equal(matrix.eval().drawn(), matrix.dense())


def test_all_weights_and_masks_learn() -> None:
    model = masked_model(dropout=0.0).train()
    x, lengths = clips_of(INPUTS, [4, 4])
    (model(x, lengths).square().sum() + 1e-3 * gate_kl(model)).backward()
    matrix = matrix_of(model)
    for weight in (matrix.weight, entries_of(matrix).mu, entries_of(matrix).log_variance):
        assert weight.grad is not None
        assert torch.isfinite(weight.grad).all()
        assert (weight.grad != 0).all()


@st.composite
def cases(draw: st.DrawFn) -> SequenceClassifier:
    model = masked_model(
        standardize=draw(st.booleans()),
        seed=draw(st.integers(0, 2**31)),
        inputs=draw(st.integers(3, 12)),
        select_inputs=draw(st.sampled_from([0, 3])),
        hidden=draw(st.integers(1, 7)),
        readout=draw(st.sampled_from(["mean", "last"])),
        **draw(st.sampled_from(FORMS)),
    )
    random_masks(model, draw(st.sampled_from([0.05, 0.3, 0.9, 1.0])), draw(st.sampled_from([0.5, 0.9, 1.0])))
    return model


def standing(model: SequenceClassifier) -> dict[str, Tensor]:
    """What of each matrix is kept and read, by a loop: entries of kept rows, and columns that are not constant."""
    (units, *_) = model.kept_units()
    cell = model.recurrent.layers[0].directions()[0][1]  # type: ignore[operator]
    alive = torch.zeros(cell.hidden_size, dtype=torch.bool)
    alive[cell.kept_units(torch.arange(0))] = True
    assert int(alive.sum()) == units[0]
    found = {}
    for side in model.recurrent.matrices():
        matrix = matrix_of(model, side)
        left = torch.zeros(matrix.rows, matrix.columns, dtype=torch.bool)
        for place, keep in enumerate(entries_of(matrix).keep().tolist()):
            row, column = divmod(place, matrix.columns)
            read = model.input_scale[column] != 0 if side == "ih" else alive[column]
            left[row, column] = keep and bool(alive[row % cell.hidden_size]) and bool(read)
        found[side] = left
    return found


@given(cases(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_compact_equals_masked_and_has_what_is_left(model: SequenceClassifier, survives: bool) -> None:
    left = standing(model)
    read = left["ih"].any(0).nonzero().squeeze(1)
    assert model.kept_inputs().tolist() == read.tolist()
    empty = not all(bool(each.any()) for each in left.values())
    if empty or not all(map(sum, model.kept_units())) or not all(model.recurrent.kept_reads(read)):
        with pytest.raises(InputError, match=r"lower --beta$"):
            compact(model)
        return
    small = compact(model)
    assert difference(model, small, [4, 2, 5]) <= 1e-5
    assert small.selection.tolist() == model.selection[read].tolist()
    for side, each in left.items():
        matrix = matrix_of(small, side)
        assert matrix.parameter_count() == int(each.sum()) == int((matrix.dense() != 0).sum())
        assert matrix.macs(5) == 5 * int(each.sum())
    small.recurrent.use_hard_scales()
    counted = small.parameter_counts()["total"]
    assert counted == sum(weight.numel() for weight in small.parameters())
    assert counted == parameters_of(small.spec, len(read), small.spec.shape, small.spec.reads, False)


@given(cases(), st.floats(0, 1), st.booleans())
@settings(max_examples=60, deadline=None)
def test_landing_fills_the_target_with_the_strongest_entries(
    model: SequenceClassifier, share: float, factors: bool
) -> None:
    for mask in model.masks().values():
        with torch.no_grad():
            mask.mu.normal_()
            mask.log_variance.normal_(-2, 3)
    strength = {name: mask.log_alpha().clone() for name, mask in model.masks().items()}
    least, most = smallest(model.spec, factors), plain_size(model.spec)
    assume(most - 1 >= least)
    target = int(least + share * (most - 1 - least))
    landing = land(model, target, factors, lambda m: (0.0, 0.0))
    small = compact(model)
    if not factors:
        small.recurrent.use_hard_scales()
    total = small.parameter_counts()["total"]
    # Factors that masks leave are counted beforehand, and are none where all of them are zero.
    assert total <= landing.parameters <= target
    assert total == landing.parameters or factors
    # No entry that could stay was dropped while a weaker one was kept, and where some were, all the room is taken.
    dropped = 0
    for side, left in standing(model).items():
        scores = strength[next(n for n in strength if n.endswith(f"{side}-{ENTRIES}"))].view_as(left)
        keep, stays = entries_of(matrix_of(model, side)).keep().view_as(left), possible(model, side)
        assert torch.equal(keep, left), "what no row reads is told as dropped"
        dropped += int((stays & ~keep).sum())
        if bool((stays & ~keep).any()):
            assert scores[keep].max() <= scores[stays & ~keep].min()
    assert total == target or dropped == 0 or factors


def possible(model: SequenceClassifier, side: str) -> Tensor:
    """Entries at kept rows and at columns that are read."""
    mask = entries_of(matrix_of(model, side))
    was = mask.log_variance.detach().clone()
    with torch.no_grad():
        mask.log_variance.fill_(-60.0)
        found = standing(model)[side]
        mask.log_variance.copy_(was)
    return found


@pytest.mark.parametrize("share", [0.1, 0.3, 0.7, 0.95])
@pytest.mark.parametrize("form", FORMS)
def test_a_landing_reaches_the_target(form: dict[str, Any], share: float) -> None:
    model = masked_model(inputs=60, hidden=6, standardize=True, **form)
    random_masks(model)
    with torch.no_grad():
        for mask in model.masks().values():
            mask.log_variance.normal_(-2, 3)
    target = int(share * plain_size(model.spec))
    land(model, target, False, lambda m: (0.0, 0.0))
    small = compact(model)
    small.recurrent.use_hard_scales()
    assert (1 - TOLERANCE) * target <= small.parameter_counts()["total"] <= target


def test_magnitude_keeps_the_largest_weights() -> None:
    model = masked_model(model="linear", hidden=5, standardize=True)
    freeze_masks(model, open_all=True)
    rank_by_norm(model)
    matrix = matrix_of(model)
    target = 20 + 5 + 6 * model.spec.classes
    land(model, target, False, lambda m: (0.0, 0.0))
    assert len(unit_masks(model)) == 1
    assert all(bool(mask.keep().all()) for mask in unit_masks(model).values())
    weights = matrix.weight.detach().abs()
    weights[:, 0] = 0  # a constant input
    kept = entries_of(matrix).keep().nonzero()[:, 0].tolist()
    assert kept == sorted(weights.flatten().topk(20).indices.tolist())
    freeze_masks(model)
    assert compact(model).parameter_counts()["total"] == target


def test_magnitude_leaves_units_so_that_a_budget_without_room_for_them_is_refused() -> None:
    spec = spec_of(factorize="sparse", model="linear")
    least = 1 + 8 + 9 * spec.classes
    asked: dict[str, Any] = {"hidden": 8, "model": "linear", "factorize": "sparse"}
    for method, enough in (("magnitude", least), ("vib", 1 + 1 + 2 * spec.classes)):
        assert target_of(TrainSettings(**asked, method=method, target_params=enough), spec) == enough
        with pytest.raises(InputError, match=f"must be from {enough} to"):
            target_of(TrainSettings(**asked, method=method, target_params=enough - 1), spec)


def test_a_compact_model_survives_its_file_and_damaged_places_do_not(tmp_path: Path) -> None:
    model = masked_model(model="gru", factorize_hidden=True, hidden=5)
    random_masks(model)
    small, path = compact(model).eval(), tmp_path / "m.safetensors"
    save_model(path, small, ModelCard(("a", "b", "c", "d"), ""))
    again = load_model(path)[0]
    x, lengths = clips_of(INPUTS, [3, 5])
    assert torch.equal(again(x, lengths), small(x, lengths))
    metadata, tensors = read_tensors(path)
    names = [name for name in tensors if name.endswith("places")]
    assert len(names) == 2
    for name in names:
        good = tensors[name]
        side = "ih" if "matrix" in name else "hh"
        size = matrix_of(small, side).rows * matrix_of(small, side).columns
        beyond, below, twice = good.clone(), good.clone(), good.clone()
        beyond[-1], below[0], twice[1] = size, -1, good[0]
        damages = {"points outside": [beyond, below], "ascending": [twice, good.flip(0)]}
        for message, values in damages.items():
            for value in values:
                write_tensors(path, {**tensors, name: value}, metadata)
                with pytest.raises(InputError, match=message) as caught:
                    load_model(path)
                assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "lasso", "lasso": 0.1}, "--factorize sparse: .*magnitude"),
        ({"method": "movement", "target_params": 90}, "--factorize sparse: .*magnitude"),
        ({"lasso_input": 0.1}, "--factorize sparse"),
        ({"factors": 2}, "--factors 2"),
        ({"model": "conv"}, "--model conv"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainSettings(**{"factorize": "sparse", **changes})


@pytest.mark.parametrize("words", [{"input_modes": "3x4"}, {"unit_modes": "2x4"}, {"ranks": "5"}])
def test_a_sparse_matrix_has_no_modes_and_ranks(words: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="neither modes nor ranks"):
        spec_of(factorize="sparse", **words)


def test_a_run_meets_its_budget_and_resumes_exactly(tmp_path: Path) -> None:
    assert_meets_its_budget_and_resumes(tmp_path, 60, 0.95, factorize="sparse", model="linear", hidden=6)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--select-inputs", "8", "--project", "4", "--factorize", "sparse", "--target-ratio", "3"),
        ("--model", "gru", "--factorize", "sparse", "--factorize-hidden", "--target-ratio", "2"),
        ("--model", "linear", "--factorize", "sparse", "--method", "magnitude", "--target-params", "50"),
        ("--factorize", "sparse", "--method", "plain"),
    ],
)
def test_the_command_trains_it(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    told = assert_command_trains(tmp_path, ["sparse"], "--vib-epochs", "3", "--standardize", *arguments)
    if "--target-params" in arguments:
        assert told == 50


def test_wrong_use_is_one_line(tmp_path: Path) -> None:
    small_run(tmp_path, method="plain", name="other", plain_epochs=1)
    words = ("--factorize", "sparse", "--method", "lasso", "--lasso", "0.1")
    assert_refused(train_command(tmp_path / "cache.h5", tmp_path / "run", *words), "--factorize sparse")


def test_the_report_names_the_masks_of_entries(tmp_path: Path) -> None:
    run = small_run(tmp_path, factorize="sparse", vib_epochs=3, finetune_epochs=1)
    page = tmp_path / "report.html"
    result = CliRunner().invoke(main, ["report", str(run), "--out", str(page)])
    assert result.exit_code == 0, result.output
    assert "Entries of W_ih" in page.read_text()
