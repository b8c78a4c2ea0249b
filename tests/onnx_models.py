"""Compact models of every cell that has an ONNX form, and clips for them."""

from __future__ import annotations

from typing import Any

import torch
from test_compact import clips_of, masked_model, set_mask

from harvib.compact import compact
from harvib.models import SequenceClassifier
from harvib.weights import ModelCard

CARD = ModelCard(("a", "b", "c", "d"), "f" * 64)
LENGTHS = (7, 1, 4, 5)
KNOWN = ("conv", "gru", "lstm", "mean", "mlp", "rnn", "rnn-relu")
"""Cells that have an ONNX form."""
UNSTACKED = ("mean", "mlp")


def stacked(cell: str, layers: int, both: bool, project: int) -> dict[str, Any]:
    """Options of a model: these, where the cell can have them."""
    return {} if cell in UNSTACKED else {"layers": layers, "bidirectional": both, "project": project}


def small_model(cell: str, seed: int, drop: float, hard: bool, **options: Any) -> SequenceClassifier:
    """A compact model whose masks dropped a random share; `hard`: without the factors that they leave."""
    masked = masked_model(cell, features=9, inputs=7, hidden=6, seed=seed, **options)
    for mask in masked.masks().values():
        keep = torch.rand(mask.mu.numel()) >= drop
        keep[:3] = True
        # Not above one: states that grow from step to step would make of the last digit of a float a large error.
        mean = (0.2 + 0.8 * torch.rand(len(keep))) * (torch.randint(0, 2, (len(keep),)) * 2 - 1)
        set_mask(mask, keep.tolist(), mean)
    small = compact(masked)
    if hard:
        small.recurrent.use_hard_scales()
    return small


def padded(features: int, lengths: tuple[int, ...] = LENGTHS) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips with something in their padding that must not be seen."""
    x, steps = clips_of(features, lengths)
    for row, length in enumerate(lengths):
        x[row, length:] = 100.0
    return x, steps


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert float((ours - theirs).abs().max()) <= tolerance * max(1.0, float(ours.abs().max()))
