"""Models with structured matrices, and what holds of every run that trains one."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from small_runs import assert_same_run, interrupted_and_resumed, small_run, train_command
from test_compact import set_mask
from torch import nn

from harvib.cells.factorised import FactorisedCell
from harvib.compact import compact
from harvib.factorised import NETWORKS
from harvib.models import ModelSpec, SequenceClassifier
from harvib.runconfig import stack_spec
from harvib.settings import TrainSettings
from harvib.weights import ModelCard, load_model

INPUTS = 12


def spec_of(inputs: int = INPUTS, classes: int = 4, **changes: Any) -> ModelSpec:
    card = ModelCard(tuple(map(str, range(classes))), "")
    rank = {"rank": 2} if changes.get("factorize") in NETWORKS else {}
    return stack_spec(TrainSettings(**{"hidden": 8, **rank, **changes}), inputs, card)


def small_of(masked: SequenceClassifier, drop: float, hard: bool) -> SequenceClassifier:
    """Compact; the masks keep the first three of each and a random share of the others."""
    for mask in masked.masks().values():
        keep = torch.rand(mask.mu.numel()) >= drop
        keep[:3] = True
        # Not above one: states that grow from step to step would make of the last digit of a float a large error.
        set_mask(mask, keep.tolist(), (0.2 + 0.8 * torch.rand(len(keep))) * (torch.rand(len(keep)) - 0.5).sign())
    small = compact(masked)
    if hard:
        small.recurrent.use_hard_scales()
    return small


def masked_model(
    standardize: bool = False, seed: int = 0, inputs: int = INPUTS, **changes: Any
) -> SequenceClassifier:
    """In evaluation, with random weights; standardised, one input is a constant."""
    torch.manual_seed(seed)
    plain = SequenceClassifier(spec_of(inputs, **changes))
    if standardize:
        std = torch.rand(plain.spec.inputs) + 0.3
        std[0] = 0
        plain.standardize_by(torch.randn(plain.spec.inputs), std)
    return plain.masked().eval()


def dense_twin(cell: FactorisedCell, kind: Callable[..., nn.RNNBase]) -> nn.RNNBase:
    """Torch's own module with the matrices that the factors stand for."""
    twin = kind(cell.input_size, cell.hidden_size, batch_first=True)
    weight_hh = cell.weight_hh if cell.hidden is None else cell.hidden.dense()
    assert weight_hh is not None
    values = (cell.matrix.dense(), weight_hh, cell.bias_ih, cell.bias_hh)
    with torch.no_grad():
        for weight, value in zip(twin.all_weights[0], values, strict=True):
            weight.copy_(value)
    return twin


def assert_meets_its_budget_and_resumes(folder: Path, target: int, share: float, **fields: Any) -> None:
    """A run ends with `share` of `target` parameters at least, compacted exactly; interrupted it ends the same."""
    whole = small_run(folder, target_params=target, **fields)
    report = json.loads((whole / "report.json").read_text())
    assert share * target <= report["compact"]["parameters"]["total"] <= target
    assert report["compaction"]["max_abs_difference"] <= 1e-5
    resumed = interrupted_and_resumed(
        lambda: small_run(folder, name="resumed", target_params=target, **fields), "vib", 7
    )
    assert_same_run(resumed, whole)


def assert_command_trains(folder: Path, kinds: Collection[str], *arguments: str) -> int:
    """`harvib train` ends with a matrix of one of these kinds; how many parameters it tells, rightly."""
    small_run(folder, method="plain", name="other", plain_epochs=1)
    epochs = ("--plain-epochs", "2", "--finetune-epochs", "2", "--hidden", "4")
    result = train_command(folder / "cache.h5", folder / "run", *epochs, *arguments)
    assert result.exit_code == 0, result.output
    final, _ = load_model(folder / "run" / "model.safetensors")
    assert isinstance(final.spec, ModelSpec)
    assert final.spec.factor is not None
    assert final.spec.factor.kind in kinds
    report = json.loads((folder / "run" / "report.json").read_text())
    told: int = report["plain" if "plain" in arguments else "compact"]["parameters"]["total"]
    assert told == sum(weight.numel() for weight in final.parameters())
    return told
