"""The LSTM: plain, with a VIB mask a gate, and compact.

    i,f,g,o = act(W_ih v_t + b_ih + W_hh h_{t-1} + b_hh)        k~ = z_k * k  for k in {i,f,g,o}
    c_t = f~ * c_{t-1} + i~ * g~        h_t = o~ * tanh(c_t)

(Srivastava et al., WACV 2021, eq. 6-8.) The masks stand after the non-linearity and are shared by all steps
of a sequence; h_0 = c_0 = 0. Weights keep the names, shapes and gate order (i, f, g, o) of torch.nn.LSTM.

What may be removed: unit j stays iff i AND g AND o keep it. With zero initial state z_i = 0 or z_g = 0 keeps
c_j at zero for ever, and z_o = 0 keeps h_j at zero, so no other unit and no reader of h sees it. The forget
mask removes nothing: a unit with z_f = 0 has c_t = i~ * g~ and goes on living without memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harvib.cells.base import Cell, Compacted, MaskedCell, PlainCell
from harvib.masks import VIBMask

GATES = ("i", "f", "g", "o")
_SHUT = -1e4


class PlainLSTM(PlainCell):
    """torch.nn.LSTM with one layer."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.lstm = nn.LSTM(input_size, hidden_size, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]

    def parameter_count(self) -> int:
        return parameter_count(self.input_size, self.hidden_size)

    def masked(self) -> MaskedLSTM:
        return MaskedLSTM(self.lstm)

    @classmethod
    def size(cls, inputs: int, hidden: int, factors: bool = False) -> int:
        return parameter_count(inputs, hidden) + (2 * hidden if factors else 0)

    @classmethod
    def compact(cls, input_size: int, hidden_size: int) -> CompactLSTM:
        return CompactLSTM(input_size, hidden_size)


class MaskedLSTM(MaskedCell):
    """The VIB-LSTM: a mask of H factors on each gate.

    Training draws every mask once a sequence at every forward; evaluation uses the hard masks.
    """

    DECIDING = ("i", "g", "o")
    OUTPUT = "o"

    def __init__(self, plain: nn.LSTM) -> None:
        super().__init__()
        self.input_size, self.hidden_size = plain.input_size, plain.hidden_size
        copies = (nn.Parameter(weight.detach().clone()) for weight in plain.all_weights[0])
        self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh = copies
        self.masks = nn.ModuleDict({gate: VIBMask(self.hidden_size) for gate in GATES})

    def forward(self, x: Tensor) -> Tensor:
        z_i, z_f, z_g, z_o = (self.masks[gate](x.shape[0]) for gate in GATES)
        projected = nn.functional.linear(x, self.weight_ih, self.bias_ih + self.bias_hh)
        return recurrence(projected, self.weight_hh, z_i * z_g, z_f, z_o)

    def parameter_count(self) -> int:
        """Of the LSTM under the masks, without the masks."""
        return parameter_count(self.input_size, self.hidden_size)

    def kept_units(self, inputs: Tensor) -> Tensor:
        """Kept by i and g and o, whatever the inputs."""
        keep = self._hard("i").ne(0) & self._hard("g").ne(0) & self._hard("o").ne(0)
        return keep.nonzero().squeeze(1)

    @torch.no_grad()
    def compacted(self, inputs: Tensor, scale: Tensor, shift: Tensor) -> Compacted:
        """Scale and shift of the inputs fold into W_ih and the bias, mu_o into every reader of h.

        mu_i, mu_f, mu_g stand between non-linearities, where a plain LSTM has no weight: mu_i * mu_g and mu_f
        stay as factors of the compact cell.
        """
        units = self.kept_units(inputs)
        rows = torch.cat([units + gate * self.hidden_size for gate in range(len(GATES))])
        weight_ih, output = self.weight_ih[rows].double(), self._hard("o").double()
        cell = CompactLSTM(len(inputs), len(units)).to(self.weight_ih)
        small = (
            weight_ih[:, inputs] * scale[inputs],
            self.weight_hh[rows][:, units] * output[units],
            self.bias_ih[rows] + weight_ih @ shift,
            self.bias_hh[rows],
        )
        for weight, value in zip(cell.lstm.all_weights[0], small, strict=True):
            weight.copy_(value)
        cell.new_scale.copy_((self._hard("i") * self._hard("g"))[units])
        cell.memory_scale.copy_(self._hard("f")[units])
        return Compacted(cell, units, output, torch.zeros_like(output))

    def _hard(self, gate: str) -> Tensor:
        mask = self.masks[gate]
        assert isinstance(mask, VIBMask)
        return mask.hard()


