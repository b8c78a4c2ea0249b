"""Structured matrices: published counts, equality with tensorly and with explicit sums, exact compaction."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations, product

import numpy as np
import pytest
import tensorly
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorly.cp_tensor import cp_to_tensor
from tensorly.tr_tensor import tr_to_tensor
from tensorly.tt_matrix import tt_matrix_to_tensor
from tensorly.tucker_tensor import tucker_to_tensor

from harvib.factorised import KINDS, NETWORKS, Factor, outline
from harvib.factorised.asked import Asked, balanced, hidden_factor, input_factor
from harvib.factorised.network import TensorNetwork

tensorly.set_backend("numpy")

UCF = (8, 20, 20, 18)
RING = (4, 2, 5, 8, 6, 5, 3, 2)


@pytest.mark.parametrize(
    ("factor", "published"),
    [
        (Factor("tt", (16, 4, 4, 4), UCF, (4, 4, 4)), 3_360),
        (Factor("bt", (16, 4, 4, 4), UCF, (2, 4, 4, 4, 4)), 3_392),
        # The ring's one rank of 10 lies between the first two cores: 25 * (4 + 2) = 150 more.
        (Factor("tr", (16, 4, 2, 4, 2), RING, (5, 10, *[5] * 11)), 1_725),
        (Factor("tr", (128, 64), (64, 32), (40, 60, 48, 48)), 663_552),
        (Factor("lowrank", (1024,), (57_600,), (4,)), 4 * (1024 + 57_600)),
    ],
)
def test_counts_are_those_published(factor: Factor, published: int) -> None:
    """Yang ICML 2017, Ye CVPR 2018, Pan AAAI 2019."""
    assert outline(factor).parameter_count() == published


def arrays(matrix: TensorNetwork) -> list[np.ndarray]:
    return [core.detach().double().numpy() for core in matrix.cores]


def of_tt(matrix: TensorNetwork) -> np.ndarray:
    cores = arrays(matrix)
    cores[0] = cores[0][None]
    cores[-1] = cores[-1][..., None]
    return tt_matrix_to_tensor(cores).reshape(matrix.rows, matrix.columns)


def of_tr(matrix: TensorNetwork) -> np.ndarray:
    columns = len(matrix.factor.columns)
    whole = tr_to_tensor(arrays(matrix))
    axes = [*range(columns, whole.ndim), *range(columns)]
    return whole.transpose(axes).reshape(matrix.rows, matrix.columns)


def interleaved(matrix: TensorNetwork, whole: np.ndarray) -> np.ndarray:
    """A tensor with one joint mode (m_k, n_k) an axis, as a matrix."""
    rows, columns = matrix.factor.rows, matrix.factor.columns
    whole = whole.reshape([size for pair in zip(rows, columns, strict=True) for size in pair])
    order = [*range(0, whole.ndim, 2), *range(1, whole.ndim, 2)]
    return whole.transpose(order).reshape(matrix.rows, matrix.columns)


def of_bt(matrix: TensorNetwork) -> np.ndarray:
    core, *factors = arrays(matrix)
    blocks = [
        tucker_to_tensor((core[b], [f[b].reshape(-1, f.shape[-1]) for f in factors])) for b in range(len(core))
    ]
    return interleaved(matrix, np.sum(blocks, axis=0))


def of_cp(matrix: TensorNetwork) -> np.ndarray:
    columns = len(matrix.factor.columns)
    whole = cp_to_tensor((None, [core.T for core in arrays(matrix)]))
    axes = [*range(columns, whole.ndim), *range(columns)]
    return whole.transpose(axes).reshape(matrix.rows, matrix.columns)


def of_lowrank(matrix: TensorNetwork) -> np.ndarray:
    left, right = arrays(matrix)
    return left @ right


def of_ht(matrix: TensorNetwork) -> np.ndarray:
    """Tensorly has no hierarchical Tucker: a pair of Tucker products, the root on top, for two or four modes."""
    cores = arrays(matrix)
    if len(matrix.factor.rows) == 2:
        root, *leaves = cores
        return interleaved(matrix, tucker_to_tensor((root, [leaf.reshape(-1, leaf.shape[-1]) for leaf in leaves])))
    root, left, a, b, right, c, d = cores
    a, b, c, d = (leaf.reshape(-1, leaf.shape[-1]) for leaf in (a, b, c, d))
    above = np.einsum("rs,rab,scd->abcd", root, left, right)
    return interleaved(matrix, tucker_to_tensor((above, [a, b, c, d])))


REFERENCES: dict[str, Callable[[TensorNetwork], np.ndarray]] = {
    "tt": of_tt, "tr": of_tr, "bt": of_bt, "ht": of_ht, "cp": of_cp, "lowrank": of_lowrank,
}  # fmt: skip


@st.composite
def factors(draw: st.DrawFn) -> Factor:
    kind = draw(st.sampled_from(sorted(NETWORKS)))
    size = st.integers(1, 4)
    count = {"lowrank": 1, "ht": draw(st.sampled_from([2, 4]))}.get(kind, draw(st.integers(1, 3)))
    rows = [draw(size) for _ in range(count)]
    columns = [draw(size) for _ in range(draw(st.integers(1, 3)) if kind in ("tr", "cp") else count)]
    bonds = NETWORKS[kind](len(rows), len(columns)).bonds
    return Factor(kind, tuple(rows), tuple(columns), tuple(draw(st.integers(1, 3)) for _ in bonds))


@given(factors(), st.integers(0, 2**31))
@settings(max_examples=80, deadline=None)
def test_a_network_is_the_matrix_that_tensorly_rebuilds(factor: Factor, seed: int) -> None:
    torch.manual_seed(seed)
    matrix = KINDS[factor.kind](factor).double()
    assert isinstance(matrix, TensorNetwork)
    expected = REFERENCES[factor.kind](matrix)
    assert np.allclose(matrix.dense().detach().numpy(), expected, atol=1e-12)
    assert matrix.parameter_count() == sum(weight.numel() for weight in matrix.parameters())
    x = torch.randn(2, 3, matrix.columns, dtype=torch.float64)
    assert np.allclose(matrix(x).detach().numpy(), x.numpy() @ expected.T, atol=1e-12)


@given(st.integers(1, 5000), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_balanced_modes_multiply_to_the_size_with_the_smallest_sum(size: int, count: int) -> None:
    modes = balanced(size, count)
    assert math.prod(modes) == size
    assert len(modes) == count
    if size <= 60:
        every = product([d for d in range(1, size + 1) if size % d == 0], repeat=count)
        assert sum(modes) == min(sum(choice) for choice in every if math.prod(choice) == size)


def test_one_rank_for_leaves_and_one_for_the_rest_never_gives_the_published_count_of_ht() -> None:
    """1,245 of Yin et al. 2020 could not be derived: see `harvib.factorised.shapes.ht`."""
    found = set()
    for rows in ((4, 4, 4, 4), (16, 4, 4, 4), (4, 16, 4, 4), (4, 4, 16, 4), (4, 4, 4, 16), (8, 8, 4, 4)):
        for columns in set(permutations(UCF)):
            for leaf, inner in product(range(1, 13), repeat=2):
                bonds = NETWORKS["ht"](4, 4).bonds
                ranks = tuple(inner if bond in ("r1-2", "r3-4") else leaf for bond in bonds)
                leaves = leaf * sum(m * n for m, n in zip(rows, columns, strict=True))
                count = leaves + 2 * inner * leaf**2 + inner**2
                if columns == UCF and leaf == inner == 2:
                    assert outline(Factor("ht", rows, columns, ranks)).parameter_count() == count
                found.add(count)
    assert 1_245 not in found


def test_modes_and_ranks_that_nobody_names() -> None:
    assert input_factor(Asked("tt"), 4, 256, 57_600) == Factor("tt", (16, 4, 4, 4), (15, 15, 16, 16), (4, 4, 4))
    assert input_factor(Asked("lowrank", rank=3), 3, 7, 97) == Factor("lowrank", (21,), (97,), (3,))
    assert input_factor(Asked("bt", ranks="2,3", input_modes="4x3"), 1, 6, 12).ranks == (2, 2, 3)
    assert hidden_factor(Asked("tt", unit_modes="2x4"), 4, 8, 12) == Factor("tt", (8, 4), (2, 4), (4,))
