"""`harvib export --format torchscript`: torch alone gives the same logits from the file; what is refused."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import CARD, KNOWN, LENGTHS, assert_close, padded, small_model, stacked
from structured import small_of
from test_factorised_cells import FORMS, spec_of

from harvib.classifier import Classifier
from harvib.export.script import to_script
from harvib.factorised import KINDS
from harvib.models import SequenceClassifier
from harvib.scriptfile import read_script

BATCHES = (LENGTHS, (3,), (1, 1))
CPU = torch.device("cpu")


def assert_same(
    small: Classifier, features: int, quantize: str = "none", expected: Classifier | None = None
) -> None:
    """One file has the logits of the Python model, whatever the number of clips and of steps."""
    module, card = read_script(to_script(small, CARD, quantize), "x")
    assert card == CARD
    assert module.parameter_counts() == small.parameter_counts()
    for lengths in BATCHES:
        x, steps = padded(features, lengths)
        with torch.no_grad():
            assert_close((expected or small)(x, steps), module(x, steps))


@settings(max_examples=40, deadline=None)
@given(
    cell=st.sampled_from([*KNOWN, "linear"]),
    readout=st.sampled_from(["mean", "last"]),
    layers=st.integers(1, 3),
    both=st.booleans(),
    project=st.sampled_from([0, 4]),
    hard=st.booleans(),
    kernel=st.sampled_from([1, 3, 5]),
    drop=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 10_000),
)
def test_torch_alone_gives_the_compact_models_logits(
    cell: str, readout: str, layers: int, both: bool, project: int, hard: bool, kernel: int, drop: float, seed: int
) -> None:
    options: dict[str, Any] = {} if cell == "linear" else stacked(cell, layers, both, project)
    if cell == "conv":
        options["kernel"] = kernel
    small = small_model(cell, seed, drop, hard, readout=readout, **options)
    assert_same(small, small.spec.features)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    form=st.sampled_from(FORMS),
    readout=st.sampled_from(["mean", "last"]),
    hard=st.booleans(),
    drop=st.sampled_from([0.0, 0.4]),
    seed=st.integers(0, 10_000),
)
def test_structured_matrices_have_the_logits_of_the_compact_model(
    kind: str, form: dict[str, Any], readout: str, hard: bool, drop: float, seed: int
) -> None:
    torch.manual_seed(seed)
    factors = {"factors": 2 + seed % 2} if kind.startswith("circulant") and seed % 3 else {}
    masked = SequenceClassifier(spec_of(factorize=kind, readout=readout, **{**form, **factors})).masked().eval()
    small = small_of(masked, drop, hard)
    assert_same(small, small.spec.features)
