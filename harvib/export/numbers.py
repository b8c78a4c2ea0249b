"""What every format but torch's own takes of a model: its numbers as numpy's, and what a gated cell is made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harvib.cells.factorised import CompactFactorised
from harvib.cells.gated import CompactForm, Kind
from harvib.pooling.norm import EPSILON, Norm


def array(value: Tensor) -> np.ndarray:
    """As float32."""
    return value.detach().cpu().float().numpy()


def array_of_indices(indices: np.ndarray) -> np.ndarray:
    """In as few bytes as hold them: a small model has as many inputs as other weights."""
    return indices.astype(np.uint16 if indices.max(initial=0) < 1 << 16 else np.uint32)


@dataclass(frozen=True, eq=False)
class GateValues:
    """Of a compact gated cell all but its matrices: biases (G*H,) and factors (H,) float32.

    The factors are those of the kind in its order, then the one on the states; None for one everywhere.
    """

    kind: Kind
    hidden: int
    bias_ih: np.ndarray
    bias_hh: np.ndarray
    factors: tuple[np.ndarray | None, ...]

    @classmethod
    def of(cls, cell: CompactForm | CompactFactorised) -> GateValues:
        """Those of a cell."""
        if isinstance(cell, CompactForm):
            kind, (bias_ih, bias_hh) = cell.KIND, cell.module.all_weights[0][2:]
        else:
            kind, bias_ih, bias_hh = cell.kind, cell.bias_ih, cell.bias_hh
        found = cell.factors()
        # The last may be one on the states.
        found += [torch.ones(cell.hidden_size)] * (len(kind.factors) + 1 - len(found))
        factors = tuple(None if bool((factor == 1).all()) else array(factor) for factor in found)
        return cls(kind, cell.hidden_size, array(bias_ih), array(bias_hh), factors)


def normed(norm: Norm) -> tuple[np.ndarray, np.ndarray]:
    """What batch normalisation in evaluation multiplies by and then adds, (U,) float32 each."""
    by = norm.weight.detach().double() / (norm.variance.double() + EPSILON).sqrt()
    return array(by), array(norm.bias.detach().double() - norm.mean.double() * by)
