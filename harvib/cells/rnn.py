"""The simple recurrent network: plain, with a VIB mask on its states, and compact.

    h_t = z * act(W_ih v_t + b_ih + W_hh h_{t-1} + b_hh)        act = tanh or relu

(torch.nn.RNN; the mask after the non-linearity, shared by all steps of a sequence, as Srivastava et al., WACV
2021, put theirs into the LSTM; h_0 = 0.)

What may be removed: unit j stays iff z keeps it; with z = 0 its state is zero at every step and no reader sees
it. What may be folded: with h = mu * k, k_t = act(W_ih v_t + b + W_hh (mu * k_{t-1})). So mu goes into every
reader of h, the cell's own W_hh among them, exactly: the compact cell is always a plain nn.RNN.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from harvib.cells.base import Cell, Compacted, MaskedCell, PlainCell
from harvib.masks import VIBMask

MASK = "h"


class PlainRNN(PlainCell):
    """torch.nn.RNN with one layer and tanh; also the compact form."""

    nonlinearity: ClassVar[str] = "tanh"

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.rnn = nn.RNN(input_size, hidden_size, nonlinearity=self.nonlinearity, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]

    def parameter_count(self) -> int:
        """H(D + H) + 2H: one set of weights, two bias vectors."""
        return self.hidden_size * (self.input_size + self.hidden_size) + 2 * self.hidden_size

    def masked(self) -> MaskedRNN:
        return MaskedRNN(self)

    @classmethod
    def size(cls, inputs: int, hidden: int, factors: bool = False) -> int:
        return hidden * (inputs + hidden) + 2 * hidden

    @classmethod
    def compact(cls, input_size: int, hidden_size: int) -> Cell:
        return cls(input_size, hidden_size)


class PlainReluRNN(PlainRNN):
    """The same with relu."""

    nonlinearity = "relu"


class MaskedRNN(MaskedCell):
    """The VIB-RNN: a mask of H factors on the states."""

    DECIDING = (MASK,)
    OUTPUT = MASK

    def __init__(self, plain: PlainRNN) -> None:
        super().__init__()
        self.input_size, self.hidden_size = plain.input_size, plain.hidden_size
        copies = (nn.Parameter(weight.detach().clone()) for weight in plain.rnn.all_weights[0])
        self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh = copies
        self.masks = nn.ModuleDict({MASK: VIBMask(self.hidden_size)})
        self._kind = type(plain)
        self._act = torch.tanh if plain.nonlinearity == "tanh" else torch.relu

    def forward(self, x: Tensor) -> Tensor:
        factor = self.masks[MASK](x.shape[0])
        projected = nn.functional.linear(x, self.weight_ih, self.bias_ih + self.bias_hh)
        h = projected.new_zeros(len(x), self.hidden_size)
        states = []
        for step in projected.unbind(1):
            h = factor * self._act(torch.addmm(step, h, self.weight_hh.t()))
            states.append(h)
        return torch.stack(states, dim=1)

    def parameter_count(self) -> int:
        """Of the RNN under the mask, without the mask."""
        return self.hidden_size * (self.input_size + self.hidden_size) + 2 * self.hidden_size

    def kept_units(self, inputs: Tensor) -> Tensor:
        """Kept by the mask, whatever the inputs."""
        return self._hard().nonzero().squeeze(1)

    @torch.no_grad()
    def compacted(self, inputs: Tensor, scale: Tensor, shift: Tensor) -> Compacted:
        """Scale and shift of the inputs fold into W_ih and the bias, mu into every reader of h."""
        units, output = self.kept_units(inputs), self._hard().double()
        weight_ih = self.weight_ih[units].double()
        cell = self._kind(len(inputs), len(units)).to(self.weight_ih)
        small = (
            weight_ih[:, inputs] * scale[inputs],
            self.weight_hh[units][:, units] * output[units],
            self.bias_ih[units] + weight_ih @ shift,
            self.bias_hh[units],
        )
        for weight, value in zip(cell.rnn.all_weights[0], small, strict=True):
            weight.copy_(value)
        return Compacted(cell, units, output, torch.zeros_like(output))

    def _hard(self) -> Tensor:
        mask = self.masks[MASK]
        assert isinstance(mask, VIBMask)
        return mask.hard()
