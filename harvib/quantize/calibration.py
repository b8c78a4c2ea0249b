"""What the matrices of a model are multiplied by on the train clips: for the static scheme, which rounds by it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harvib.cells.stack import Layer
from harvib.data import ClipSet
from harvib.export.matrices import Seen
from harvib.metrics import BATCH
from harvib.models import SequenceClassifier


@torch.no_grad()
def observed(small: SequenceClassifier, clips: ClipSet) -> dict[str, Seen]:
    """For each matrix of a compact model, by the name that export gives it, the largest absolute values it meets.

    `ih` reads a cell's inputs, `hh` its own states. What stands in the padding behind a clip is not looked at.
    """
    largest: dict[str, np.ndarray] = {}
    # Of the batch in work: its clips' own steps, (B, T).
    inside = torch.zeros(0)

    def note(name: str, values: Tensor) -> None:
        if values.ndim == 3:
            values = values[inside]
        found = values.abs().flatten(0, -2).amax(0).float().cpu().numpy()
        largest[name] = np.maximum(largest.get(name, found), found)

    def of_cell(prefix: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, given: Any, states: Any) -> None:
            note(f"{prefix}ih", given[0])
            note(f"{prefix}hh", states)

        return hook

    device = small.head.weight.device
    with ExitStack() as hooks:
        for number, layer in enumerate(small.recurrent.layers):
            assert isinstance(layer, Layer)
            for direction, cell in layer.directions():
                handle = cell.register_forward_hook(of_cell(f"{number}{'fb'[direction]}."))
                hooks.callback(handle.remove)
        handle = small.head.register_forward_pre_hook(lambda module, given: note("head.ih", given[0]))
        hooks.callback(handle.remove)
        small.eval()
        for batch in clips.batches(BATCH, device):
            steps = torch.arange(batch.features.shape[1], device=device)
            inside = steps < batch.lengths[:, None]
            small(batch.features, batch.lengths)
    return {name: Seen(value) for name, value in largest.items()}