class CompactLSTM(Cell):
    """A small LSTM, c_t = memory_scale * f * c_{t-1} + new_scale * i * g, with constant factors (H,) each.

    memory_scale is zero where the forget gate is dropped. While all factors are one the cell is exactly the
    nn.LSTM that it holds, and runs as that.
    """

    new_scale: Tensor
    memory_scale: Tensor

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.lstm = nn.LSTM(input_size, hidden_size, batch_first=True)
        self.register_buffer("new_scale", torch.ones(hidden_size))
        self.register_buffer("memory_scale", torch.ones(hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        if self.is_plain():
            return self.lstm(x)[0]
        weight_ih, weight_hh, bias_ih, bias_hh = self.lstm.all_weights[0]
        projected = nn.functional.linear(x, weight_ih, bias_ih + bias_hh)
        return recurrence(projected, weight_hh, self.new_scale, self.memory_scale)

    @torch.no_grad()
    def use_hard_scales(self) -> None:
        """Put one for every factor that is not zero; this changes the function, fine-tuning repairs it.

        A forget gate with factor zero becomes a gate that its bias holds shut, sigmoid(-1e4) = 0 exactly, so
        the cell is a plain nn.LSTM afterwards.
        """
        shut = (self.memory_scale == 0).nonzero().squeeze(1) + self.hidden_size
        for weight, value in zip(self.lstm.all_weights[0], (0, 0, _SHUT, 0), strict=True):
            weight[shut] = value
        self.new_scale.fill_(1)
        self.memory_scale.fill_(1)

    def is_plain(self) -> bool:
        """Whether the cell is exactly the nn.LSTM it holds."""
        return bool((self.new_scale == 1).all() and (self.memory_scale == 1).all())

    def parameter_count(self) -> int:
        """4H(D + H) + 8H, and the 2H factors where they are not all zero or one."""
        trivial = all(bool(((f == 0) | (f == 1)).all()) for f in (self.new_scale, self.memory_scale))
        return parameter_count(self.input_size, self.hidden_size) + (0 if trivial else 2 * self.hidden_size)


def parameter_count(inputs: int, hidden: int) -> int:
    """4H(D + H) + 8H: four gates, two bias vectors."""
    return 4 * hidden * (inputs + hidden) + 8 * hidden


def recurrence(
    projected: Tensor, weight_hh: Tensor, new: Tensor, memory: Tensor, output: Tensor | None = None
) -> Tensor:
    """Run the masked cell over ready input projections, (B, T, 4H) to states (B, T, H).

    The factors, (H,) or (B, H): `new` = z_i * z_g on i * g, `memory` = z_f on f * c, `output` = z_o on o.
    """
    batch, _, rows = projected.shape
    h = c = projected.new_zeros(batch, rows // len(GATES))
    states = []
    for step in projected.unbind(1):
        i, f, g, o = torch.addmm(step, h, weight_hh.t()).chunk(len(GATES), dim=1)
        c = memory * (torch.sigmoid(f) * c) + new * (torch.sigmoid(i) * torch.tanh(g))
        h = torch.sigmoid(o) * torch.tanh(c)
        if output is not None:
            h = output * h
        states.append(h)
    return torch.stack(states, dim=1)
