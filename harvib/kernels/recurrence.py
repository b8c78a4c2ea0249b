"""One layer of a masked recurrence, forward and backward, around the loop over time that a cell's kernel is.

What a loop under autograd does at each step is done here once for all steps: one product projects all inputs, and
after the backward loop one product each gives the gradients of W_ih, of W_hh and of the inputs. In the loop stay
the product with W_hh and a few operations in place on buffers made before it. Time comes first in all buffers, so
that a step is one contiguous slice.

Under torch.autocast the products run in its dtype; states, gates and all sums over time keep that of the weights.
Where no gradient is asked for nothing is kept for one, and the numbers are the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from harvib.kernels.product import StepProduct, affine


class Weights(NamedTuple):
    """Of one layer, with the names, shapes and gate order of torch: (G*H, D), (G*H, H), (G*H,), (G*H,).

    `weight_ih` is None where what comes in is already its product with the inputs, (B, T, G*H).
    """

    weight_ih: Tensor | None
    weight_hh: Tensor
    bias_ih: Tensor
    bias_hh: Tensor


Carried = tuple[Tensor, ...]
"""What is left of the steps so far for the next one, (B, ...) each; empty before the first."""

Step = Callable[[Tensor, Carried], tuple[Tensor, Carried]]
"""The inputs (B, D) of a further step, and what those before left, to its states (B, H) and what it leaves."""

Factors = Sequence[Tensor | None]
"""Of a kernel, (B, H) or (H,) each; None for one everywhere."""


@dataclass(frozen=True, eq=False)
class Tape:
    """What the loop forward has left for the loop backward.

    `states` (T, B, H), what the kernel has kept, its factors, and `needed`: which factors' gradients are.
    """

    states: Tensor
    kept: Sequence[Tensor]
    factors: Factors
    needed: Sequence[bool]


@dataclass(frozen=True, eq=False)
class Gradients:
    """What a kernel's backward loop finds.

    `recurrent` (T, B, G*H): of W_hh h + b_hh at each step. `last` (T, B, H): of the last gate's part of
    W_ih v + b_ih, where that differs. `factors`: (B, H) each, which autograd sums for
    one that all clips share; None where not asked for.
    """

    recurrent: Tensor
    factors: list[Tensor | None]
    last: Tensor | None = None


class Kernel(ABC):
    """The loop over time of one kind of cell. `GATES` counts its gates."""

    GATES: ClassVar[int]

    def biases(self, bias_ih: Tensor, bias_hh: Tensor) -> tuple[Tensor, Tensor | None]:
        """The bias to add before the loop, (G*H,), and what is left for the last gate in it, (H,) or None."""
        return bias_ih + bias_hh, None

    @abstractmethod
    def forward(
        self,
        gates: Tensor,
        product: StepProduct,
        bias: Tensor | None,
        factors: Factors,
        keep: bool,
        before: Carried = (),
    ) -> tuple[Tensor, Carried]:
        """Projections (T, B, G*H), overwritten, to states (T, B, H).

        With `keep` also what the backward loop needs, else what a further step needs beside the last state.
        `before` is that of the steps before, the state first; empty: zeros. `product` adds W_hh h to a step of all
        gates.
        """

    @abstractmethod
    def backward(self, grad: Tensor, product: StepProduct, tape: Tape) -> Gradients:
        """From the gradient of the states (T, B, H), which is overwritten.

        `product` adds the gradient of all gates at a step, times W_hh, to that of the states one step before.
        """


def run(kernel: Kernel, x: Tensor, weights: Weights, factors: Factors) -> Tensor:
    """(B, T, D) to states (B, T, H) from a zero state, with the kernel's factors on its gates.

    Differentiable once in x, weights and factors: a backward pass with create_graph=True raises RuntimeError.
    """
    device, dtype = x.device.type, weights.weight_hh.dtype
    work = dtype
    if torch.is_autocast_enabled(device):
        work = torch.get_autocast_dtype(device) if dtype == torch.float32 else dtype
        x = x.to(work)
    with torch.autocast(device, enabled=False):
        given = [factor for factor in (x, *weights, *factors) if factor is not None]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
            return _Recurrence.apply(kernel, work, x, *weights, *factors)
        return _forward(kernel, work, x, weights, factors, keep=False).states.transpose(0, 1)


def stepper(kernel: Kernel, weights: Weights, factors: Factors) -> Step:
    """`run`, one step at a time, with the weights as they are now; without gradients."""
    bias, inner = kernel.biases(weights.bias_ih, weights.bias_hh)
    weight_hh = weights.weight_hh.t()

    def step(x: Tensor, carried: Carried) -> tuple[Tensor, Carried]:
        gates = x + bias if weights.weight_ih is None else affine(x, weights.weight_ih, bias)
        product = StepProduct(weight_hh, len(x), gates.dtype)
        states, left = kernel.forward(gates[None], product, inner, factors, keep=False, before=carried)
        return states[0], (states[0], *left)

    return step


class _Forward(NamedTuple):
    states: Tensor
    inputs: Tensor
    weight_ih: Tensor | None
    weight_hh: Tensor
    kept: tuple[Tensor, ...]


def _forward(
    kernel: Kernel, work: torch.dtype, x: Tensor, weights: Weights, factors: Factors, keep: bool
) -> _Forward:
    """States (T, B, H), inputs (T * B, D), the weights in the dtype of the work, and what the kernel keeps."""
    batch, steps, width = x.shape
    inputs = x.transpose(0, 1).reshape(steps * batch, width)
    weight_ih = None if weights.weight_ih is None else weights.weight_ih.to(work)
    weight_hh = weights.weight_hh.to(work)
    bias, inner = kernel.biases(weights.bias_ih, weights.bias_hh)
    gates = (inputs + bias if weight_ih is None else affine(inputs, weight_ih, bias)).view(steps, batch, len(bias))
    product = StepProduct(weight_hh.t(), batch, gates.dtype)
    states, kept = kernel.forward(gates, product, inner, factors, keep)
    return _Forward(states, inputs, weight_ih, weight_hh, kept)


class _Recurrence(torch.autograd.Function):
    """See the module; the inputs are the kernel, the dtype of the work, x, four weights, the factors."""

    @staticmethod
    def forward(ctx: Any, kernel: Kernel, work: torch.dtype, x: Tensor, *rest: Tensor | None) -> Tensor:
        weights, factors = Weights(*rest[:4]), rest[4:]  # type: ignore[arg-type]  # weights are never None
        found = _forward(kernel, work, x, weights, factors, keep=True)
        ctx.kernel, ctx.factor_count = kernel, len(factors)
        ctx.save_for_backward(found.states, found.inputs, found.weight_ih, found.weight_hh, *factors, *found.kept)
        return found.states.transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        # once_differentiable lets pass what it believes to be constant, here the gradient in x of a sum of states.
        if torch.is_grad_enabled():
            raise RuntimeError("a masked recurrence is differentiable once: it has no gradient with create_graph")
        with torch.autocast(grad_output.device.type, enabled=False):
            return _backward(ctx, grad_output)


def _backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
    states, inputs, weight_ih, weight_hh, *rest = ctx.saved_tensors
    factors, kept = rest[: ctx.factor_count], rest[ctx.factor_count :]
    need_x, need_ih, need_hh, need_bias_ih, need_bias_hh, *need_factors = ctx.needs_input_grad[2:]
    steps, batch, hidden = states.shape
    work = weight_hh.dtype

    # A copy always, for the loop overwrites it.
    grad = torch.empty_like(states).copy_(grad_output.transpose(0, 1))
    product = StepProduct(weight_hh, batch, states.dtype)
    found = ctx.kernel.backward(grad, product, Tape(states, kept, factors, need_factors))

    gates = found.recurrent
    rows = gates.flatten(0, 1)
    operand = rows.to(work)
    grad_hh = operand[batch:].t() @ states[:-1].reshape(-1, hidden).to(work) if need_hh else None
    bias_hh = rows.sum(0) if need_bias_hh or (need_bias_ih and found.last is None) else None
    bias_ih = bias_hh
    if found.last is not None:
        gates[..., -hidden:] = found.last
        operand = rows.to(work)
        bias_ih = rows.sum(0) if need_bias_ih else None
    grad_ih = operand.t() @ inputs if need_ih else None
    grad_x = None
    if need_x:
        through = operand if weight_ih is None else operand @ weight_ih
        grad_x = through.unflatten(0, (steps, batch)).transpose(0, 1)
    return (None, None, grad_x, _as(grad_ih, states), _as(grad_hh, states), bias_ih, bias_hh, *found.factors)


def _as(value: Tensor | None, like: Tensor) -> Tensor | None:
    return None if value is None else value.to(like.dtype)
