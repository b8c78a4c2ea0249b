"""harvib.kernels against loops over steps written from the equations, whose gradients autograd finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from harvib.cells import CELLS, shape_of
from harvib.cells.gated import PlainForm
from harvib.kernels import GRUKernel, Kernel, LSTMKernel, RNNKernel, Weights, run
from harvib.masks import VIBMask
from harvib.models import ModelSpec, SequenceClassifier

KERNELS: dict[str, tuple[Kernel, int, int]] = {
    "lstm": (LSTMKernel(), 4, 3),
    "gru": (GRUKernel(), 3, 3),
    "rnn": (RNNKernel("tanh"), 1, 1),
    "rnn-relu": (RNNKernel("relu"), 1, 1),
}
"""Kernel, gates and factors by cell."""
PER_SEQUENCE = ("sequence",) * 3


def naive(cell: str, x: Tensor, weights: Weights, factors: Sequence[Tensor]) -> Tensor:
    """(B, T, D) to (B, T, H), one step after the other, factors in the order of the kernels."""
    w_ih, w_hh, b_ih, b_hh = weights
    assert w_ih is not None
    h = c = torch.zeros(len(x), w_hh.shape[1], dtype=x.dtype)
    states = []
    for v in x.unbind(1):
        a, s = v @ w_ih.t() + b_ih, h @ w_hh.t() + b_hh
        if cell == "lstm":
            i, f, g, o = (a + s).chunk(4, dim=1)
            c = factors[1] * torch.sigmoid(f) * c + factors[0] * torch.sigmoid(i) * torch.tanh(g)
            h = factors[2] * torch.sigmoid(o) * torch.tanh(c)
        elif cell == "gru":
            (a_r, a_u, a_n), (s_r, s_u, s_n) = a.chunk(3, dim=1), s.chunk(3, dim=1)
            r, u = factors[0] * torch.sigmoid(a_r + s_r), factors[1] * torch.sigmoid(a_u + s_u)
            n = factors[2] * torch.tanh(a_n + r * s_n)
            h = (1 - u) * n + u * h
        else:
            h = factors[0] * (torch.tanh(a + s) if cell == "rnn" else torch.relu(a + s))
        states.append(h)
    return torch.stack(states, dim=1)


@dataclass
class Case:
    """Random arguments for a kernel; factors of all shapes, with zeros among them."""

    cell: str
    x: Tensor
    weights: Weights
    factors: list[Tensor | None]

    @property
    def kernel(self) -> Kernel:
        return KERNELS[self.cell][0]

    def leaves(self) -> list[Tensor]:
        return [tensor for tensor in (self.x, *self.weights, *self.factors) if tensor is not None]

    def states(self) -> Tensor:
        return run(self.kernel, self.x, self.weights, self.factors)

    def expected(self) -> Tensor:
        hidden = self.weights.weight_hh.shape[1]
        ones = torch.ones(hidden, dtype=self.x.dtype)
        return naive(self.cell, self.x, self.weights, [ones if z is None else z for z in self.factors])


def case_of(
    cell: str,
    batch: int,
    steps: int,
    inputs: int,
    hidden: int,
    seed: int,
    kinds: Sequence[str] = ("sequence",) * 3,
) -> Case:
    """In float64; `kinds` of factors: one a sequence, one for all, or none."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    _, gates, count = KERNELS[cell]
    rows = gates * hidden
    weights = Weights(random(rows, inputs), random(rows, hidden), random(rows), random(rows))
    factors: list[Tensor | None] = []
    for kind in kinds[:count]:
        shape = {"sequence": (batch, hidden), "shared": (hidden,), "none": None}[kind]
        factors.append(None if shape is None else random(*shape) * (random(*shape) > -0.5))
    return Case(cell, random(batch, steps, inputs), weights, factors)


sizes = st.tuples(*[st.integers(1, 5)] * 4)
factor_kinds = st.lists(st.sampled_from(["sequence", "shared", "none"]), min_size=3, max_size=3)
every_cell = pytest.mark.parametrize("cell", list(KERNELS))


