"""Inputs, centred and multiplied by factors that all steps of a clip share, with the gradient written out.

    y_t = (x_t - mean) * factor        d factor = sum over t of d y_t * (x_t - mean)

With thousands of inputs autograd's product of the size of a batch, made to be summed at once, costs more than all
else in a small model: it is made for a few clips at a time, in memory that stays near the processor.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_VALUES = 1 << 17
"""Values at a time on a CPU: half a MiB of float32. A GPU has all of them in flight."""


def scaled(x: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """(B, T, K), (K,) and (B, K) or (1, K) to (B, T, K).

    Differentiable once in x and factor, while `mean` is a constant: create_graph=True raises RuntimeError.
    """
    found: Tensor = _Scaled.apply(x, mean, factor)
    return found


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(x, mean, factor)
        # One pass over (B, T, K): with thousands of inputs a pass costs as much as a small cell.
        return torch.addcmul((-mean * factor)[:, None], x, factor[:, None])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        # As harvib/kernels/recurrence.py, and for its reason: once_differentiable lets pass what seems constant.
        if torch.is_grad_enabled():
            raise RuntimeError("a scaled input is differentiable once: it has no gradient with create_graph")
        x, mean, factor = ctx.saved_tensors
        of_x, of_factor = None, None
        if ctx.needs_input_grad[0]:
            of_x = grad * factor[:, None]
        if ctx.needs_input_grad[2]:
            clips = max(1, _VALUES // x[0].numel()) if x.device.type == "cpu" else len(x)
            of_factor, room = x.new_empty(len(x), x.shape[2]), torch.empty_like(x[:clips])
            pieces = zip(x.split(clips), grad.split(clips), of_factor.split(clips), strict=True)
            for piece, above, found in pieces:
                torch.sum(torch.sub(piece, mean, out=room[: len(piece)]).mul_(above), 1, out=found)
            of_factor = of_factor.sum_to_size(factor.shape)
        return of_x, None, of_factor
