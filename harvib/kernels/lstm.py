"""The LSTM's loop over time, forward and backward. See `harvib.cells.lstm` for the equations.

    c_t = f * memory * c_{t-1} + i * g * new        h_t = o * output * tanh(c_t)

Backward, with d = dL/dh_t and e = dL/dc_t, the gradients of the pre-activations are

    e_t = d_t * output * o * (1 - tanh^2 c_t) + e_{t+1} * memory * f_{t+1}
    di = e * new * g * i (1 - i)       df = e * memory * c_{t-1} * f (1 - f)
    dg = e * new * i * (1 - g^2)       do = d * output * tanh c_t * o (1 - o)

All that stands beside d and e is known before the loop and is computed for all steps at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harvib.kernels.product import StepProduct
from harvib.kernels.recurrence import Carried, Factors, Gradients, Kernel, Tape


class LSTMKernel(Kernel):
    """Factors: new, memory, output; gates i, f, g, o."""

    GATES = 4

    def forward(
        self,
        gates: Tensor,
        product: StepProduct,
        bias: Tensor | None,
        factors: Factors,
        keep: bool,
        before: Carried = (),
    ) -> tuple[Tensor, Carried]:
        new, memory, output = factors
        steps, batch, rows = gates.shape
        hidden = rows // self.GATES
        states = gates.new_empty(steps, batch, hidden)
        # Without gradients one step's worth, overwritten by the next.
        depth = steps if keep else 1
        cells, tanhs = gates.new_empty(2, depth, batch, hidden)
        old = gates.new_empty(batch, hidden)
        last, past = before or (None, None)
        for t in range(steps):
            step, cell, state = gates[t], cells[t % depth], states[t]
            if last is not None:
                product.add_to(step, last)
            step[:, : 2 * hidden].sigmoid_()
            i, f, g, o = step.chunk(self.GATES, dim=1)
            g.tanh_()
            o.sigmoid_()
            if past is not None:
                torch.mul(f, past, out=old)
            torch.mul(i, g, out=cell)
            if new is not None:
                cell.mul_(new)
            if past is not None:
                cell.add_(old) if memory is None else cell.addcmul_(old, memory)
            torch.mul(o, torch.tanh(cell, out=tanhs[t % depth]), out=state)
            if output is not None:
                state.mul_(output)
            last, past = state, cell
        return states, (gates, cells, tanhs) if keep else (cells[-1],)

    def backward(self, grad: Tensor, product: StepProduct, tape: Tape) -> Gradients:
        gates, cells, tanhs = tape.kept
        new, memory, output = tape.factors
        steps, batch, hidden = grad.shape
        i, f, g, o = gates.chunk(self.GATES, dim=2)
        found = torch.empty_like(gates)
        blocks = found.view(steps, batch, self.GATES, hidden)
        for_i, for_f, for_g, for_o = blocks.unbind(2)
        remembered = f if memory is None else f * memory
        shown = o if output is None else o * output
        added = i if new is None else i * new

        torch.mul(added, g, out=for_i)
        torch.addcmul(added, for_i, g, value=-1, out=for_g)
        for_i.addcmul_(for_i, i, value=-1)
        torch.addcmul(remembered, remembered, f, value=-1, out=for_f)
        for_f[1:].mul_(cells[:-1])
        for_f[0] = 0
        torch.mul(shown, tanhs, out=for_o)
        through = torch.addcmul(shown, for_o, tanhs, value=-1)
        for_o.addcmul_(for_o, o, value=-1)

        grad_cells = torch.empty_like(cells)
        for t in range(steps - 1, -1, -1):
            state, cell, step = grad[t], grad_cells[t], blocks[t]
            if t < steps - 1:
                product.add_to(state, found[t + 1])
            torch.mul(state, through[t], out=cell)
            if t < steps - 1:
                cell.addcmul_(grad_cells[t + 1], remembered[t + 1])
            step[:, :3].mul_(cell[:, None])
            step[:, 3].mul_(state)

        of_new, of_memory, of_output = tape.needed
        return Gradients(
            found,
            [
                (i * g).mul_(grad_cells).sum(0) if of_new else None,
                (f[1:] * cells[:-1]).mul_(grad_cells[1:]).sum(0) if of_memory else None,
                (o * tanhs).mul_(grad).sum(0) if of_output else None,
            ],
        )
