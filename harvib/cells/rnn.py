"""The simple recurrent network: plain, with a VIB mask on its states, and compact.

    h_t = z * act(W_ih v_t + b_ih + W_hh h_{t-1} + b_hh)        act = tanh or relu

(torch.nn.RNN; the mask after the non-linearity, shared by all steps of a sequence, as Srivastava et al., WACV
2021, put theirs into the LSTM; h_0 = 0.)

What may be removed: unit j stays iff z keeps it; with z = 0 its state is zero at every step and no reader sees
it. What may be folded: with h = mu * k, k_t = act(W_ih v_t + b + W_hh (mu * k_{t-1})). So mu goes into every
reader of h, the cell's own W_hh among them, exactly: the compact cell is always a plain nn.RNN.
"""

from __future__ import annotations

from torch import nn

from harvib.cells.gated import CompactForm, Kind, MaskedForm, PlainForm
from harvib.kernels import RNNKernel


def _kind(nonlinearity: str) -> Kind:
    return Kind(
        name="rnn",
        gates=("h",),
        deciding=("h",),
        output="h",
        factors={},
        kernel=RNNKernel(nonlinearity),
        module=lambda inputs, hidden: nn.RNN(inputs, hidden, nonlinearity=nonlinearity, batch_first=True),
    )


_TANH, _RELU = _kind("tanh"), _kind("relu")


class CompactRNN(CompactForm):
    """A small nn.RNN."""

    KIND = _TANH


class CompactReluRNN(CompactForm):
    """The same with relu."""

    KIND = _RELU


class MaskedRNN(MaskedForm):
    """The VIB-RNN: a mask of H factors on the states."""

    KIND = _TANH
    COMPACT = CompactRNN


class MaskedReluRNN(MaskedForm):
    """The same with relu."""

    KIND = _RELU
    COMPACT = CompactReluRNN


class PlainRNN(PlainForm):
    """torch.nn.RNN with one layer and tanh."""

    KIND = _TANH
    MASKED = MaskedRNN


class PlainReluRNN(PlainForm):
    """The same with relu."""

    KIND = _RELU
    MASKED = MaskedReluRNN