@every_cell
@given(sizes, factor_kinds, st.integers(0, 2**31), st.lists(st.booleans(), min_size=8, max_size=8))
@settings(max_examples=60, deadline=None)
def test_states_and_all_gradients_equal_a_loop_under_autograd(
    cell: str, size: tuple[int, int, int, int], kinds: list[str], seed: int, wanted: list[bool]
) -> None:
    case = case_of(cell, *size, seed, kinds)
    leaves = [leaf.requires_grad_() for leaf, wants in zip(case.leaves(), wanted, strict=False) if wants]
    states, expected = case.states(), case.expected()
    torch.testing.assert_close(states, expected, rtol=1e-6, atol=1e-9)
    if leaves:
        direction = torch.randn(states.shape, generator=torch.Generator().manual_seed(seed), dtype=states.dtype)
        ours = torch.autograd.grad(states, leaves, direction, allow_unused=True)
        theirs = torch.autograd.grad(expected, leaves, direction, allow_unused=True)
        for one, other, leaf in zip(ours, theirs, leaves, strict=True):
            # A single step does not use W_hh: autograd may leave its gradient out, and out is zero.
            zero = torch.zeros_like(leaf)
            torch.testing.assert_close(
                zero if one is None else one, zero if other is None else other, rtol=1e-6, atol=1e-9
            )


@every_cell
def test_gradients_equal_differences(cell: str) -> None:
    case = case_of(cell, 2, 3, 3, 2, 5, ("sequence", "shared", "sequence"))
    count = len(case.factors)
    leaves = [leaf.requires_grad_() for leaf in case.leaves()]

    def states(x: Tensor, *rest: Tensor) -> Tensor:
        return run(case.kernel, x, Weights(*rest[:4]), rest[4 : 4 + count])

    assert torch.autograd.gradcheck(states, leaves)


@every_cell
def test_float32_equals_the_loop(cell: str) -> None:
    case = case_of(cell, 4, 12, 6, 5, 7)
    case.weights = Weights(*(0.3 * weight for weight in case.weights if weight is not None))
    single = Case(
        cell,
        case.x.float(),
        Weights(*(weight.float() for weight in case.weights if weight is not None)),
        [None if factor is None else factor.float() for factor in case.factors],
    )
    gradients = []
    for one in (case, single):
        leaves = [leaf.requires_grad_() for leaf in one.leaves()]
        states = one.states() if one is single else one.expected()
        gradients.append([states, *torch.autograd.grad(states.square().mean(), leaves)])
    for ours, theirs in zip(gradients[1], gradients[0], strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-6)


