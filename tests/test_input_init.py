"""`--input-init`: input weights within 1/sqrt(inputs) only where it is asked for; all else as torch draws it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from caches import TEST_SPLIT, made_up_cache

from harvib.methods import train
from harvib.settings import TrainSettings
from harvib.weights import load_model


@pytest.mark.parametrize(("init", "bound"), [("torch", 0.5), ("fan-in", 0.05)])
def test_input_weights_start_within_their_bound(init: str, bound: float, tmp_path: Path) -> None:
    cache = made_up_cache(tmp_path / "c.h5", dim=400)
    settings = TrainSettings(
        method="plain",
        hidden=4,
        layers=2,
        plain_epochs=1,
        lr=0.0,
        weight_decay=0.0,
        validation=0.3,
        input_init=init,
    )
    train(cache, TEST_SPLIT, settings, tmp_path / "run", device=torch.device("cpu"))
    weights = load_model(tmp_path / "run" / "model.safetensors")[0].state_dict()
    first = weights["recurrent.layers.0.cells.0.lstm.weight_ih_l0"].abs().max()
    assert 0.9 * bound < first <= bound
    for name in ("recurrent.layers.1.cells.0.lstm.weight_ih_l0", "recurrent.layers.0.cells.0.lstm.weight_hh_l0"):
        assert 0.3 < weights[name].abs().max() <= 0.5
