"""harvib.lasso: groups against loops over every weight, zeros that really rest at zero, and exact compaction."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from caches import TEST_SPLIT, made_up_cache
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import assert_refused, train_command
from test_compact import ALONE, difference, masked_model, set_mask

from harvib import lasso, methods
from harvib.budget import land
from harvib.cells import MaskedCell
from harvib.cells.stack import Layer
from harvib.checkpoint import Checkpoint
from harvib.compact import compact
from harvib.errors import InputError
from harvib.lasso import GroupLasso, drop_zero_groups, freeze_masks, squared_norms
from harvib.models import SequenceClassifier
from harvib.rundir import RunFolder
from harvib.settings import TrainSettings
from harvib.stack_ranking import deciding

CPU = torch.device("cpu")
OUTPUT = {"lstm": "o", "gru": "n", "rnn": "h", "rnn-relu": "h", "conv": "h", "mlp": "h"}
GATES = {"lstm": 4, "gru": 3, "rnn": 1, "rnn-relu": 1, "conv": 3, "mlp": 1}
"""Blocks of rows in the input weights; of a convolution its taps."""
FIELDS: dict[str, Any] = {
    "hidden": 8, "plain_epochs": 4, "vib_epochs": 6, "lasso_epochs": 10, "finetune_epochs": 2, "batch": 8,
    "lr": 2e-2, "vib_lr": 2e-3, "lasso_lr": 2e-2, "mask_lr": 0.1, "distill": 0.0, "standardize": True,
    "weight_decay": 0.0, "validation": 0.3,
}  # fmt: skip


def cells_of(model: SequenceClassifier) -> list[list[Any]]:
    found = []
    for layer in model.recurrent.layers:
        assert isinstance(layer, Layer)
        found.append([cell for _, cell in layer.directions() if isinstance(cell, MaskedCell)])
    return found


Place = tuple[torch.Tensor, int, int, float]
"""A weight, row and column in it, and the mask mean that multiplies what the column reads."""


def naive_groups(model: SequenceClassifier) -> tuple[list[list[Place]], list[list[Place]]]:
    """The weights of each input, and of each unit (layer after layer, forward first), found one by one."""
    assert model.input_mask is not None
    kind, cells, projected = model.spec.cell, cells_of(model), model.spec.projected

    def recurs(layer: int) -> bool:
        return kind not in ("conv", "mlp") and not (projected and layer == 0)

    def gates_of(layer: int) -> int:
        return 1 if projected and layer == 0 else GATES[kind]

    def mu_of(cell: Any, layer: int) -> torch.Tensor:
        mu: torch.Tensor = cell.masks["p" if projected and layer == 0 else OUTPUT[kind]].mu
        return mu

    inputs: list[list[Place]] = [[] for _ in range(model.spec.inputs)]
    units: list[list[Place]] = []
    if kind == "mean":
        for k in range(model.spec.inputs):
            for row in range(model.spec.classes):
                inputs[k].append((model.head.weight, row, k, float(model.input_mask.mu[k].detach())))
        return inputs, []
    for number, layer in enumerate(cells):
        before = 0
        for cell in layer:
            size, mu = cell.hidden_size, mu_of(cell, number)
            if number == 0:
                below = model.input_mask.mu
            else:
                under = [mu_of(c, number - 1) for c in cells[number - 1]]
                between: Any = model.recurrent.between[number - 1]
                below = torch.cat(under) * between.mu
            if number == 0:
                for k in range(cell.input_size):
                    inputs[k] += [
                        (cell.weight_ih, row, k, float(below[k].detach()))
                        for row in range(gates_of(number) * size)
                    ]
            for j in range(size):
                places: dict[tuple[int, int, int], Place] = {}

                def add(weight: torch.Tensor, row: int, column: int, factor: Any, places: Any = places) -> None:
                    places[(id(weight), row, column)] = (weight, row, column, float(factor.detach()))

                for gate in range(gates_of(number)):
                    row = gate * size + j
                    for k in range(cell.input_size):
                        add(cell.weight_ih, row, k, below[k])
                    for k in range(size if recurs(number) else 0):
                        add(cell.weight_hh, row, k, mu[k])
                for row in range(GATES[kind] * size if recurs(number) else 0):
                    add(cell.weight_hh, row, j, mu[j])
                if number + 1 < len(cells):
                    above: Any = model.recurrent.between[number]
                    for reader in cells[number + 1]:
                        for row in range(GATES[kind] * reader.hidden_size):
                            add(reader.weight_ih, row, before + j, mu[j] * above.mu[before + j])
                if number + 1 == len(cells) or (projected and number == 0):
                    ahead = sum(c.hidden_size for c in cells[0]) if projected and number else 0
                    for row in range(model.spec.classes):
                        add(model.head.weight, row, ahead + before + j, mu[j])
                units.append(list(places.values()))
            before += size
    return inputs, units


def norm_of(places: list[Place]) -> float:
    return math.fsum((float(weight[row, column].detach()) * factor) ** 2 for weight, row, column, factor in places)


MODELS = {
    "cell": st.sampled_from(["lstm", "gru", "rnn", "rnn-relu", "conv", "mlp", "mean"]),
    "layers": st.integers(1, 3),
    "bidirectional": st.booleans(),
    "project": st.sampled_from([0, 4]),
    "seed": st.integers(0, 1000),
}


def a_model(cell: str, layers: int, bidirectional: bool, project: int, seed: int) -> SequenceClassifier:
    if cell in ALONE:
        layers, bidirectional, project = 1, False, 0
    return masked_model(cell, 5, 5, 3, seed=seed, layers=layers, bidirectional=bidirectional, project=project)


@given(st.fixed_dictionaries(MODELS))
@settings(max_examples=25, deadline=None)
def test_groups_hold_the_weights_that_a_loop_finds(fields: dict[str, Any]) -> None:
    model = a_model(**fields)
    inputs, units = naive_groups(model)
    groups = squared_norms(model)
    ours = [float(value.detach()) for layer in groups.units for part in layer for value in part]
    assert groups.inputs.tolist() == pytest.approx([norm_of(places) for places in inputs], rel=1e-4)
    assert ours == pytest.approx([norm_of(places) for places in units], rel=1e-4)
    expected = 0.3 * sum(math.sqrt(norm_of(p) + 1e-8) for p in units)
    expected += 0.7 * sum(math.sqrt(norm_of(p) + 1e-8) for p in inputs)
    assert float(GroupLasso(0.3, 0.7, 0.01).penalty(model).detach()) == pytest.approx(expected, rel=1e-4)
    assert float(GroupLasso(0.3, 0.7).penalty(model).detach()) == 0, "the proximal form has no term in the loss"


@given(st.fixed_dictionaries(MODELS), st.floats(0, 0.9))
@settings(max_examples=60, deadline=None)
def test_zero_groups_leave_without_changing_a_logit(fields: dict[str, Any], share: float) -> None:
    # In float64: where factors above one make a GRU's states grow, rounding in float32 passes 1e-5 by itself.
    model = a_model(**fields).double()
    inputs, units = naive_groups(model)
    zero_inputs = (torch.rand(len(inputs)) < share).tolist()
    zero_units = (torch.rand(len(units)) < share).tolist()
    zero_inputs[0] = False
    for number in range(0, len(zero_units), 3):
        zero_units[number] = False  # the first unit of each cell
    with torch.no_grad():
        for groups, zero in ((inputs, zero_inputs), (units, zero_units)):
            for places in (places for places, gone in zip(groups, zero, strict=True) if gone):
                for weight, row, column, _ in places:
                    weight[row, column] = 0
    before = copy.deepcopy(model)
    drop_zero_groups(model)
    small = compact(model)
    assert len(model.kept_inputs()) == zero_inputs.count(False)
    assert small.spec.inputs == zero_inputs.count(False)
    if units:
        assert sum(map(sum, small.spec.shape)) == zero_units.count(False)
    assert difference(before, small, [2, 5]) <= 1e-5


def test_a_threshold_zeroes_what_is_below_it_and_nothing_else() -> None:
    model = masked_model("lstm", 12, 12, 8)
    freeze_masks(model, open_all=True)
    norms = squared_norms(model)
    middle = float(norms.inputs.detach().sqrt().median())
    smaller = (norms.inputs.sqrt() < middle).tolist()
    GroupLasso(0.0, 1.0, middle).finish(model)
    assert (~model.masks()["input"].keep()).tolist() == smaller
    assert model.kept_units() == ((8,),)


@pytest.mark.parametrize(("scale", "mean"), [(1e-3, 1.0), (1.0, 1.0), (1e3, 1.0), (1.0, 3.0)])
def test_a_proximal_step_rests_at_zero_iff_the_gradient_is_below_the_strength(scale: float, mean: float) -> None:
    """A linear loss g.w (+ w^2) on the head: input k dies iff |g_k| < strength, whatever the scale of the loss."""
    model = masked_model("mean", 6, 6, 6, standardize=False)
    freeze_masks(model, open_all=True)
    with torch.no_grad():
        model.masks()["input"].mu.fill_(mean)
    optimizer = torch.optim.AdamW([{"params": list(model.parameters()), "lr": 1e-2, "weight_decay": 0.0}])
    sizes = torch.tensor([0.2, 0.5, 0.8, 1.25, 2.0, 5.0])
    for _ in range(1500):
        weight = mean * model.head.weight
        loss = scale * ((weight * sizes / 2).sum() + 0.5 * weight.square().sum())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        GroupLasso(0.0, scale).after_step(model, optimizer)
    # Four classes: the gradient of a column at zero has the norm sqrt(4) * size / 2.
    assert (squared_norms(model).inputs == 0).tolist() == [True, True, True, False, False, False]
    alive = mean * model.head.weight.detach().norm(dim=0)[3:]
    assert alive.tolist() == pytest.approx((sizes[3:] - 1).tolist(), rel=0.03)


def test_a_proximal_step_zeroes_small_groups_at_small_rates_too() -> None:
    """The epsilon inside the norm of the penalty must not keep them alive: rates fall to zero in every stage."""
    model = masked_model("mean", 6, 6, 6, standardize=False)
    freeze_masks(model, open_all=True)
    with torch.no_grad():
        model.head.weight.fill_(1e-6)
    optimizer = torch.optim.AdamW([{"params": list(model.parameters()), "lr": 1e-6, "weight_decay": 0.0}])
    (model.head.weight.sum() + model.head.bias.sum()).backward()
    optimizer.step()
    GroupLasso(0.0, 10.0).after_step(model, optimizer)
    assert (model.head.weight == 0).all()


def test_a_unit_that_shrinks_counts_what_it_reads_of_itself_once() -> None:
    model = masked_model("lstm", 4, 4, 3)
    before = cells_of(model)[0][0].weight_hh.detach().clone()
    lasso._scale(model, lasso.Groups(torch.ones(4), [[torch.tensor([0.5, 1.0, 0.5])]]))
    shares = (cells_of(model)[0][0].weight_hh.detach() / before).view(4, 3, 3)
    expected = torch.tensor([[0.5, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 0.5]])
    assert all(torch.allclose(gate, expected) for gate in shares)


def test_a_mean_that_grows_while_weights_shrink_gains_nothing() -> None:
    model = masked_model("lstm", 6, 6, 5)
    before = squared_norms(model)
    with torch.no_grad():
        assert model.input_mask is not None
        model.input_mask.mu.mul_(10)
        for row in cells_of(model)[0]:
            row.weight_ih.div_(10)
    assert squared_norms(model).inputs.tolist() == pytest.approx(before.inputs.tolist(), rel=1e-4)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up_cache(tmp_path_factory.mktemp("cache") / "c.h5", dim=24)


def train(cache: Path, folder: Path, **fields: Any) -> dict[str, Any]:
    return methods.train(cache, TEST_SPLIT, TrainSettings(**{**FIELDS, **fields}), folder, device=CPU)


WAYS: list[dict[str, Any]] = [
    {"method": "lasso", "lasso": 0.05, "lasso_input": 0.05},
    {"method": "lasso", "lasso_input": 0.2, "model": "mean"},
    {"method": "lasso", "lasso_input": 0.2, "lasso": 0.05, "model": "mlp"},
    {"method": "lasso", "lasso_input": 0.1, "lasso": 0.05, "model": "conv"},
    {"method": "lasso", "lasso": 0.05, "lasso_input": 0.05, "lasso_threshold": 0.5, "lasso_epochs": 20},
    {"method": "lasso", "lasso": 0.02, "lasso_input": 0.05, "model": "gru", "layers": 2, "bidirectional": True},
    {"lasso": 0.05, "lasso_input": 0.1, "beta": 1e-4, "beta_input": 1e-4, "vib_lr": 2e-2},
    {"lasso": 0.05, "lasso_input": 0.1, "beta": 1e-4, "beta_input": 1e-4, "lasso_time": "after-vib"},
    {"lasso": 0.05, "lasso_input": 0.1, "target_params": 300},
]


@pytest.mark.parametrize("fields", WAYS)
def test_every_way_of_the_lasso_removes_groups_and_compacts_exactly(
    cache: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    report = train(cache, tmp_path / "run", **fields)
    assert report["compact"]["inputs"] < 24
    assert report["compact"]["parameters"]["total"] < report["plain"]["parameters"]["total"]
    assert report["compaction"]["max_abs_difference"] <= 1e-5
    stages = list(dict.fromkeys(row["stage"] for row in RunFolder(tmp_path / "run").rows()))
    own_stage = fields.get("method") == "lasso" or fields.get("lasso_time") == "after-vib"
    vib = ["vib"] if fields.get("method") != "lasso" else []
    assert stages == ["plain", *vib, *(["lasso"] if own_stage else []), "finetune"]


@pytest.mark.parametrize(("stage", "epoch"), [("vib", 3), ("lasso", 4), ("lasso", 10), ("finetune", 1)])
def test_an_interrupted_lasso_ends_as_an_uninterrupted_one(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, epoch: int
) -> None:
    genuine, fields = RunFolder.record, WAYS[7]

    def stop(self: RunFolder, row: dict[str, Any]) -> None:
        genuine(self, row)
        if (row["stage"], row["epoch"]) == (stage, epoch):
            raise KeyboardInterrupt

    train(cache, tmp_path / "whole", **fields)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "checkpoint", property(lambda self: Checkpoint(self.path / "last", 0.0)))
        patch.setattr(RunFolder, "record", stop)
        with pytest.raises(KeyboardInterrupt):
            train(cache, tmp_path / "cut", **fields)
    train(cache, tmp_path / "cut", **fields)
    for name in ("masked.safetensors", "model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    rows = [(row["stage"], row["epoch"]) for row in RunFolder(tmp_path / "cut").rows()]
    assert rows == [(row["stage"], row["epoch"]) for row in RunFolder(tmp_path / "whole").rows()]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"lasso_input": 1e3, "lasso": 0.0},
            "no input feature is left after the group lasso: lower --lasso-input",
        ),
        ({"lasso": 1e3}, "no .* is left after the group lasso: lower --lasso"),
    ],
)
def test_a_huge_strength_says_that_nothing_is_left(
    cache: Path, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(cache, tmp_path / "run", method="lasso", **fields)


WRONG = [
    (["--method=lasso"], "--method lasso: --lasso and --lasso-input are both 0"),
    (["--method=plain", "--lasso=1"], "--method plain has no penalty; say vib or lasso"),
    (["--method=movement", "--lasso=1"], "--method movement has no penalty; say vib or lasso"),
    (["--method=lasso", "--model=mean", "--lasso=1"], "--model mean has no hidden units; say --lasso-input"),
    (["--lasso-threshold=0.1"], "--lasso-threshold: --lasso and --lasso-input are both 0"),
    (["--lasso=-1"], "--lasso -1.0: must be at least 0"),
    (["--lasso=1", "--lasso-time=after-vib", "--target-params=400"], "say --lasso-time with-vib"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_a_combination_that_cannot_be_is_one_line(
    cache: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    assert_refused(train_command(cache, tmp_path / "run", *arguments), message)
    assert not (tmp_path / "run").exists()


def test_a_landing_may_follow_where_nothing_is_left() -> None:
    """VIB may have shut every unit by then; landing on a budget takes the best back."""
    model = masked_model("lstm", 6, 6, 4, seed=1)
    for mask in deciding(cells_of(model)[0][0]):
        set_mask(mask, [False] * 4)
    with pytest.raises(InputError, match="no hidden unit is left"):
        GroupLasso(0.0, 1e-4).finish(model)
    GroupLasso(0.0, 1e-4).finish(model, landing=True)
    land(model, 60, False, lambda masked: (0.0, 0.0))
    assert sum(model.kept_units()[0]) > 0
    compact(model)
