"""harvib.wrap: masks in a model of one's own; torch's calls, and the same numbers before and after compaction."""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from harvib import wrap
from harvib.dropin import Compact, Masked
from harvib.errors import InputError
from harvib.masks import VIBMask

D, H = 4, 5
KINDS: dict[str, Callable[..., nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class Own(nn.Module):
    """A user's model: something before, the recurrent part, something after."""

    def __init__(self, rnn: nn.RNNBase, how: str = "last") -> None:
        super().__init__()
        self.before, self.rnn, self.how = nn.Linear(3, D), rnn, how
        self.head = nn.Linear(H * (2 if rnn.bidirectional else 1), 2)

    def forward(self, x: Tensor) -> Tensor:
        output, state = self.rnn(torch.tanh(self.before(x)))
        h = state[0] if isinstance(state, tuple) and self.rnn.mode == "LSTM" else state
        if self.how == "last":
            return self.head(torch.cat([h[-2], h[-1]], 1) if self.rnn.bidirectional else h[-1])
        return self.head(output.mean(1) if self.how == "mean" else output.mean(1).tanh())


def set_masks(model: nn.Module, seed: int, dropped: float = 0.25, mu: bool = True) -> None:
    """Means of both signs and 0.5 to 1.5 in size (or one), and each unit dropped by chance.

    Unit 0 of a cell stays, so that a layer does, but now and then a whole direction goes.
    """
    generator = torch.Generator().manual_seed(seed)
    for part in model.modules():
        if not isinstance(part, Masked):
            continue
        gone = [f"{layer}{'fb-'[int(torch.randint(0, 3, (1,), generator=generator))]}." for layer in (1, 2, 3)]
        for name, mask in part.masks().items():
            size = mask.mu.numel()
            keep = torch.rand(size, generator=generator) >= dropped
            keep[::H] = True
            if part.bidirectional and dropped and name.startswith(tuple(gone)):
                keep[:] = False
            sign = 1 - 2 * torch.randint(0, 2, (size,), generator=generator)
            means = (0.5 + torch.rand(size, generator=generator)) * sign
            with torch.no_grad():
                mask.mu.copy_(means if mu else torch.ones(size))
                mask.log_variance.copy_(torch.where(keep, -40.0, 12.0))


def h_of(state: Any) -> Tensor:
    found = state[0] if isinstance(state, tuple) else state
    assert isinstance(found, Tensor)
    return found


def equal(ours: tuple[Any, Any], theirs: tuple[Any, Any]) -> None:
    """Outputs, packed or not, and h_n."""
    a, b = ours[0], theirs[0]
    if isinstance(a, PackedSequence):
        assert isinstance(b, PackedSequence)
        assert torch.equal(a.batch_sizes, b.batch_sizes)
        assert (a.sorted_indices is None) == (b.sorted_indices is None)
        (a, one), (b, other) = pad_packed_sequence(a), pad_packed_sequence(b)
        assert torch.equal(one, other)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(h_of(ours[1]), h_of(theirs[1]), rtol=1e-5, atol=1e-5)


parts = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(sorted(KINDS)),
        "num_layers": st.integers(1, 3),
        "bidirectional": st.booleans(),
        "bias": st.booleans(),
        "batch_first": st.booleans(),
        "nonlinearity": st.sampled_from(["tanh", "relu"]),
    }
)
inputs = st.sampled_from(["batch", "single", "packed", "packed-sorted"])


def part_of(options: dict[str, Any]) -> nn.RNNBase:
    options = dict(options)
    kind, nonlinearity = options.pop("kind"), options.pop("nonlinearity")
    if kind == "rnn":
        options["nonlinearity"] = nonlinearity
    return KINDS[kind](D, H, **options)


def input_of(form: str, batch_first: bool) -> Any:
    if form == "single":
        return torch.randn(6, D)
    x = torch.randn(3, 6, D) if batch_first else torch.randn(6, 3, D)
    if form == "batch":
        return x
    lengths = torch.tensor([6, 3, 1] if form == "packed-sorted" else [2, 6, 1])
    return pack_padded_sequence(x, lengths, batch_first, enforce_sorted=form == "packed-sorted")


