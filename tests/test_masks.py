"""harvib.masks: sampling, the rule that drops units, and the KL, against formulas in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from harvib.cells import shape_of
from harvib.cells.lstm import GATES, MaskedLSTM
from harvib.masks import VIBMask
from harvib.models import ModelSpec, SequenceClassifier


def mask_of(mu: list[float], log_variance: list[float]) -> VIBMask:
    mask = VIBMask(len(mu))
    with torch.no_grad():
        mask.mu.copy_(torch.tensor(mu))
        mask.log_variance.copy_(torch.tensor(log_variance))
    return mask


def test_initial_parameters_have_the_published_means_and_spread() -> None:
    torch.manual_seed(0)
    mask = VIBMask(100_000)
    for values, mean in ((mask.mu.detach(), 1.0), (mask.log_variance.detach(), -9.0)):
        assert float(values.mean()) == pytest.approx(mean, abs=3 * 0.01 / math.sqrt(100_000) + 1e-6)
        assert float(values.std()) == pytest.approx(0.01, rel=0.02)
    assert mask.keep().all()


def test_every_training_forward_draws_anew_and_one_factor_a_sequence() -> None:
    mask = mask_of([1.0] * 8, [-2.0] * 8).train()
    first, second = mask(4), mask(4)
    assert first.shape == (4, 8)
    assert not torch.equal(first, second)
    assert len(torch.unique(first)) == 32, "each sequence and unit has its own draw"


def test_training_draws_follow_the_gaussian() -> None:
    torch.manual_seed(0)
    mu, log_variance = [1.0, -0.5, 0.0], [-1.0, 0.5, -9.0]
    draws = mask_of(mu, log_variance).train()(100_000).detach().double()
    sigma = torch.tensor(log_variance, dtype=torch.float64).div(2).exp()
    assert torch.all((draws.mean(0) - torch.tensor(mu)).abs() < 5 * sigma / math.sqrt(100_000))
    assert torch.allclose(draws.std(0), sigma, rtol=0.02)


def test_evaluation_is_mu_where_kept_and_exactly_zero_elsewhere() -> None:
    # sigma^2 = exp(-2) = 0.135: kept iff |mu| > 0.3679.
    mask = mask_of([1.0, -0.4, 0.36, -0.36, 0.0, 0.37], [-2.0] * 6).eval()
    assert mask.keep().tolist() == [True, True, False, False, False, True]
    expected = torch.tensor([1.0, -0.4, 0.0, 0.0, 0.0, 0.37])
    assert torch.equal(mask(3), expected.expand(3, 6))
    assert torch.equal(mask(3), mask(3))


@given(st.lists(st.tuples(st.floats(-5, 5, width=32), st.floats(-15, 15, width=32)), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_kl_and_rule_equal_the_formulas(units: list[tuple[float, float]]) -> None:
    mu, log_variance = [list(column) for column in zip(*units, strict=True)]
    mask = mask_of(mu, log_variance)
    squares, variances = np.square(np.array(mu)), np.exp(np.array(log_variance))
    assert float(mask.kl().detach()) == pytest.approx(np.log1p(squares / variances).sum(), rel=1e-5, abs=1e-8)
    clear = np.abs(variances - squares) > 1e-5 * variances
    assert (mask.keep().numpy() == (variances < squares))[clear].all()


@given(
    st.sampled_from([0.0, 1e-30, -1e-20, 1e-4, 1.0, -3.0, 1e4]),
    st.sampled_from([-150.0, -60.0, -9.0, 0.0, 60.0, 85.0, 100.0, 150.0]),
)
@settings(max_examples=60, deadline=None)
def test_value_and_gradients_stay_finite_at_extremes(mu: float, log_variance: float) -> None:
    mask = mask_of([mu, 1.0], [log_variance, -9.0]).train()
    kl = mask.kl()
    kl.backward()
    assert 0 <= float(kl.detach()) < math.inf
    for weight in (mask.mu, mask.log_variance):
        assert weight.grad is not None
        assert torch.isfinite(weight.grad).all()
    assert torch.isfinite(mask(5)).all()
    assert torch.isfinite(mask.eval()(5)).all()


def test_gradients_of_the_kl_equal_the_derivatives() -> None:
    mu, log_variance = np.array([0.0, 0.3, -1.2, 2.0]), np.array([-9.0, -1.0, 0.5, 4.0])
    mask = mask_of(mu.tolist(), log_variance.tolist())
    mask.kl().backward()
    total = mu**2 + np.exp(log_variance)
    assert mask.mu.grad is not None
    assert mask.log_variance.grad is not None
    np.testing.assert_allclose(mask.mu.grad.numpy(), 2 * mu / total, rtol=1e-4)
    np.testing.assert_allclose(mask.log_variance.grad.numpy(), -(mu**2) / total, rtol=1e-4, atol=1e-30)


def test_all_steps_of_a_sequence_share_one_draw() -> None:
    # Without recurrence and with equal steps, only a factor that changed from step to step could tell them apart.
    torch.manual_seed(0)
    cell = MaskedLSTM(nn.LSTM(3, 4, batch_first=True))
    with torch.no_grad():
        cell.weight_hh.zero_()
        for gate in GATES:
            mask = cell.masks[gate]
            assert isinstance(mask, VIBMask)
            mask.log_variance.fill_(-1.0)
        memory = cell.masks["f"]
        assert isinstance(memory, VIBMask)
        memory.mu.zero_()
        memory.log_variance.fill_(-100.0)  # c_t = i~ * g~: no step remembers another
        states = cell.train()(torch.randn(5, 1, 3).expand(5, 7, 3))
        again = cell(torch.randn(5, 1, 3).expand(5, 7, 3))
    assert torch.allclose(states, states[:, :1].expand_as(states))
    assert not torch.allclose(states, again)


def test_a_model_draws_all_five_masks_at_every_training_forward_and_none_in_evaluation() -> None:
    torch.manual_seed(0)
    model = SequenceClassifier(ModelSpec("lstm", "masked", 3, 3, shape_of(4), 2))
    x, lengths = torch.randn(6, 5, 3), torch.full((6,), 5)
    assert sorted(model.masks()) == ["f", "g", "i", "input", "o"]
    for name in model.masks():
        for other, mask in model.masks().items():
            mask.log_variance.data.fill_(-1.0 if other == name else -150.0)
        model.train()
        assert not torch.equal(model(x, lengths), model(x, lengths)), f"{name} is not drawn at every forward"
        model.eval()
        assert torch.equal(model(x, lengths), model(x, lengths))
