"""The GRU: plain, with a VIB mask a gate, and compact.

    r,u = sigmoid(W_ih v_t + b_ih + W_hh h_{t-1} + b_hh)             k~ = z_k * k  for k in {r,u,n}
    n_t = tanh(W_in v_t + b_in + r~ * (W_hn h_{t-1} + b_hn))
    h_t = (1 - u~) * n~ + u~ * h_{t-1}

(The GRU of torch.nn.GRU, which calls the update gate z; masks after the non-linearity, shared by all steps of
a sequence, as Srivastava et al., WACV 2021, put them into the LSTM; h_0 = 0.) Weights keep the names, shapes and
gate order (r, u, n) of torch.nn.GRU.

What may be removed: unit j stays iff the candidate mask z_n keeps it. With z_n = 0, h_t = u~ * h_{t-1}, which zero
initial state keeps at zero for ever. The other masks remove nothing: with z_u = 0 a unit has no memory, h_t = n~;
with z_r = 0 its candidate does not see the states.

What may be folded: with h = mu_n * k, k_t = (1 - u~) * n + u~ * k_{t-1}. So mu_n goes into every reader of h,
exactly. mu_r and mu_u stand behind a sigmoid, where a plain GRU has no weight.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harvib.cells.base import Cell, Compacted, MaskedCell, PlainCell
from harvib.masks import VIBMask

GATES = ("r", "u", "n")
SHUT = -1e4
"""A bias at which a sigmoid is exactly zero."""


class PlainGRU(PlainCell):
    """torch.nn.GRU with one layer."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.gru = nn.GRU(input_size, hidden_size, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x)[0]

    def parameter_count(self) -> int:
        return parameter_count(self.input_size, self.hidden_size)

    def masked(self) -> MaskedGRU:
        return MaskedGRU(self.gru)

    @classmethod
    def size(cls, inputs: int, hidden: int, factors: bool = False) -> int:
        return parameter_count(inputs, hidden) + (2 * hidden if factors else 0)

    @classmethod
    def compact(cls, input_size: int, hidden_size: int) -> CompactGRU:
        return CompactGRU(input_size, hidden_size)


class MaskedGRU(MaskedCell):
    """The VIB-GRU: a mask of H factors on each gate."""

    DECIDING = ("n",)
    OUTPUT = "n"

    def __init__(self, plain: nn.GRU) -> None:
        super().__init__()
        self.input_size, self.hidden_size = plain.input_size, plain.hidden_size
        copies = (nn.Parameter(weight.detach().clone()) for weight in plain.all_weights[0])
        self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh = copies
        self.masks = nn.ModuleDict({gate: VIBMask(self.hidden_size) for gate in GATES})

    def forward(self, x: Tensor) -> Tensor:
        reset, update, new = (self.masks[gate](x.shape[0]) for gate in GATES)
        projected = nn.functional.linear(x, self.weight_ih, self.bias_ih)
        return recurrence(projected, self.weight_hh, self.bias_hh, reset, update, new)

    def parameter_count(self) -> int:
        """Of the GRU under the masks, without the masks."""
        return parameter_count(self.input_size, self.hidden_size)

    def kept_units(self, inputs: Tensor) -> Tensor:
        """Kept by n, whatever the inputs."""
        return self._hard("n").nonzero().squeeze(1)

    @torch.no_grad()
    def compacted(self, inputs: Tensor, scale: Tensor, shift: Tensor) -> Compacted:
        """Scale and shift of the inputs fold into W_ih and the bias, mu_n into every reader of h.

        mu_r and mu_u stay as factors of the compact cell.
        """
        units = self.kept_units(inputs)
        rows = torch.cat([units + gate * self.hidden_size for gate in range(len(GATES))])
        weight_ih, candidate = self.weight_ih[rows].double(), self._hard("n").double()
        cell = CompactGRU(len(inputs), len(units)).to(self.weight_ih)
        small = (
            weight_ih[:, inputs] * scale[inputs],
            self.weight_hh[rows][:, units] * candidate[units],
            self.bias_ih[rows] + weight_ih @ shift,
            self.bias_hh[rows],
        )
        for weight, value in zip(cell.gru.all_weights[0], small, strict=True):
            weight.copy_(value)
        cell.reset_scale.copy_(self._hard("r")[units])
        cell.update_scale.copy_(self._hard("u")[units])
        return Compacted(cell, units, candidate, torch.zeros_like(candidate))

    def _hard(self, gate: str) -> Tensor:
        mask = self.masks[gate]
        assert isinstance(mask, VIBMask)
        return mask.hard()


class CompactGRU(Cell):
    """A small GRU with constant factors (H,) on its reset and update gates.

    While all factors are one the cell is exactly the nn.GRU that it holds, and runs as that.
    """

    reset_scale: Tensor
    update_scale: Tensor

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.gru = nn.GRU(input_size, hidden_size, batch_first=True)
        self.register_buffer("reset_scale", torch.ones(hidden_size))
        self.register_buffer("update_scale", torch.ones(hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        if self.is_plain():
            return self.gru(x)[0]
        weight_ih, weight_hh, bias_ih, bias_hh = self.gru.all_weights[0]
        projected = nn.functional.linear(x, weight_ih, bias_ih)
        return recurrence(projected, weight_hh, bias_hh, self.reset_scale, self.update_scale)

    @torch.no_grad()
    def use_hard_scales(self) -> None:
        """Put one for every factor that is not zero; a gate with factor zero becomes one that its bias shuts."""
        shut_reset = (self.reset_scale == 0).nonzero().squeeze(1)
        shut_update = (self.update_scale == 0).nonzero().squeeze(1) + self.hidden_size
        shut = torch.cat([shut_reset, shut_update])
        for weight, value in zip(self.gru.all_weights[0], (0, 0, SHUT, 0), strict=True):
            weight[shut] = value
        self.reset_scale.fill_(1)
        self.update_scale.fill_(1)

    def is_plain(self) -> bool:
        """Whether the cell is exactly the nn.GRU it holds."""
        return bool((self.reset_scale == 1).all() and (self.update_scale == 1).all())

    def parameter_count(self) -> int:
        """3H(D + H) + 6H, and the 2H factors where they are not all zero or one."""
        trivial = all(bool(((f == 0) | (f == 1)).all()) for f in (self.reset_scale, self.update_scale))
        return parameter_count(self.input_size, self.hidden_size) + (0 if trivial else 2 * self.hidden_size)


def parameter_count(inputs: int, hidden: int) -> int:
    """3H(D + H) + 6H: three gates, two bias vectors."""
    return 3 * hidden * (inputs + hidden) + 6 * hidden


def recurrence(
    projected: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor,
    reset: Tensor,
    update: Tensor,
    new: Tensor | None = None,
) -> Tensor:
    """Run the masked cell over ready input projections, (B, T, 3H) to states (B, T, H).

    The factors, (H,) or (B, H): `reset` = z_r on r, `update` = z_u on u, `new` = z_n on n.
    """
    batch, _, rows = projected.shape
    h = projected.new_zeros(batch, rows // len(GATES))
    states = []
    for step in projected.unbind(1):
        p_r, p_u, p_n = step.chunk(len(GATES), dim=1)
        s_r, s_u, s_n = torch.addmm(bias_hh, h, weight_hh.t()).chunk(len(GATES), dim=1)
        r, u = reset * torch.sigmoid(p_r + s_r), update * torch.sigmoid(p_u + s_u)
        n = torch.tanh(p_n + r * s_n)
        if new is not None:
            n = new * n
        h = n + u * (h - n)
        states.append(h)
    return torch.stack(states, dim=1)
