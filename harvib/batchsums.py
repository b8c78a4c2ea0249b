"""Sums over a batch that several processes share, differentiable: the statistics are those of all of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as torch_distributed

from harvib.noise import Share, current_share


def sharing_processes() -> Share | None:
    """The share of the batch that is computed here, where other processes have theirs."""
    share = current_share()
    if share is None or not torch_distributed.is_initialized() or torch_distributed.get_world_size() == 1:
        return None
    return share


def batch_sum(values: Tensor, share: Share) -> Tensor:
    """The sum of what all processes have here; all must call it alike."""
    found: Tensor = _BatchSum.apply(values, share.part)
    return found


class _BatchSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, part: float) -> Tensor:
        ctx.part = part
        # What counts for nothing is not added at all: nothing times infinity is no number.
        total = values.clone() if part else torch.zeros_like(values)
        torch_distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # Each process's loss is a mean over its own clips, and its gradients are summed times its part later on.
        total = grad * ctx.part if ctx.part else torch.zeros_like(grad)
        torch_distributed.all_reduce(total)
        return (total / ctx.part if ctx.part else total), None
