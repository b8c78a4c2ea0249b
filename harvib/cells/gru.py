"""The GRU: plain, with a VIB mask a gate, and compact.

    r,u = sigmoid(W_ih v_t + b_ih + W_hh h_{t-1} + b_hh)             k~ = z_k * k  for k in {r,u,n}
    n_t = tanh(W_in v_t + b_in + r~ * (W_hn h_{t-1} + b_hn))
    h_t = (1 - u~) * n~ + u~ * h_{t-1}

(The GRU of torch.nn.GRU, which calls the update gate z; masks after the non-linearity, shared by all steps of
a sequence, as Srivastava et al., WACV 2021, put them into the LSTM; h_0 = 0.)

What may be removed: unit j stays iff the candidate mask z_n keeps it. With z_n = 0, h_t = u~ * h_{t-1}, which zero
initial state keeps at zero for ever. The other masks remove nothing: with z_u = 0 a unit has no memory, h_t = n~;
with z_r = 0 its candidate does not see the states.

What may be folded: with h = mu_n * k, k_t = (1 - u~) * n + u~ * k_{t-1}. So mu_n goes into every reader of h,
exactly. mu_r and mu_u stand behind a sigmoid, where a plain GRU has no weight, and stay as factors.
"""

from __future__ import annotations

from torch import Tensor, nn

from harvib.cells.gated import CompactForm, Kind, MaskedForm, PlainForm
from harvib.kernels import GRUKernel

_GRU = Kind(
    name="gru",
    gates=("r", "u", "n"),
    deciding=("n",),
    output="n",
    factors={"reset_scale": ("r",), "update_scale": ("u",)},
    kernel=GRUKernel(),
    module=lambda inputs, hidden: nn.GRU(inputs, hidden, batch_first=True),
)


class CompactGRU(CompactForm):
    """A small GRU with constant factors on its reset and update gates."""

    KIND = _GRU
    gru: nn.GRU
    reset_scale: Tensor
    update_scale: Tensor


class MaskedGRU(MaskedForm):
    """The VIB-GRU."""

    KIND = _GRU
    COMPACT = CompactGRU


class PlainGRU(PlainForm):
    """torch.nn.GRU with one layer."""

    KIND = _GRU
    MASKED = MaskedGRU
    gru: nn.GRU
