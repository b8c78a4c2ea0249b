"""Pooling models with random weights, for tests."""

from __future__ import annotations

from typing import Any

import torch
from test_compact import set_mask
from torch import Tensor

from harvib.pooling.made import pooling_spec
from harvib.pooling.model import PoolingClassifier
from harvib.pooling.norm import Norm


def plain_model(kind: str = "dbof", seed: int = 0, **changes: Any) -> PoolingClassifier:
    """With moving statistics and affine parts drawn at random, in float64, in evaluation mode."""
    torch.manual_seed(seed)
    told: dict[str, Any] = {
        "widths": (4, 3),
        "clusters": (5, 4),
        "hidden": 6,
        "classes": 4,
        "experts": 2,
        **changes,
    }
    model = pooling_spec(kind, **told).build().double()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Norm):
                module.mean.normal_()
                module.variance.uniform_(0.3, 2)
                module.weight.normal_()
                module.bias.normal_(1)
        model.experts.bias.normal_()
    return model.eval()


def masked_model(kind: str = "dbof", seed: int = 0, **changes: Any) -> PoolingClassifier:
    """Its masks keep everything, with means of both signs; DBoF is standardised, with some constant inputs."""
    model = plain_model(kind, seed, **changes).masked().double()
    if model.spec.masks_inputs:
        std = torch.rand(model.spec.inputs) + 0.3
        std[torch.rand(model.spec.inputs) < 0.15] = 0
        model.standardize_by(torch.randn(model.spec.inputs), std)
    for mask in model.masks().values():
        set_mask(mask, [True] * mask.mu.numel())
    return model.eval()


def clips(features: int, lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Padded with zeros, float64."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(lengths), max(lengths), features, generator=generator, dtype=torch.float64)
    for row, length in enumerate(lengths):
        x[row, length:] = 0
    return x, torch.tensor(lengths)
