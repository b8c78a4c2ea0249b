"""Whole models in TorchScript: features (B, T, D) and lengths (B,) to logits (B, C), any B and T."""

import torch
from torch import Tensor, nn

from harvib.cells.stack import Layer
from harvib.classifier import Classifier
from harvib.errors import InputError
from harvib.export.numbers import array
from harvib.export.script.cells import Linear, script_cell
from harvib.export.script.pooling import Pooled
from harvib.export.script.weights import Held
from harvib.models import SequenceClassifier
from harvib.pooling.model import PoolingClassifier
from harvib.unitrows import SMALLEST


class Model(nn.Module):
    """Rows of length 1 where asked for, the inputs that are read, and what a family makes of them."""

    selection: Tensor | None

    def __init__(self, small: Classifier, body: nn.Module) -> None:
        super().__init__()
        self.normalize, self.smallest, self.body = small.spec.normalize, float(SMALLEST), body
        reads = small.spec.inputs < small.spec.features
        self.register_buffer("selection", small.selection.cpu().int() if reads else None)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        x = features.float()
        if self.normalize:
            x = x / x.norm(2.0, -1, keepdim=True).clamp_min(self.smallest)
        selection = self.selection
        if selection is not None:
            x = x.index_select(2, selection)
        return self.body(x, lengths.to(x.device))


class Layers(nn.Module):
    """Layers of cells, each in one direction or both, the readout and the head."""

    def __init__(self, small: SequenceClassifier, held: Held) -> None:
        super().__init__()
        layers = [layer for layer in small.recurrent.layers if isinstance(layer, Layer)]
        self.layers = nn.ModuleList(Directions(layer, held) for layer in layers)
        self.projected, self.mean = small.recurrent.projected, small.spec.readout == "mean"
        self.backward_size = small.recurrent.backward_size
        self.head = Linear(held(array(small.head.weight)), array(small.head.bias))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        first = x
        for number, layer in enumerate(self.layers):
            x = layer(x, lengths)
            if number == 0:
                first = x
        if self.projected:
            x = torch.cat([first, x], dim=2)
        return self.head(self.read(x, lengths))

    def read(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The states of all steps as one vector a clip; see `harvib.readout`."""
        if self.mean:
            inside = torch.arange(x.size(1), device=x.device) < lengths[:, None]
            return torch.where(inside[:, :, None], x, torch.zeros_like(x)).sum(1) / lengths[:, None]
        ends = x[torch.arange(x.size(0), device=x.device), lengths - 1]
        if self.backward_size == 0:
            return ends
        forward = x.size(2) - self.backward_size
        return torch.cat([ends[:, :forward], x[:, 0, forward:]], dim=1)


class Directions(nn.Module):
    """The cells of one layer."""

    reads: Tensor | None

    def __init__(self, layer: Layer, held: Held) -> None:
        super().__init__()
        self.register_buffer("reads", None if layer.reads is None else layer.reads.cpu().clone())
        self.cells = nn.ModuleList(script_cell(cell, held) for _, cell in layer.directions())
        self.backward = [bool(direction) for direction, _ in layer.directions()]

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        reads = self.reads
        if reads is not None:
            x = x.index_select(2, reads)
        states: list[Tensor] = []
        for number, cell in enumerate(self.cells):
            if self.backward[number]:
                states.append(turned(cell(turned(x, lengths)), lengths))
            else:
                states.append(cell(x))
        return torch.cat(states, dim=2)


def turned(x: Tensor, lengths: Tensor) -> Tensor:
    """Each clip's own steps in reverse order; padding stays where it is."""
    steps = torch.arange(x.size(1), device=x.device)
    ends = lengths[:, None]
    order = torch.where(steps < ends, ends - 1 - steps, steps)
    return x.gather(1, order[:, :, None].expand_as(x))


def script_module(small: Classifier, held: Held) -> nn.Module:
    """A compact model as a module that torch.jit.script takes; InputError where nobody has written it."""
    if isinstance(small, SequenceClassifier):
        return Model(small, Layers(small, held)).eval()
    if isinstance(small, PoolingClassifier):
        return Model(small, Pooled(small, held)).eval()
    raise InputError(f"--format torchscript: a {small.spec.FAMILY} model cannot be written yet")
