"""The masked recurrences with their gradients written out, faster than autograd over a loop; one file a cell."""

from __future__ import annotations

from harvib.kernels.gru import GRUKernel
from harvib.kernels.lstm import LSTMKernel
from harvib.kernels.recurrence import Carried, Factors, Kernel, Step, Weights, run, stepper
from harvib.kernels.rnn import RNNKernel

__all__ = [
    "Carried",
    "Factors",
    "GRUKernel",
    "Kernel",
    "LSTMKernel",
    "RNNKernel",
    "Step",
    "Weights",
    "run",
    "stepper",
]
