"""Matrix products in the precision of the work, for states that stay in their own."""

from __future__ import annotations

import torch
from torch import Tensor


def affine(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The affine map of (N, K) by a weight (M, K) and a bias (M,), (N, M), in the dtype of the bias."""
    if weight.dtype == bias.dtype:
        return torch.addmm(bias, inputs, weight.t())
    # The sum of two dtypes has the wider one: rounding and adding are one pass.
    return torch.mm(inputs, weight.t()) + bias


class StepProduct:
    """target += operand @ weight, step after step, with the buffers that it takes made once.

    The product runs in the dtype of `weight` (K, M); operand (rows, K) and target (rows, M) have `dtype`.
    """

    def __init__(self, weight: Tensor, rows: int, dtype: torch.dtype) -> None:
        self._weight = weight
        self._rounds = weight.dtype != dtype
        if self._rounds:
            self._operand = weight.new_empty(rows, weight.shape[0])
            self._result = weight.new_empty(rows, weight.shape[1])

    def add_to(self, target: Tensor, operand: Tensor) -> None:
        """In place."""
        if not self._rounds:
            target.addmm_(operand, self._weight)
            return
        self._operand.copy_(operand)
        torch.mm(self._operand, self._weight, out=self._result)
        target.add_(self._result)
