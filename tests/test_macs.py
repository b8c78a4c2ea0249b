"""Multiply-accumulates from shapes against those that torch counts while a model runs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from harvib.cells import CELLS
from harvib.macs import macs_of
from harvib.models import ModelSpec, SequenceClassifier

WIDTHS = st.integers(1, 6)


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([name for name in CELLS if name != "mean"]),
    st.lists(st.lists(WIDTHS, min_size=1, max_size=2).map(tuple), min_size=1, max_size=3).map(tuple),
    st.integers(0, 4),
    WIDTHS,
    st.integers(1, 9),
)
def test_macs_are_those_that_torch_counts(
    cell: str, shape: tuple[tuple[int, ...], ...], projection: int, inputs: int, steps: int
) -> None:
    projected = projection > 0
    shape = (((projection,),) if projected else ()) + shape
    assert counted(ModelSpec(cell, "plain", 7, inputs, shape, 3, projected=projected), steps)


def test_a_mean_over_time_costs_only_its_head() -> None:
    assert counted(ModelSpec("mean", "plain", 7, 5, ((5,),), 3), 9)
    assert macs_of(SequenceClassifier(ModelSpec("mean", "plain", 7, 5, ((5,),), 3)), 9).clip == 15


def counted(spec: ModelSpec, steps: int) -> bool:
    """Whether torch counts the same for a clip, and the steps are alike."""
    model = SequenceClassifier(spec).eval()
    # Without oneDNN, whose fused layers the counter does not know.
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
        model(torch.randn(1, steps, spec.features), torch.tensor([steps]))
    found = macs_of(model, steps)
    assert found.clip == steps * found.step + model.head.weight.numel()
    return found.clip == counter.get_total_flops() // 2
