"""harvib.cells.lstm against a loop over steps and gates written from the equations, and against torch.nn.LSTM."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harvib.cells import shape_of
from harvib.cells.lstm import GATES, CompactLSTM, MaskedLSTM, PlainLSTM, parameter_count
from harvib.masks import VIBMask
from harvib.models import ModelSpec, SequenceClassifier

# Facts of the paper and its supplement. (2048, 6) is printed there as 65,856, the count of (2048, 8).
PUBLISHED = [
    (2048, 2048, 33_570_816),
    (2048, 8, 65_856),
    (2048, 6, 49_344),
    (266, 224, 440_832),
    (88, 64, 39_424),
    (33, 12, 2_256),
    (28, 8, 1_216),
    (46, 9, 2_052),
    (57_600, 256, 59_246_592),
    (1312, 33, 177_804),
    (96, 297, 469_260),
    (96, 88, 65_472),
]


def sigmoid(v: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-v))


def naive_lstm(
    x: np.ndarray, weights: dict[str, np.ndarray], factors: dict[str, np.ndarray] | None = None
) -> np.ndarray:
    """(T, D) to (T, H) in float64, one step and one gate at a time; weights by the names of torch.nn.LSTM."""
    hidden = weights["weight_hh_l0"].shape[1]
    h, c, states = np.zeros(hidden), np.zeros(hidden), []
    for v in x:
        gates = {}
        for index, gate in enumerate(GATES):
            rows = slice(index * hidden, (index + 1) * hidden)
            z = weights["weight_ih_l0"][rows] @ v + weights["bias_ih_l0"][rows]
            z += weights["weight_hh_l0"][rows] @ h + weights["bias_hh_l0"][rows]
            gates[gate] = np.tanh(z) if gate == "g" else sigmoid(z)
            if factors is not None:
                gates[gate] = factors[gate] * gates[gate]
        c = gates["f"] * c + gates["i"] * gates["g"]
        h = gates["o"] * np.tanh(c)
        states.append(h)
    return np.array(states)


def weights_of(lstm: torch.nn.LSTM) -> dict[str, np.ndarray]:
    return {name: weight.detach().double().numpy() for name, weight in lstm.named_parameters()}


def random_masks(cell: MaskedLSTM, rng: np.random.Generator, dropped: float = 0.3) -> dict[str, np.ndarray]:
    """Set random means of both signs, drop some units of each gate; the hard factors."""
    hard = {}
    for gate in GATES:
        mask = cell.masks[gate]
        assert isinstance(mask, VIBMask)
        mu = rng.normal(size=cell.hidden_size) * 1.5
        drop = rng.random(cell.hidden_size) < dropped
        with torch.no_grad():
            mask.mu.copy_(torch.from_numpy(mu))
            mask.log_variance.copy_(torch.from_numpy(np.where(drop, 8.0, -40.0)))
        hard[gate] = np.where(drop, 0.0, mask.mu.detach().double().numpy())
    return hard


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_masked_lstm_equals_the_equations(inputs: int, hidden: int, steps: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    plain = PlainLSTM(inputs, hidden)
    cell = plain.masked().eval()
    assert isinstance(cell, MaskedLSTM)
    hard = random_masks(cell, rng)
    x = torch.randn(3, steps, inputs)
    states = cell(x).detach().numpy()
    for clip in range(3):
        expected = naive_lstm(x[clip].double().numpy(), weights_of(plain.lstm), hard)
        np.testing.assert_allclose(states[clip], expected, rtol=1e-4, atol=1e-5)


def test_training_forward_uses_the_draws_of_each_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    plain = PlainLSTM(3, 4)
    cell = plain.masked().train()
    draws = [torch.randn(2, 4) for _ in GATES]
    handed_out = iter(draws)
    monkeypatch.setattr(VIBMask, "forward", lambda self, batch: next(handed_out))
    x = torch.randn(2, 5, 3)
    states = cell(x).detach().numpy()
    for clip in range(2):
        factors = {gate: draw[clip].double().numpy() for gate, draw in zip(GATES, draws, strict=True)}
        expected = naive_lstm(x[clip].double().numpy(), weights_of(plain.lstm), factors)
        np.testing.assert_allclose(states[clip], expected, rtol=1e-4, atol=1e-5)


def test_masks_of_one_leave_torch_lstm() -> None:
    torch.manual_seed(0)
    plain = PlainLSTM(5, 7)
    cell = plain.masked().eval()
    for mask in cell.masks.values():
        assert isinstance(mask, VIBMask)
        torch.nn.init.ones_(mask.mu)
    x = torch.randn(4, 9, 5)
    assert torch.allclose(cell(x), plain.lstm(x)[0], atol=1e-6)
    assert torch.equal(plain(x), plain.lstm(x)[0])


def test_a_kept_unit_with_a_dropped_forget_gate_has_no_memory() -> None:
    torch.manual_seed(0)
    plain = PlainLSTM(3, 2)
    cell = plain.masked().eval()
    forget = cell.masks["f"]
    assert isinstance(forget, VIBMask)
    with torch.no_grad():
        forget.log_variance.fill_(5.0)
        assert isinstance(cell, MaskedLSTM)
        cell.weight_hh.zero_()
    steps = torch.randn(1, 6, 3)
    alone = torch.cat([cell(steps[:, [t]]) for t in range(6)], dim=1)
    assert torch.allclose(cell(steps), alone, atol=1e-6), "c_t = i~ * g~ needs nothing of the steps before"
    assert len(cell.kept_units(torch.arange(3))) == 2


def test_masked_lstm_starts_from_copies_of_the_plain_weights() -> None:
    plain = PlainLSTM(3, 2)
    cell = plain.masked()
    assert isinstance(cell, MaskedLSTM)
    with torch.no_grad():
        cell.weight_hh.add_(1)
    assert not torch.equal(cell.weight_hh, plain.lstm.all_weights[0][1])


def shut_cell(seed: int, hidden: int = 5) -> CompactLSTM:
    torch.manual_seed(seed)
    cell = CompactLSTM(3, hidden)
    cell.new_scale.copy_(torch.randn(hidden))
    cell.memory_scale.copy_(torch.randn(hidden))
    cell.memory_scale[1::2] = 0
    return cell


def test_compact_lstm_with_factors_equals_the_equations() -> None:
    cell = shut_cell(3)
    x = torch.randn(1, 7, 3)
    ones = np.ones(5)
    factors = {"i": cell.new_scale.double().numpy(), "f": cell.memory_scale.double().numpy(), "g": ones, "o": ones}
    expected = naive_lstm(x[0].double().numpy(), weights_of(cell.lstm), factors)
    np.testing.assert_allclose(cell(x)[0].detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    assert not cell.is_plain()


def test_hard_scales_leave_exactly_a_torch_lstm_whose_forget_gates_are_shut() -> None:
    cell = shut_cell(4)
    before = weights_of(cell.lstm)
    cell.use_hard_scales()
    assert cell.is_plain()
    twin = torch.nn.LSTM(3, 5, batch_first=True)
    twin.load_state_dict(cell.lstm.state_dict())
    x = 10 * torch.randn(2, 7, 3)
    assert torch.equal(cell(x), twin(x)[0])
    factors = {"i": np.ones(5), "f": np.array([1.0, 0.0, 1.0, 0.0, 1.0]), "g": np.ones(5), "o": np.ones(5)}
    expected = naive_lstm(x[0].double().numpy(), before, factors)
    np.testing.assert_allclose(cell(x)[0].detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_shut_forget_gate_gets_no_gradient() -> None:
    cell = shut_cell(5)
    cell.use_hard_scales()
    cell(torch.randn(2, 7, 3)).sum().backward()
    for weight in cell.lstm.parameters():
        assert weight.grad is not None
        assert torch.isfinite(weight.grad).all()
        assert not weight.grad[[5 + 1, 5 + 3]].any(), "fine-tuning cannot open what pruning has shut"


def test_factors_count_as_parameters_while_they_are_not_zero_or_one() -> None:
    cell = shut_cell(6)
    formula = 4 * 5 * (3 + 5) + 8 * 5
    assert cell.parameter_count() == formula + 2 * 5
    cell.use_hard_scales()
    assert cell.parameter_count() == formula
    cell.memory_scale[0] = 0
    assert cell.parameter_count() == formula


@pytest.mark.parametrize(("inputs", "hidden", "published"), PUBLISHED)
def test_parameter_counts_equal_the_published_table(inputs: int, hidden: int, published: int) -> None:
    assert parameter_count(inputs, hidden) == published
    with torch.device("meta"):
        models = {
            "plain": SequenceClassifier(ModelSpec("lstm", "plain", inputs, inputs, shape_of(hidden), 11)),
            "masked": SequenceClassifier(ModelSpec("lstm", "masked", inputs, inputs, shape_of(hidden), 11)),
        }
        compact = CompactLSTM(inputs, hidden)
    assert sum(weight.numel() for weight in compact.parameters()) == published
    for state, model in models.items():
        masks = sum(weight.numel() for mask in model.masks().values() for weight in mask.parameters())
        assert masks == (0 if state == "plain" else 2 * (inputs + 4 * hidden))
        counts = model.parameter_counts()
        head = 11 * hidden + 11
        sizes = {"recurrent": published, "head": head, "total": published + head}
        assert counts == sizes | {"input_to_hidden": 4 * hidden * inputs}
        assert sum(weight.numel() for weight in model.parameters()) - masks == counts["total"]
