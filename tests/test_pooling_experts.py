"""Mixture of experts and context gating: against probabilities computed one by one, and compacted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harvib.factorised import Factor
from harvib.pooling.experts import Experts, ExpertsShape
from harvib.pooling.gating import ContextGating
from harvib.pooling.matrices import LAYERS, layer_factor, matrix_of, outline, reduced

KINDS = tuple(LAYERS)


def experts_of(kind: str = "dense", inputs: int = 6, classes: int = 5, experts: int = 4) -> Experts:
    torch.manual_seed(0)
    made = Experts(ExpertsShape.fresh(kind, inputs, classes, experts)).double()
    with torch.no_grad():
        made.bias.normal_()
    return made


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


@pytest.mark.parametrize("kind", KINDS)
def test_the_mixture_is_the_one_of_the_paper(kind: str) -> None:
    model = experts_of(kind)
    x = torch.randn(3, 6).double()
    assert model.gates is not None
    gates, units = (x @ matrix.dense().detach().T for matrix in (model.gates, model.units))
    odds = model(x)
    for clip in range(3):
        for label in range(5):
            g = np.exp(gates[clip, label * 5 : label * 5 + 5].detach().numpy())
            g /= g.sum()
            e = [sigmoid(float(units[clip, label * 4 + k] + model.bias[label * 4 + k].detach())) for k in range(4)]
            p = sum(share * one for share, one in zip(g[:4], e, strict=True))
            assert float(odds[clip, label].detach().sigmoid()) == pytest.approx(p, rel=1e-9)


def test_sure_answers_keep_their_digits_and_their_gradients() -> None:
    model = experts_of().float()
    x = torch.tensor([[1e4] * 6, [-1e4] * 6], requires_grad=True)
    odds = model(x)
    assert torch.isfinite(odds).all()
    odds.sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    gate = ContextGating(layer_factor("dense", 5, 5)).eval()
    assert torch.isfinite(gate(torch.tensor([[1e4, -1e4, 0.0, 90.0, -90.0]]))).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_gating_multiplies_each_probability(kind: str, training: bool) -> None:
    torch.manual_seed(1)
    gate = ContextGating(layer_factor(kind, 6, 6)).double().train(training)
    with torch.no_grad():
        gate.norm.mean.normal_()
        gate.norm.variance.uniform_(0.5, 2)
        gate.norm.weight.normal_()
        gate.norm.bias.normal_()
    odds = torch.randn(4, 6).double()
    p = odds.sigmoid()
    values = p @ gate.matrix.dense().T
    mean, variance = gate.norm.mean.clone(), gate.norm.variance.clone()
    if training:
        mean, variance = values.mean(0), values.var(0, unbiased=False)
    normed = (values - mean) / (variance + 1e-5).sqrt() * gate.norm.weight + gate.norm.bias
    assert torch.allclose(gate(odds).sigmoid(), p * normed.sigmoid(), atol=1e-12)


@pytest.mark.parametrize("kind", ["dense", "circulant", "circulant-bare"])
def test_gradients(kind: str) -> None:
    model = experts_of(kind, inputs=4, classes=2, experts=2)
    gate = ContextGating(layer_factor(kind, 2, 2)).double()

    def odds(x: Tensor) -> Tensor:
        found: Tensor = gate(model(x))
        return found

    assert torch.autograd.gradcheck(odds, torch.randn(3, 4, dtype=torch.float64, requires_grad=True))


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    inputs=st.integers(1, 9),
    classes=st.integers(1, 7),
    experts=st.integers(0, 3),
    seed=st.integers(0, 999),
)
def test_compact_is_the_same_function_of_the_kept_inputs(
    kind: str, inputs: int, classes: int, experts: int, seed: int
) -> None:
    torch.manual_seed(seed)
    shape = ExpertsShape.fresh(kind, inputs, classes, experts)
    model = Experts(shape).double()
    keep = torch.rand(inputs) < 0.6
    keep[seed % inputs] = True
    scale = torch.randn(inputs).double() * keep
    x = torch.randn(4, inputs).double()
    kept = keep.nonzero().squeeze(1)
    small = model.compacted(kept, scale)
    assert torch.allclose(small(x[:, kept]), model(x * scale), atol=1e-10)
    numbers = sum(weight.numel() for weight in small.parameters())
    assert small.parameter_count() == numbers == shape.left(len(kept), small.scale is not None).size()
    assert model.parameter_count() == sum(w.numel() for w in model.parameters()) == shape.size()
    again = Experts(small.shape).double()
    again.load_state_dict(small.state_dict())
    assert torch.equal(again(x[:, kept]), small(x[:, kept]))
    small.use_hard_scales()
    assert small.scale is None
    Experts(small.shape).double().load_state_dict(small.state_dict())


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    rows=st.integers(1, 20),
    columns=st.integers(1, 9),
    factors=st.integers(1, 3),
    seed=st.integers(0, 999),
)
def test_any_rows_of_a_matrix_and_any_inputs(kind: str, rows: int, columns: int, factors: int, seed: int) -> None:
    torch.manual_seed(seed)
    factors = 1 if kind in ("dense", "circulant-bare") else factors
    matrix = matrix_of(layer_factor(kind, rows, columns, factors)).double()
    wanted = (torch.rand(rows) < 0.4).nonzero().squeeze(1)
    wanted = wanted if len(wanted) else torch.tensor([rows - 1])
    inputs = (torch.rand(columns) < 0.6).nonzero().squeeze(1)
    inputs = inputs if len(inputs) else torch.tensor([0])
    scale, x = torch.randn(columns).double(), torch.randn(5, columns).double()
    found = reduced(matrix, wanted, inputs, scale)
    read = x[:, inputs] if found.scale is None else x[:, inputs] * found.scale
    lonely = torch.zeros(columns).double()
    lonely[inputs] = scale[inputs]
    assert torch.allclose(
        found.matrix(read)[:, found.rows], (matrix.dense() @ (x * lonely).T).T[:, wanted], atol=1e-10
    )
    assert matrix.parameter_count() == sum(weight.numel() for weight in matrix.parameters())
    assert outline(matrix.factor).parameter_count() == matrix.size(columns)


def test_no_such_layer() -> None:
    with pytest.raises(ValueError, match="no layer"):
        matrix_of(Factor("tt", (2,), (2,)))
    with pytest.raises(ValueError, match="no such experts"):
        ExpertsShape(3, 2, layer_factor("dense", 6, 4), None)
