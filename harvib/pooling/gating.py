"""Context gating: each class's probability times a gate that sees the probabilities of all classes.

    p' = p * sigmoid(BN(W p))        W (C, C), without bias

Miech, Laptev and Sivic, "Learnable pooling with context gating for video classification", 2017 (arXiv 1706.06905).
Probabilities come and go as log-odds, in which neither a sure yes nor a sure no loses its digits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from harvib.factorised.base import Factor
from harvib.pooling.matrices import matrix_of
from harvib.pooling.norm import Norm


class ContextGating(nn.Module):
    """Log-odds (B, C) to log-odds (B, C). No mask reaches it: every class stays."""

    def __init__(self, factor: Factor) -> None:
        super().__init__()
        if factor.size[0] != factor.size[1]:
            raise ValueError(f"a gate for each class needs a square matrix, not {factor}")
        self.matrix = matrix_of(factor)
        self.norm = Norm(factor.size[0])

    def forward(self, odds: Tensor) -> Tensor:
        odds = odds.to(torch.promote_types(odds.dtype, torch.float32))
        gate = self.norm(self.matrix(odds.sigmoid()))
        yes, no = logsigmoid(odds), logsigmoid(-odds)
        return yes + logsigmoid(gate) - torch.logaddexp(no, yes + logsigmoid(-gate))

    def parameter_count(self) -> int:
        """The matrix's, and 4C of the normalisation."""
        return self.matrix.parameter_count() + self.norm.parameter_count()

    def macs(self) -> int:
        """Of one clip."""
        return self.matrix.macs(1)
