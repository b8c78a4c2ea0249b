"""Rows of length 1: what `--normalize` makes of every feature row, as YouTube-8M's baselines do of each frame."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST = torch.finfo(torch.float32).tiny
"""A shorter row is as good as zero, and zero stays zero."""


def unit_rows(x: Tensor) -> Tensor:
    """(..., D) each row divided by its L2 norm over all its features; a zero row stays zero."""
    return x / x.norm(dim=-1, keepdim=True).clamp_min(SMALLEST)
