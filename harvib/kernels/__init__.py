"""The masked recurrences with their gradients written out, faster than autograd over a loop; one file a cell."""

from __future__ import annotations

from harvib.kernels.gru import GRUKernel
from harvib.kernels.lstm import LSTMKernel
from harvib.kernels.recurrence import Kernel, Weights, run
from harvib.kernels.rnn import RNNKernel

__all__ = ["GRUKernel", "Kernel", "LSTMKernel", "RNNKernel", "Weights", "run"]
