"""Movement pruning: scores against a loop over weights and steps, the groups of the highest stay, exact resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from caches import TEST_SPLIT, made_up_cache
from small_runs import assert_same_run, interrupted_and_resumed
from test_budget import no_score
from test_compact import clips_of, difference, masked_model
from test_lasso import Place, a_model, naive_groups
from torch.nn import functional

from harvib import methods
from harvib.budget import land
from harvib.compact import compact
from harvib.lasso import freeze_masks
from harvib.movement import Movement
from harvib.settings import TrainSettings

FIELDS: dict[str, Any] = {
    "method": "movement", "hidden": 6, "plain_epochs": 2, "movement_epochs": 6, "finetune_epochs": 2, "batch": 4,
    "target_params": 120, "validation": 0.3, "movement_lr": 1e-2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("cell", "layers", "project"), [("lstm", 1, 0), ("gru", 2, 0), ("conv", 2, 4), ("mlp", 1, 0), ("mean", 1, 0)]
)
def test_scores_are_what_a_loop_over_weights_and_steps_adds_up(cell: str, layers: int, project: int) -> None:
    model = a_model(cell, layers, False, project, 3)
    freeze_masks(model, open_all=True)
    inputs, units = naive_groups(model)
    movement, expected = Movement(model), [0.0] * (len(inputs) + len(units))
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
    for step in range(3):
        x, lengths = clips_of(5, [4, 2, 3])
        scale = 2.0**step
        optimizer.zero_grad()
        (scale * functional.cross_entropy(model(x, lengths), torch.tensor([0, 1, 2]))).backward()

        def moved(places: list[Place], scale: float = scale) -> float:
            found = 0.0
            for weight, row, column, _ in places:
                assert weight.grad is not None
                found += float(weight[row, column].detach()) * float(weight.grad[row, column]) / scale
            return found

        expected = [old - 0.1 * moved(places) for old, places in zip(expected, inputs + units, strict=True)]
        movement.add(movement.of_step(model, 0.1, scale))
        optimizer.step()
    assert movement.state()["movement"].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_groups_that_moved_away_from_zero_stay_however_small_they_are() -> None:
    model = masked_model("lstm", 12, 12, 6, standardize=False)
    freeze_masks(model, open_all=True)
    movement = Movement(model)
    scores = torch.randn(18, generator=torch.Generator().manual_seed(0))
    movement.load({"movement": scores})
    with torch.no_grad():
        for name, weight in model.recurrent.named_parameters():
            if name.endswith("weight_ih"):
                weight[:, int(scores[:12].argmax())] *= 1e-3
    movement.rank(model)
    land(model, 200, False, no_score)
    freeze_masks(model)
    for kept, values in (
        (model.kept_inputs(), scores[:12]),
        (model.masks()["g"].keep().nonzero()[:, 0], scores[12:]),
    ):
        assert 0 < len(kept) < len(values)
        assert set(kept.tolist()) == set(values.topk(len(kept)).indices.tolist())
    assert difference(model, compact(model), [4, 2]) <= 1e-5


def test_units_of_a_layer_are_ranked_by_their_own_scale() -> None:
    """Scores of the layer near the loss are far larger: a common cut would empty the other one."""
    model = masked_model("rnn", 4, 4, 6, layers=2)
    freeze_masks(model, open_all=True)
    movement = Movement(model)
    movement.load({"movement": torch.cat([torch.arange(4.0), 1e-6 * torch.arange(6.0), torch.arange(6.0)])})
    movement.rank(model)
    first, second = (model.masks()[name].log_alpha() for name in ("1f.h", "2f.h"))
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("epoch", [3, 4, 6])
def test_an_interrupted_stage_ends_as_an_uninterrupted_one(tmp_path: Path, epoch: int) -> None:
    cache = made_up_cache(tmp_path / "c.h5", dim=12)

    def train(name: str) -> dict[str, Any]:
        where = (cache, TEST_SPLIT, TrainSettings(**FIELDS), tmp_path / name)
        return methods.train(*where, device=torch.device("cpu"))

    whole = train("whole")
    resumed = interrupted_and_resumed(lambda: train("cut"), "movement", epoch)
    assert resumed["compact"] == whole["compact"]
    assert resumed["budget"]["reached"] == whole["budget"]["reached"] <= 120
    assert resumed["epochs"]["movement"] == {"run": 6, "kept": 6}
    assert_same_run(tmp_path / "cut", tmp_path / "whole")
