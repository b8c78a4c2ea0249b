"""Multiply-accumulates from shapes against those that torch counts while a model runs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from harvib.cells import CELLS
from harvib.factorised import NETWORKS, Factor
from harvib.factorised.circulant_matrix import CirculantMatrix
from harvib.factorised.network import TensorNetwork
from harvib.macs import macs_of
from harvib.models import ModelSpec, SequenceClassifier

pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration")
WIDTHS = st.integers(1, 6)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([name for name, kind in CELLS.items() if kind.STACKS]),
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
    assert beyond(ModelSpec(cell, "plain", 7, inputs, shape, 3, projected=projected), steps) == 0


def test_macs_of_cells_that_stand_alone_are_those_that_torch_counts() -> None:
    for name, kind in CELLS.items():
        if not kind.STACKS:
            assert beyond(ModelSpec(name, "plain", 7, 5, ((5,),), 3, kind.READOUT or "mean"), 9) == 0


def test_a_mean_over_time_costs_only_its_head() -> None:
    assert macs_of(SequenceClassifier(ModelSpec("mean", "plain", 7, 5, ((5,),), 3)), 9).clip == 15


def beyond(spec: ModelSpec, steps: int) -> int:
    """How many more are told for a clip than torch counts."""
    model = SequenceClassifier(spec).eval()
    # Without oneDNN, whose fused layers the counter does not know.
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
        model(torch.randn(1, steps, spec.features), torch.tensor([steps]))
    found = macs_of(model, steps)
    return found.clip - counter.get_total_flops() // 2


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(list(NETWORKS)), st.integers(1, 4), st.integers(1, 40), st.integers(0, 99))
def test_macs_of_a_tensor_network_are_those_that_torch_counts(kind: str, rank: int, steps: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    modes = 1 if kind == "lowrank" else 3
    rows, columns = (tuple(rng.integers(1, 6, size=modes).tolist()) for _ in range(2))
    bonds = len(NETWORKS[kind](modes, modes).bonds)
    matrix = TensorNetwork(Factor(kind, rows, columns, (rank,) * bonds))
    for found, work in (
        (matrix.macs(steps), lambda: matrix(torch.randn(1, steps, matrix.columns))),
        (matrix.rebuilding_macs(), matrix.dense),
    ):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            work()
        # Where nothing is summed over torch multiplies entry by entry, which its counter leaves out.
        assert counter.get_total_flops() // 2 <= found
        if rank > 1 and min(rows + columns) > 1:
            assert found <= 1.5 * (counter.get_total_flops() // 2) + 64


def test_macs_of_a_circulant_matrix_are_those_of_its_transforms_or_of_the_matrix() -> None:
    many = CirculantMatrix(Factor("circulant", (1024,), (1024,), (1024,)))
    # 10 factors of 2: half of 5/2 N log2 N for x and for its product, and once a clip for the weights.
    assert many.macs(1) == 3 * 12_800 + 3 * 1024
    assert many.macs(25) == 25 * (2 * 12_800 + 3 * 1024) + 12_800 < 25 * 1024 * 1024
    few = CirculantMatrix(Factor("circulant", (2,), (1024,), (1024,)))
    assert few.macs(25) == 25 * 2 * 1024 + 12_800


@pytest.mark.parametrize("changes", [{}, {"hidden": True}, {"projected": True}])
def test_macs_of_cells_with_structured_matrices_are_those_that_torch_counts(changes: dict[str, bool]) -> None:
    factor = Factor("tt", (8, 4), (5, 6), (3,))
    hidden = Factor("tt", (8, 4), (2, 4), (3,)) if changes.get("hidden") else None
    if changes.get("projected"):
        shape, factor = ((8,), (4,)), Factor("tt", (2, 4), (5, 6), (3,))
        spec = ModelSpec("lstm", "plain", 30, 30, shape, 3, projected=True, factor=factor)
    else:
        spec = ModelSpec("lstm", "plain", 30, 30, ((8,),), 3, factor=factor, hidden_factor=hidden)
    # The products in place with W_hh, in the loop over time of harvib/kernels, are none that the counter knows.
    unseen = 0 if spec.projected else 9 * 4 * 8 * 8
    for state in ("plain", "compact"):
        reads = (8,) if state == "compact" and spec.projected else ()
        assert beyond(dataclasses.replace(spec, state=state, reads=reads), 9) == unseen
