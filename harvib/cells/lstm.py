"""The LSTM: plain, with a VIB mask a gate, and compact.

    i,f,g,o = act(W_ih v_t + b_ih + W_hh h_{t-1} + b_hh)        k~ = z_k * k  for k in {i,f,g,o}
    c_t = f~ * c_{t-1} + i~ * g~        h_t = o~ * tanh(c_t)

(Srivastava et al., WACV 2021, eq. 6-8.) The masks stand after the non-linearity and are shared by all steps
of a sequence; h_0 = c_0 = 0.

What may be removed: unit j stays iff i AND g AND o keep it. With zero initial state z_i = 0 or z_g = 0 keeps
c_j at zero for ever, and z_o = 0 keeps h_j at zero, so no other unit and no reader of h sees it. The forget
mask removes nothing: a unit with z_f = 0 has c_t = i~ * g~ and goes on living without memory.

What may be folded: mu_o into every reader of h. mu_i, mu_f, mu_g stand between non-linearities, where a plain
LSTM has no weight: mu_i * mu_g and mu_f stay as factors, c_t = memory_scale * f * c_{t-1} + new_scale * i * g.
"""

from __future__ import annotations

from torch import Tensor, nn

from harvib.cells.gated import CompactForm, Kind, MaskedForm, PlainForm
from harvib.kernels import LSTMKernel

GATES = ("i", "f", "g", "o")

_LSTM = Kind(
    name="lstm",
    gates=GATES,
    deciding=("i", "g", "o"),
    output="o",
    factors={"new_scale": ("i", "g"), "memory_scale": ("f",)},
    kernel=LSTMKernel(),
    module=lambda inputs, hidden: nn.LSTM(inputs, hidden, batch_first=True),
)


class CompactLSTM(CompactForm):
    """A small LSTM with constant factors; memory_scale is zero where the forget gate is dropped."""

    KIND = _LSTM
    lstm: nn.LSTM
    new_scale: Tensor
    memory_scale: Tensor


class MaskedLSTM(MaskedForm):
    """The VIB-LSTM."""

    KIND = _LSTM
    COMPACT = CompactLSTM


class PlainLSTM(PlainForm):
    """torch.nn.LSTM with one layer."""

    KIND = _LSTM
    MASKED = MaskedLSTM
    lstm: nn.LSTM


def parameter_count(inputs: int, hidden: int) -> int:
    """4H(D + H) + 8H: four gates, two bias vectors."""
    return _LSTM.parameter_count(inputs, hidden)
