"""The GRU's loop over time, forward and backward. See `harvib.cells.gru` for the equations.

    n_t = tanh(p_n + reset * r * s)      s = W_hn h_{t-1} + b_hn
    h_t = new * n + update * u * (h_{t-1} - new * n)

Backward, with d = dL/dh_t, the gradients of the pre-activations are

    dn = d * (1 - update * u) * new * (1 - n^2)      dr = dn * s * reset * r (1 - r)
    du = d * (h_{t-1} - new * n) * update * u (1 - u)        ds = dn * reset * r

and d passes on to h_{t-1} by update * u and by W_hh. All that stands beside d is known before the loop and is
computed for all steps at once; in it all gates are one product.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harvib.kernels.product import StepProduct
from harvib.kernels.recurrence import Carried, Factors, Gradients, Kernel, Tape


class GRUKernel(Kernel):
    """Factors: reset, update, new; gates r, u, n."""

    GATES = 3

    def biases(self, bias_ih: Tensor, bias_hh: Tensor) -> tuple[Tensor, Tensor | None]:
        """b_hn stays behind: the reset gate multiplies it."""
        hidden = len(bias_ih) // self.GATES
        before = bias_ih.clone()
        before[: 2 * hidden] += bias_hh[: 2 * hidden]
        return before, bias_hh[2 * hidden :]

    def forward(
        self,
        gates: Tensor,
        product: StepProduct,
        bias: Tensor | None,
        factors: Factors,
        keep: bool,
        before: Carried = (),
    ) -> tuple[Tensor, Carried]:
        assert bias is not None
        reset, update, new = factors
        steps, batch, rows = gates.shape
        hidden = rows // self.GATES
        states = gates.new_empty(steps, batch, hidden)
        depth = steps if keep else 1
        inner = gates.new_empty(depth, batch, hidden)
        sums, candidate, gate = gates.new_empty(batch, rows), *gates.new_empty(2, batch, hidden)
        (last,) = before or (None,)
        for t in range(steps):
            step, s, state = gates[t], inner[t % depth], states[t]
            sums.copy_(step)
            sums[:, 2 * hidden :] = bias
            if last is not None:
                product.add_to(sums, last)
            torch.sigmoid(sums[:, : 2 * hidden], out=step[:, : 2 * hidden])
            s.copy_(sums[:, 2 * hidden :])
            r, u, n = step.chunk(self.GATES, dim=1)
            n.addcmul_(r if reset is None else torch.mul(r, reset, out=gate), s).tanh_()
            kept_n = n if new is None else torch.mul(n, new, out=candidate)
            kept_u = u if update is None else torch.mul(u, update, out=gate)
            if last is not None:
                torch.sub(last, kept_n, out=state).mul_(kept_u).add_(kept_n)
            else:
                torch.addcmul(kept_n, kept_n, kept_u, value=-1, out=state)
            last = state
        return states, (gates, inner) if keep else ()

    def backward(self, grad: Tensor, product: StepProduct, tape: Tape) -> Gradients:
        gates, inner = tape.kept
        reset, update, new = tape.factors
        steps, batch, hidden = grad.shape
        r, u, n = gates.chunk(self.GATES, dim=2)
        found = torch.empty_like(gates)
        blocks = found.view(steps, batch, self.GATES, hidden)
        for_r, for_u, for_s = blocks.unbind(2)
        kept_r = r if reset is None else r * reset
        kept_u = u if update is None else u * update
        kept_n = n if new is None else n * new

        for_n = 1 - n.square()
        if new is not None:
            for_n.mul_(new)
        for_n.addcmul_(for_n, kept_u, value=-1)
        torch.mul(for_n, kept_r, out=for_s)
        torch.mul(for_s, inner, out=for_r)
        for_r.addcmul_(for_r, r, value=-1)
        moved = kept_n.neg()  # h_{t-1} - new * n
        moved[1:].add_(tape.states[:-1])
        torch.mul(moved, kept_u, out=for_u)
        for_u.addcmul_(for_u, u, value=-1)

        for t in range(steps - 1, -1, -1):
            state = grad[t]
            if t < steps - 1:
                state.addcmul_(grad[t + 1], kept_u[t + 1])
                product.add_to(state, found[t + 1])
            blocks[t].mul_(state[:, None])
        for_n.mul_(grad)

        of_reset, of_update, of_new = tape.needed
        return Gradients(
            found,
            [
                (r * inner).mul_(for_n).sum(0) if of_reset else None,
                moved.mul_(u).mul_(grad).sum(0) if of_update else None,
                torch.addcmul(grad, grad, kept_u, value=-1).mul_(n).sum(0) if of_new else None,
            ],
            last=for_n,
        )