@settings(max_examples=60, deadline=None)
@given(options=parts, form=inputs, seed=st.integers(0, 2**31), on_inputs=st.booleans())
def test_masks_of_one_change_nothing_and_compaction_changes_nothing(
    options: dict[str, Any], form: str, seed: int, on_inputs: bool
) -> None:
    torch.manual_seed(seed)
    plain = part_of(options).eval()
    x = input_of(form, options["batch_first"])
    masked = wrap.mask(plain, on_inputs)
    with torch.no_grad():
        set_masks(masked, seed, dropped=0, mu=False)
        equal(masked(x), plain(x))
        set_masks(masked, seed)
        small = wrap.compact(masked)
        equal(small(x), masked(x))
    assert isinstance(small, Compact)
    assert not any(isinstance(part, VIBMask) for part in small.modules())


@settings(max_examples=25, deadline=None)
@given(options=parts, how=st.sampled_from(["last", "mean"]), seed=st.integers(0, 2**31))
def test_a_named_reader_shrinks_with_the_states(options: dict[str, Any], how: str, seed: int) -> None:
    torch.manual_seed(seed)
    model = Own(part_of({**options, "batch_first": True}), how).eval()
    masked = wrap.mask(model)
    set_masks(masked, seed)
    x = torch.randn(3, 6, 3)
    small = wrap.compact(masked, reader="head", example=x)
    with torch.no_grad():
        torch.testing.assert_close(small(x), masked(x), rtol=1e-5, atol=1e-5)
    head = small.get_submodule("head")
    assert isinstance(head, nn.Linear)
    ((_, units),) = wrap.kept(masked).values()
    assert head.in_features == sum(units[-1])


def test_a_reader_that_is_not_alone_or_not_linear_is_found_out() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 6, 3)

    class Twice(Own):
        def forward(self, x: Tensor) -> Tensor:
            output, _ = self.rnn(self.before(x))
            return self.head(output.mean(1)) + nn.functional.linear(output.mean(1), torch.ones(2, H))

    masked = wrap.mask(Twice(nn.GRU(D, H, batch_first=True)).eval())
    set_masks(masked, 1)
    with pytest.raises(InputError, match="not alone in reading the states"):
        wrap.compact(masked, reader="head", example=x)
    masked = wrap.mask(Own(nn.GRU(D, H, batch_first=True), "tanh").eval())
    set_masks(masked, 1)
    with pytest.raises(InputError, match="output differs by"):
        wrap.compact(masked, reader="head", example=x)
    with pytest.raises(InputError, match="example input"):
        wrap.compact(masked, reader="head")
    with pytest.raises(InputError, match="of that name that reads 5 states"):
        wrap.compact(masked, reader="before", example=x)
    # Without a reader the states stay as wide as anybody may read them.
    with torch.no_grad():
        torch.testing.assert_close(wrap.compact(masked)(x), masked(x), rtol=1e-5, atol=1e-5)


