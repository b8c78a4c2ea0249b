"""harvib.compact: the small model computes what the masked one computes, in every case that can arise."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from harvib.cells import Cell, shape_of
from harvib.cells.lstm import CompactLSTM, MaskedLSTM
from harvib.cells.stack import Layer
from harvib.compact import compact
from harvib.errors import InputError
from harvib.masks import VIBMask
from harvib.models import ModelSpec, SequenceClassifier

KEPT, DROPPED = -40.0, 12.0


def set_mask(mask: VIBMask, keep: Sequence[bool], mu: Tensor | None = None) -> None:
    """Give a mask means of both signs and 0.2 to 3 in size, and let it keep these units."""
    size = len(keep)
    if mu is None:
        mu = (0.2 + 2.8 * torch.rand(size)) * (torch.randint(0, 2, (size,)) * 2 - 1)
    with torch.no_grad():
        mask.mu.copy_(mu)
        mask.log_variance.copy_(torch.where(torch.tensor(keep), KEPT, DROPPED))


def masked_model(
    cell: str = "lstm",
    features: int = 6,
    inputs: int = 6,
    hidden: int = 5,
    readout: str = "mean",
    standardize: bool = True,
    seed: int = 0,
    layers: int = 1,
    bidirectional: bool = False,
    project: int = 0,
    kernel: int = 3,
) -> SequenceClassifier:
    """A masked model with random weights, selection and standardisation; its masks keep everything.

    Of an mlp, which has one readout, `readout` is not heeded.
    """
    torch.manual_seed(seed)
    shape = shape_of(inputs if cell == "mean" else hidden, layers, bidirectional)
    if project:
        shape = ((project,), *shape)
    readout = "last" if cell == "mlp" else readout
    spec = ModelSpec(cell, "plain", features, inputs, shape, 4, readout, 0.2, projected=project > 0, kernel=kernel)
    model = SequenceClassifier(spec).masked()
    model.selection.copy_(torch.randperm(features)[:inputs].sort().values)
    if standardize:
        std = torch.rand(inputs) + 0.3
        std[torch.rand(inputs) < 0.15] = 0  # a constant feature
        model.standardize_by(2 * torch.randn(inputs), std)
    for mask in model.masks().values():
        set_mask(mask, [True] * mask.mu.numel())
    return model.eval()


def cell_of(model: SequenceClassifier) -> Cell:
    """The one cell of a model with one layer and one direction."""
    (layer,) = model.recurrent.layers
    assert isinstance(layer, Layer)
    ((_, cell),) = layer.directions()
    return cell


def clips_of(features: int, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    x = torch.randn(len(lengths), max(lengths), features)
    for row, length in enumerate(lengths):
        x[row, length:] = 0
    return x, torch.tensor(lengths)


def difference(masked: SequenceClassifier, small: SequenceClassifier, lengths: Sequence[int]) -> float:
    """Largest difference of the logits, relative to the largest logit where that is above one."""
    x, steps = clips_of(masked.spec.features, lengths)
    with torch.no_grad():
        ours, theirs = masked(x, steps), small(x, steps)
    return float((ours - theirs).abs().max() / ours.abs().max().clamp_min(1))


DECIDING = {"lstm": "igo", "gru": "n", "rnn": "h", "rnn-relu": "h", "conv": "h", "mlp": "h", "linear": "p"}
"""The masks that must all keep a unit for it to stay."""
GATES = {"lstm": 4, "gru": 3, "rnn": 1, "rnn-relu": 1}
ALONE = ("mean", "mlp", "linear")
"""Cells without layers, a second direction or a projection."""

Keeps = dict[str, list[bool]]


@st.composite
def cases(draw: st.DrawFn) -> tuple[SequenceClassifier, list[int], Keeps]:
    cell = draw(st.sampled_from(["lstm", "gru", "rnn", "rnn-relu", "conv", "mlp", "mean", "linear"]))
    features = draw(st.integers(1, 7))
    inputs = draw(st.integers(1, features))
    model = masked_model(
        cell,
        features,
        inputs,
        draw(st.integers(1, 5)),
        draw(st.sampled_from(["mean", "last"])),
        draw(st.booleans()),
        draw(st.integers(0, 2**31)),
        1 if cell in ALONE else draw(st.sampled_from([1, 1, 2, 3])),
        cell not in ALONE and draw(st.booleans()),
        0 if cell in ALONE else draw(st.sampled_from([0, 0, 1, 4])),
        draw(st.sampled_from([1, 3, 4])),
    )
    # Mostly kept: with many masks in a row little would be left of an even draw.
    kept = st.sampled_from([True, True, True, False])
    keeps = {
        name: draw(st.lists(kept, min_size=mask.mu.numel(), max_size=mask.mu.numel()))
        for name, mask in model.masks().items()
    }
    for name, keep in keeps.items():
        # Small means: a relu cell of three layers must not overflow float32's digits.
        set_mask(
            model.masks()[name], keep, (0.5 + torch.rand(len(keep))) * (torch.rand(len(keep)) < 0.5).mul(2).sub(1)
        )
    if draw(st.booleans()):
        with torch.no_grad():
            for weight in model.recurrent.parameters():
                if weight.ndim == 2:
                    weight[torch.rand_like(weight) < 0.4] = 0
    return model, draw(st.lists(st.integers(1, 7), min_size=1, max_size=4)), keeps


def deciding_of(model: SequenceClassifier, layer: int) -> str:
    """The masks that decide in a layer, counted from 1."""
    return "p" if model.spec.projected and layer == 1 else DECIDING[model.spec.cell]


def expected_shape(model: SequenceClassifier, keeps: Keeps) -> tuple[tuple[int, ...], ...]:
    """Units that stay, by layer and direction, from what the masks keep alone."""
    cell, shape = model.spec.cell, model.spec.shape
    if cell == "mean":
        return ((sum(keeps["input"]),),)
    single = len(shape) == len(shape[0]) == 1
    return tuple(
        tuple(
            sum(
                all(
                    keeps[name if single else f"{layer}{direction}.{name}"][unit]
                    for name in deciding_of(model, layer)
                )
                for unit in range(width)
            )
            for direction, width in zip("fb", widths, strict=False)
        )
        for layer, widths in enumerate(shape, 1)
    )


def alive_between(model: SequenceClassifier, keeps: Keeps, layer: int) -> int:
    """How many states of the layer before are alive and read by `layer`, counted from 1."""
    widths = model.spec.shape[layer - 2]
    alive = [
        all(keeps[f"{layer - 1}{direction}.{name}"][unit] for name in deciding_of(model, layer - 1))
        for direction, width in zip("fb", widths, strict=False)
        for unit in range(width)
    ]
    return sum(a and b for a, b in zip(alive, keeps[f"between.{layer}"], strict=True))


@given(cases())
@settings(max_examples=250, deadline=None)
def test_compact_logits_equal_masked_logits(case: tuple[SequenceClassifier, list[int], Keeps]) -> None:
    model, lengths, keeps = case
    inputs = [index for index, kept in enumerate(keeps["input"]) if kept]
    shape = expected_shape(model, keeps)
    reads = [len(inputs), *(alive_between(model, keeps, layer) for layer in range(2, len(shape) + 1))]
    assert model.kept_units() == (shape if model.spec.cell != "mean" else ((len(inputs),),))
    if not all(reads) or not all(map(sum, shape)):
        with pytest.raises(InputError, match="lower --beta-input" if not inputs else "lower --beta$"):
            compact(model)
        return
    small = compact(model)
    assert difference(model, small, lengths) <= 1e-5
    assert (small.spec.inputs, small.spec.shape, small.spec.reads) == (len(inputs), shape, tuple(reads[1:]))
    assert small.selection.tolist() == model.selection[inputs].tolist()
    units = sum(shape[-1]) + (sum(shape[0]) if model.spec.projected else 0)
    assert small.parameter_counts()["head"] == 4 * units + 4
    gates = GATES.get(model.spec.cell, 0)
    taps = {"conv": model.spec.kernel, "mlp": 1, "linear": 1}.get(model.spec.cell, 0)
    expected = sum(
        width * (read + 1)
        if model.spec.projected and not number
        else gates * width * (read + width) + 2 * gates * width + width * (taps * read + (taps > 0))
        for number, (read, widths) in enumerate(zip(reads, shape, strict=True))
        for width in widths
    )
    factors = small.parameter_counts()["recurrent"] - expected
    assert 0 <= factors <= (2 * sum(map(sum, shape)) if gates > 1 else 0)
    small.recurrent.use_hard_scales()
    assert small.parameter_counts()["recurrent"] == expected


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "rnn-relu"])
def test_a_plain_stack_is_torchs_own(cell: str, layers: int, bidirectional: bool) -> None:
    """Against nn.LSTM, GRU and RNN with layers and directions on packed sequences."""
    torch.manual_seed(3)
    model = SequenceClassifier(ModelSpec(cell, "plain", 4, 4, shape_of(3, layers, bidirectional), 2, "last"))
    kind: Any = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}.get(cell, torch.nn.RNN)
    options = {"nonlinearity": "relu"} if cell == "rnn-relu" else {}
    twin = kind(4, 3, layers, bidirectional=bidirectional, batch_first=True, **options)
    weights = [weight for layer in model.recurrent.layers for weight in layer.parameters()]
    for target, weight in zip(twin.parameters(), weights, strict=True):
        target.data.copy_(weight)
    x, lengths = clips_of(4, [5, 1, 3])
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    states, final = twin(packed)
    states, _ = torch.nn.utils.rnn.pad_packed_sequence(states, batch_first=True)
    ours = model.recurrent(x, lengths)
    for clip, length in enumerate(lengths.tolist()):
        assert torch.allclose(ours[clip, :length], states[clip, :length], atol=1e-6)
    last = (final[0] if cell == "lstm" else final)[-2 if bidirectional else -1 :]
    assert torch.allclose(model(x, lengths), model.head(torch.cat(list(last), dim=1)), atol=1e-6)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "rnn-relu"])
def test_masks_of_one_leave_a_stack_as_it_was(cell: str) -> None:
    torch.manual_seed(4)
    plain = SequenceClassifier(ModelSpec(cell, "plain", 4, 4, shape_of(3, 2, True), 2)).eval()
    masked = plain.masked().eval()
    for mask in masked.masks().values():
        set_mask(mask, [True] * mask.mu.numel(), torch.ones(mask.mu.numel()))
    x, lengths = clips_of(4, [5, 1, 3])
    assert torch.allclose(plain(x, lengths), masked(x, lengths), atol=1e-6)
    small = compact(masked)
    assert small.parameter_counts() == plain.parameter_counts()


def test_features_far_from_zero_cost_digits_but_not_exactness() -> None:
    # W (v - m) and W v - W m are equal; float32 rounds them alike only while m is not far larger than the spread.
    model = masked_model(features=64, inputs=64, hidden=8)
    for mean, allowed in ((10.0, 1e-5), (1000.0, 1e-2)):
        model.standardize_by(mean * torch.randn(64), torch.ones(64))
        x, lengths = model.input_mean + torch.randn(4, 6, 64), torch.full((4,), 6)
        with torch.no_grad():
            assert torch.allclose(model(x, lengths), compact(model)(x, lengths), rtol=0, atol=allowed)
            precise = copy.deepcopy(model).double()
            assert torch.allclose(precise(x, lengths), compact(precise)(x, lengths), rtol=0, atol=1e-10)


def test_a_kept_unit_with_a_dropped_forget_gate_stays_exact() -> None:
    model = masked_model()
    set_mask(model.masks()["f"], [True, False, True, False, False])
    small = compact(model)
    assert small.spec.shape == ((5,),)
    assert difference(model, small, [7, 3, 1]) <= 1e-5


def test_all_forget_gates_dropped_leaves_units_without_memory() -> None:
    model = masked_model()
    set_mask(model.masks()["f"], [False] * 5)
    assert difference(model, compact(model), [7, 3, 1]) <= 1e-5


def test_kept_units_and_inputs_whose_weights_are_all_zero_are_kept() -> None:
    model = masked_model(standardize=False)
    cell = cell_of(model)
    assert isinstance(cell, MaskedLSTM)
    with torch.no_grad():
        cell.weight_ih[:, 2] = 0
        for gate in range(4):
            for weight in cell.parameters(recurse=False):
                weight[5 * gate + 1] = 0
        model.head.weight[:, 1] = 0
    small = compact(model)
    assert (small.spec.inputs, small.spec.shape) == (6, ((5,),))
    assert difference(model, small, [4, 2]) <= 1e-5


def test_one_input_and_one_unit_left_stay_exact() -> None:
    model = masked_model()
    set_mask(model.masks()["input"], [False, False, True, False, False, False])
    set_mask(model.masks()["o"], [False, False, False, True, False])
    small = compact(model)
    assert (small.spec.inputs, small.spec.shape) == (1, ((1,),))
    assert difference(model, small, [5, 2, 1]) <= 1e-5


@pytest.mark.parametrize(
    ("name", "option"), [("input", "beta-input"), ("i", "beta"), ("g", "beta"), ("o", "beta")]
)
def test_nothing_left_names_the_option_to_lower(name: str, option: str) -> None:
    model = masked_model()
    set_mask(model.masks()[name], [False] * model.masks()[name].mu.numel())
    with pytest.raises(InputError, match=rf"lower --{option}$"):
        compact(model)


def test_units_dropped_by_different_gates_can_leave_nothing() -> None:
    model = masked_model(hidden=3)
    for index, gate in enumerate("igo"):
        set_mask(model.masks()[gate], [unit != index for unit in range(3)])
    with pytest.raises(InputError, match="no hidden unit is left"):
        compact(model)


def test_an_all_dropped_forget_mask_removes_nothing() -> None:
    model = masked_model()
    set_mask(model.masks()["f"], [False] * 5)
    assert model.kept_units() == ((5,),)


@pytest.mark.parametrize("state", ["plain", "masked", "compact"])
@pytest.mark.parametrize("readout", ["mean", "last"])
def test_padding_does_not_change_logits(state: str, readout: str) -> None:
    masked = masked_model(readout=readout)
    set_mask(masked.masks()["g"], [True, False, True, True, True])
    plain = SequenceClassifier(ModelSpec("lstm", "plain", 6, 6, shape_of(5), 4, readout))
    model = {"plain": plain, "masked": masked, "compact": compact(masked)}[state].eval()
    x, lengths = clips_of(6, [3, 7, 1, 5])
    together = model(x, lengths)
    for clip, length in enumerate(lengths.tolist()):
        alone = model(x[clip : clip + 1, :length], lengths[clip : clip + 1])
        assert torch.allclose(alone[0], together[clip], atol=1e-6)
    longer = torch.cat([x, torch.zeros(4, 9, 6)], dim=1)
    assert torch.allclose(model(longer, lengths), together, atol=1e-6)


def test_readouts_equal_a_loop_over_clips() -> None:
    model = masked_model()
    x, lengths = clips_of(6, [3, 7, 1])
    factor = model.masks()["input"].hard() * model.input_scale
    states = model.recurrent((x[..., model.selection] - model.input_mean) * factor, lengths)
    rows = torch.stack([states[clip, :length].mean(0) for clip, length in enumerate(lengths.tolist())])
    assert torch.allclose(model(x, lengths), model.head(rows), atol=1e-5)


def test_after_hard_scales_the_compact_model_is_its_torch_lstm_and_head() -> None:
    model = masked_model(readout="last")
    set_mask(model.masks()["f"], [True, False, True, True, False])
    small = compact(model)
    cell = cell_of(small)
    assert isinstance(cell, CompactLSTM)
    small.recurrent.use_hard_scales()
    assert small.parameter_counts()["recurrent"] == 4 * 5 * (6 + 5) + 8 * 5
    twin = torch.nn.LSTM(6, 5, batch_first=True)
    twin.load_state_dict(cell.lstm.state_dict())
    x, lengths = clips_of(6, [4, 4])
    assert torch.equal(small.recurrent(x, lengths), twin(x)[0])
    assert torch.allclose(small.eval()(x, lengths), small.head(twin(x)[0][:, -1]), atol=1e-6)


def test_compaction_leaves_the_masked_model_as_it_was() -> None:
    model = masked_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    small = compact(model)
    with torch.no_grad():
        for weight in small.parameters():
            weight.add_(1)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_only_a_masked_model_can_be_compacted() -> None:
    with pytest.raises(TypeError):
        compact(SequenceClassifier(ModelSpec("lstm", "plain", 3, 3, shape_of(2), 2)))


@given(st.floats(1e-12, 1e12), st.floats(-1e6, 1e6))
@example(1.0, 1000.0)
@example(1e-7, 0.0)
@settings(max_examples=40, deadline=None)
def test_standardisation_makes_varying_features_comparable_and_constant_ones_zero(
    spread: float, offset: float
) -> None:
    model = SequenceClassifier(ModelSpec("mean", "plain", 2, 2, shape_of(1), 2))
    mean, std = torch.tensor([offset, offset], dtype=torch.float32), torch.tensor([spread, 0.0])
    model.standardize_by(mean, std)
    if spread > 2e-6 * abs(offset):
        assert float(model.input_scale[0]) == pytest.approx(1 / spread, rel=1e-5)
    assert float(model.input_scale[1]) == 0


@pytest.mark.parametrize(("mask", "where"), [("1f.p", "in the projection"), ("2f.o", "in layer 1")])
def test_what_is_dead_is_named_as_users_count(mask: str, where: str) -> None:
    model = masked_model("lstm", project=3)
    set_mask(model.masks()[mask], [False] * model.masks()[mask].mu.numel())
    with pytest.raises(InputError, match=f"no hidden unit is left {where} after VIB"):
        compact(model)
