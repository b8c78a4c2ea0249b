"""Magnitude pruning keeps the groups of the largest norms, counted here by a plain loop over torch's weights."""

from __future__ import annotations

from typing import Any

import torch
from test_budget import no_score
from test_compact import difference, masked_model

from harvib.budget import land
from harvib.compact import compact
from harvib.lasso import cells_with_units, freeze_masks
from harvib.magnitude import rank_by_norm
from harvib.sizes import parameters_of


def test_the_groups_of_the_largest_norms_stay() -> None:
    model = masked_model("lstm", 20, 20, 9, seed=3, standardize=False)
    freeze_masks(model, open_all=True)
    cell: Any = cells_with_units(model)[0][0]
    w_ih, w_hh, head = (weight.detach().double() for weight in (cell.weight_ih, cell.weight_hh, model.head.weight))
    of_inputs = [sum(float(w_ih[row, k]) ** 2 for row in range(36)) for k in range(20)]
    of_units = []
    for j in range(9):
        rows = [gate * 9 + j for gate in range(4)]
        places = {(row, k) for row in rows for k in range(9)} | {(row, j) for row in range(36)}
        own = sum(float(w_ih[row, k]) ** 2 for row in rows for k in range(20))
        own += sum(float(w_hh[row, k]) ** 2 for row, k in places)
        of_units.append(own + sum(float(head[c, j]) ** 2 for c in range(len(head))))
    rank_by_norm(model)
    landing = land(model, 500, False, no_score)
    freeze_masks(model)
    kept, (units,) = model.kept_inputs().tolist(), model.kept_units()
    assert sorted(kept, key=lambda k: -of_inputs[k]) == sorted(range(20), key=lambda k: -of_inputs[k])[: len(kept)]
    alive = cell.kept_units(model.kept_inputs()).tolist()
    assert set(alive) == set(sorted(range(9), key=lambda j: -of_units[j])[: units[0]])
    assert 0 < len(kept) < 20
    assert 0 < units[0] < 9
    assert landing.parameters == parameters_of(model.spec, len(kept), (units,), (), False) <= 500
    small = compact(model)
    assert difference(model, small, [4, 2]) <= 1e-5
    # Nothing is left of a scale: the kept weights are those of before.
    torch.testing.assert_close(
        small.recurrent.state_dict()["layers.0.cells.0.lstm.weight_ih_l0"],
        cell.weight_ih[[gate * 9 + j for gate in range(4) for j in alive]][:, kept],
    )
