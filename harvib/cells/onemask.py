"""What the cells without a recurrence have in common when masked: one mask, on their states.

    h_t = z * s_t        s_t the states without the mask, z of H factors, shared by all steps of a sequence

What may be removed: unit j stays iff z keeps it; with z = 0 it is zero at every step. What may be folded: z into
every reader, for nothing stands behind it.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from harvib.cells.base import Cell, Compacted, MaskedCell, PlainCell
from harvib.masks import VIBMask


class OneMasked(MaskedCell):
    """A cell with a mask of H factors on its states, the one that is named by `OUTPUT`."""

    @abstractmethod
    def states(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, T, H), without the mask."""

    def forward(self, x: Tensor) -> Tensor:
        return self.states(x) * self.masks[self.OUTPUT](len(x))[:, None]

    def kept_units(self, inputs: Tensor) -> Tensor:
        return self.hard(self.OUTPUT).nonzero().squeeze(1)

    def replaced_by(self, cell: Cell, units: Tensor) -> Compacted:
        """A compact cell of these units, behind which the mask goes into every reader."""
        hard = self.hard(self.OUTPUT).double()
        return Compacted(cell, units, hard, torch.zeros_like(hard))


class DenseMasked(OneMasked):
    """Of a cell whose parameters are weights (taps * H, D), tap by tap, and one bias (H,)."""

    def __init__(self, plain: PlainCell) -> None:
        super().__init__()
        self.kind = type(plain)
        self.input_size, self.hidden_size = plain.input_size, plain.hidden_size
        self.weight_ih, self.bias_ih = (nn.Parameter(weight.detach().clone()) for weight in plain.parameters())
        self.masks = nn.ModuleDict({self.OUTPUT: VIBMask(self.hidden_size)})

    def parameter_count(self) -> int:
        """That of the plain cell, without the mask."""
        return self.kind.size(self.input_size, self.hidden_size)

    def input_weights(self) -> int:
        """H taps D."""
        return self.weight_ih.numel()

    @torch.no_grad()
    def compacted(self, inputs: Tensor, scale: Tensor, shift: Tensor) -> Compacted:
        """Scale and shift of the inputs fold into weights and bias: a shift comes to the sum of the taps."""
        units = self.kept_units(inputs)
        firsts = range(0, len(self.weight_ih), self.hidden_size)
        weight = self.weight_ih[torch.cat([units + first for first in firsts])].double()
        bias = self.bias_ih[units] + (weight @ shift).view(len(firsts), len(units)).sum(0)
        cell = self.kind.compact(len(inputs), len(units)).to(self.weight_ih)
        for parameter, value in zip(cell.parameters(), (weight[:, inputs] * scale[inputs], bias), strict=True):
            parameter.copy_(value)
        return self.replaced_by(cell, units)