class Mine(nn.Module):
    """An LSTM whose last state is read, as everybody writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 16, batch_first=True)
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        _, (h, _) = self.lstm(x)
        return self.head(h[-1])


def test_the_example_of_the_docstring_and_the_readme_prunes(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    x = torch.randn(256, 5, 8)
    y = (x[:, :, 0].mean(1) > 0).long()
    model = Mine()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    before = copy.deepcopy(model.state_dict())
    batches = [(x[i : i + 32], y[i : i + 32]) for _ in range(60) for i in range(0, 256, 32)]
    example = "\n".join(line for line in (wrap.__doc__ or "").splitlines() if not line or line.startswith("    "))
    names: dict[str, Any] = {"model": model, "batches": batches}
    exec(textwrap.dedent(example), names)
    masked, small = names["masked"].eval(), names["small"].eval()
    inputs_left, units = wrap.kept(masked)["lstm"]
    assert capsys.readouterr().out == f"{ {'lstm': (inputs_left, units)} }\n"
    assert 0 < inputs_left <= 8
    assert 0 < units[0][0] < 12
    narrow = wrap.compact(masked, reader="head", example=x)
    with torch.no_grad():
        for one in (small, narrow):
            torch.testing.assert_close(one(x), masked(x), rtol=1e-5, atol=1e-5)
            assert float((one(x).argmax(1) == y).float().mean()) > 0.95
    sizes = [sum(weight.numel() for weight in one.parameters()) for one in (model, small, narrow)]
    assert sizes[2] < sizes[1] < sizes[0] / 2
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_kl_and_groups_divide_the_masks() -> None:
    masked = wrap.mask(Own(nn.LSTM(D, H, 2, batch_first=True)))
    sizes = {which: float(wrap.kl(masked, which).detach()) for which in ("all", "gates", "inputs")}
    assert sizes["all"] == pytest.approx(sizes["gates"] + sizes["inputs"])
    assert min(sizes.values()) > 0
    weights, masks = wrap.groups(masked, 1e-3, 1e-2, weight_decay=0.1)
    assert (masks["weight_decay"], masks["lr"]) == (0, 1e-2)
    # Two numbers a masked value: four gates in two layers, what is between them, and the inputs.
    assert sum(p.numel() for p in masks["params"]) == 2 * (2 * 4 * H + H + D)
    assert len(weights["params"]) + len(masks["params"]) == len(list(masked.parameters()))
    with_gates_only = wrap.mask(nn.GRU(D, H), inputs=False)
    assert float(wrap.kl(with_gates_only, "inputs")) == 0


def test_every_forward_in_training_draws_once_a_sequence_and_dropout_stays() -> None:
    torch.manual_seed(0)
    masked = wrap.mask(nn.RNN(D, H, batch_first=True))
    for mask in masked.modules():
        if isinstance(mask, VIBMask):
            nn.init.constant_(mask.log_variance, 0.0)
    x = torch.randn(1, 3, D).expand(2, -1, -1)
    first, again = masked(x)[0], masked(x)[0]
    assert not torch.allclose(first, again)
    assert not torch.allclose(first[0], first[1])
    for kind in KINDS.values():
        dropping = wrap.mask(kind(D, H, 2, dropout=1.0, batch_first=True))
        set_masks(dropping, 0, dropped=0)
        # All that the second layer reads is dropped in training, so its states do not depend on the input.
        assert torch.equal(dropping(x)[0], dropping(x + 1)[0])
        assert dropping(x)[0].all()
        dropping.eval()
        assert not torch.equal(dropping(x)[0], dropping(x + 1)[0])


def test_states_given_are_refused_unless_zero_and_c_is_not_there() -> None:
    masked = wrap.mask(nn.LSTM(D, H))
    x, zero = torch.randn(6, 3, D), torch.zeros(1, 3, H)
    output, (h, c) = masked.eval()(x, (zero, zero))
    torch.testing.assert_close(output[-1], h[0])
    for use in (
        lambda: c[0],
        lambda: c.sum(0),
        lambda: torch.cat([h, c]),
        lambda: c + h,
        lambda: masked(x, (h, c)),
    ):
        with pytest.raises(InputError, match=r"c_n of a masked|starts from zero"):
            use()
    with pytest.raises(InputError, match="starts from zero"):
        masked(x, (zero, zero + 1))
    with pytest.raises(InputError, match="starts from zero"):
        wrap.compact(masked)(x, (zero + 1, zero))


def test_what_cannot_be_masked_or_compacted_is_told() -> None:
    class MyLSTM(nn.LSTM):
        pass

    with pytest.raises(InputError, match="to be masked"):
        wrap.mask(nn.Linear(2, 2))
    with pytest.raises(InputError, match="1: MyLSTM is made from"):
        wrap.mask(nn.Sequential(nn.Identity(), MyLSTM(D, H)))
    with pytest.raises(InputError, match="proj_size"):
        wrap.mask(nn.LSTM(D, H, proj_size=2))
    hooked = nn.LSTM(D, H)
    hooked.register_forward_hook(lambda *_: None)
    with pytest.raises(InputError, match="hooks"):
        wrap.mask(hooked)
    with pytest.raises(InputError, match="holds no masks"):
        wrap.compact(nn.LSTM(D, H))
    masked = wrap.mask(nn.LSTM(D, H))
    assert isinstance(masked, Masked)
    with pytest.raises(InputError, match=r"at least one step of 4 values, got \(6, 3, 5\)"):
        masked(torch.randn(6, 3, D + 1))
    nn.init.constant_(masked.stack.masks()["o"].mu, 0.0)
    with pytest.raises(InputError, match="no hidden unit is left in layer 1"):
        wrap.compact(masked)
    assert masked.input_mask is not None
    nn.init.constant_(masked.input_mask.mu, 0.0)
    with pytest.raises(InputError, match="no input feature is left"):
        wrap.compact(masked)


def test_one_part_under_two_names_stays_one() -> None:
    part = nn.GRU(D, D)
    masked = wrap.mask(nn.ModuleDict({"a": part, "b": part}))
    assert masked.get_submodule("a") is masked.get_submodule("b")
    small = wrap.compact(masked)
    assert small.get_submodule("a") is small.get_submodule("b")
