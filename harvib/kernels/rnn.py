"""The simple network's loop over time, forward and backward. See `harvib.cells.rnn` for the equations.

    h_t = output * a        a = act(p + W_hh h_{t-1})

Backward, with d = dL/dh_t, the gradient of the pre-activation is d * output * act', where act' is 1 - a^2 of tanh
and 1 where relu is open: known before the loop.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harvib.kernels.product import StepProduct
from harvib.kernels.recurrence import Carried, Factors, Gradients, Kernel, Tape


class RNNKernel(Kernel):
    """Factors: output; one gate, tanh or relu."""

    GATES = 1

    def __init__(self, nonlinearity: str) -> None:
        self.tanh = nonlinearity == "tanh"

    def forward(
        self,
        gates: Tensor,
        product: StepProduct,
        bias: Tensor | None,
        factors: Factors,
        keep: bool,
        before: Carried = (),
    ) -> tuple[Tensor, Carried]:
        (output,) = factors
        states = gates if output is None else torch.empty_like(gates)
        (last,) = before or (None,)
        for t in range(len(gates)):
            step = gates[t]
            if last is not None:
                product.add_to(step, last)
            step.tanh_() if self.tanh else step.relu_()
            if output is not None:
                torch.mul(step, output, out=states[t])
            last = states[t]
        return states, (gates,) if keep else ()

    def backward(self, grad: Tensor, product: StepProduct, tape: Tape) -> Gradients:
        (gates,) = tape.kept
        (output,) = tape.factors
        found = 1 - gates.square() if self.tanh else (gates > 0).to(gates.dtype)
        if output is not None:
            found.mul_(output)
        last = len(gates) - 1
        for t in range(last, -1, -1):
            if t < last:
                product.add_to(grad[t], found[t + 1])
            found[t].mul_(grad[t])
        return Gradients(found, [grad.mul_(gates).sum(0) if tape.needed[0] else None])