@every_cell
def test_without_gradients_nothing_is_saved_and_the_numbers_are_the_same(cell: str) -> None:
    case = case_of(cell, 3, 6, 4, 5, 11)
    saved: list[Tensor] = []

    def save(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        plain = case.states()
        for leaf in case.leaves():
            leaf.requires_grad_()
        with torch.no_grad():
            assert torch.equal(case.states(), plain)
        assert not saved
        assert torch.equal(case.states(), plain)
        assert saved


@every_cell
def test_a_second_backward_finds_the_same_gradients(cell: str) -> None:
    case = case_of(cell, 2, 4, 3, 4, 13)
    leaves = [leaf.requires_grad_() for leaf in case.leaves()]
    loss = case.states().square().sum()
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    again = torch.autograd.grad(loss, leaves)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


@every_cell
def test_a_gradient_of_the_gradient_is_refused(cell: str) -> None:
    case = case_of(cell, 2, 3, 2, 2, 17)
    case.x.requires_grad_()
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(case.states().sum(), case.x, create_graph=True)


@every_cell
def test_no_two_gradients_share_their_numbers(cell: str) -> None:
    # Clipping scales gradients in place: one that two weights share would be scaled twice.
    case = case_of(cell, 2, 3, 2, 2, 19)
    for leaf in case.leaves():
        leaf.requires_grad_()
    case.states().sum().backward()
    places = [leaf.grad.data_ptr() for leaf in case.leaves() if leaf.grad is not None]
    assert len(set(places)) == len(places) == len(case.leaves())


def test_inputs_of_another_dtype_than_the_weights_are_refused() -> None:
    case = case_of("lstm", 2, 3, 2, 2, 23)
    case.x = case.x.float()
    with pytest.raises(RuntimeError, match="dtype"):
        case.states()


class Watch(TorchDispatchMode):
    """Notes of which dtype the operands of every operation are, and how many numbers are allocated unset."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, set[torch.dtype]] = {}
        self.allocated = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        dtypes = {arg.dtype for arg in args if isinstance(arg, Tensor)}
        name = func.overloadpacket.__name__.rstrip("_")
        self.seen.setdefault(name, set()).update(dtypes)
        result = func(*args, **(kwargs or {}))
        if name in ("new_empty", "empty", "empty_like"):
            self.allocated += result.numel()
        return result


@every_cell
def test_under_autocast_products_are_bfloat16_and_states_stay_float32(cell: str) -> None:
    torch.manual_seed(29)
    module = CELLS[cell](24, 16).masked().eval()
    x = torch.randn(8, 10, 24, requires_grad=True)

    def gradients() -> list[Tensor]:
        states = module(x)
        return [states, *torch.autograd.grad(states.square().mean(), [x, *module.parameters()], allow_unused=True)]

    exact = gradients()
    with torch.autocast("cpu", torch.bfloat16), Watch() as watch:
        states = module(x)
        module.zero_grad()
        # Also where the backward pass runs inside the region.
        states.square().mean().backward()
    assert watch.seen["mm"] == {torch.bfloat16}
    assert watch.seen["mul"] == {torch.float32}
    assert watch.seen["relu" if cell == "rnn-relu" else "tanh"] == {torch.float32}
    assert not {"addmm", "linear", "bmm"} & watch.seen.keys()
    assert x.grad is not None
    found = [states, x.grad, *(weight.grad for weight in module.parameters())]
    for ours, theirs in zip(found, exact, strict=True):
        if ours is None or theirs is None:  # log variances: evaluation does not draw
            assert ours is None
            assert theirs is None
            continue
        assert ours.dtype == torch.float32
        difference = (ours - theirs).norm() / theirs.norm()
        assert 0 < difference < 0.02


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_without_gradients_no_step_is_remembered(cell: str) -> None:
    batch, steps, hidden = 2, 50, 3
    case = case_of(cell, batch, steps, 2, hidden, 41)
    allocated = []
    for wanted in (True, False):
        for leaf in case.leaves():
            leaf.requires_grad_()
        with torch.set_grad_enabled(wanted), Watch() as watch:
            case.states()
        allocated.append(watch.allocated)
    states = batch * steps * hidden
    assert allocated[0] >= 2 * states
    assert allocated[1] < 1.5 * states, "the states, and buffers of one step"


@every_cell
def test_a_backward_pass_inside_autocast_keeps_the_precision_of_the_forward_pass(cell: str) -> None:
    torch.manual_seed(43)
    module = CELLS[cell](6, 5).masked().eval()
    x = torch.randn(3, 4, 6, requires_grad=True)
    (expected,) = torch.autograd.grad(module(x).square().sum(), x)
    loss = module(x).square().sum()
    with torch.autocast("cpu", torch.bfloat16):
        (grad,) = torch.autograd.grad(loss, x)
    assert torch.equal(grad, expected)


@every_cell
def test_a_masked_cell_puts_each_draw_on_its_gate(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(31)
    plain = CELLS[cell](3, 4).double()
    assert isinstance(plain, PlainForm)
    masked = plain.masked().train()
    draws = {name: torch.randn(2, 4, dtype=torch.float64) for name in masked.masks}
    by_id = {id(mask): draws[name] for name, mask in masked.masks.items()}
    monkeypatch.setattr(VIBMask, "forward", lambda self, batch: by_id[id(self)])
    factors = {
        "lstm": lambda: [draws["i"] * draws["g"], draws["f"], draws["o"]],
        "gru": lambda: [draws["r"], draws["u"], draws["n"]],
    }.get(cell, lambda: [draws["h"]])()
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    expected = naive(cell, x, Weights(*plain.module.all_weights[0]), factors)
    torch.testing.assert_close(masked(x), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bidirectional", [False, True])
@every_cell
def test_padding_changes_no_gradient(cell: str, bidirectional: bool) -> None:
    torch.manual_seed(37)
    spec = ModelSpec(cell, "plain", 4, 4, shape_of(3, 2, bidirectional), 2)
    model = SequenceClassifier(spec).masked().eval().double()
    lengths = [5, 2, 3]
    x = torch.randn(3, 7, 4, dtype=torch.float64)
    model(x, torch.tensor(lengths)).square().sum().backward()
    together = [weight.grad for weight in model.parameters()]
    model.zero_grad()
    for clip, length in enumerate(lengths):
        model(x[clip : clip + 1, :length], torch.tensor([length])).square().sum().backward()
    for one, weight in zip(together, model.parameters(), strict=True):
        assert (one is None) == (weight.grad is None)
        if one is not None and weight.grad is not None:
            torch.testing.assert_close(one, weight.grad, rtol=1e-9, atol=1e-12)
