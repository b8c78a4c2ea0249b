"""A model as a module of torch alone, and as a file of its weights under torch's own names.

One nn.LSTM, nn.GRU or nn.RNN where all layers have the same width and each reads all states of the one below;
otherwise one such module a layer and direction. Then one nn.Linear. In the file the weights of a single module are
`rnn.weight_ih_l0`, ..., `head.weight`, `head.bias`, those of several `rnn.<layer>.<direction>.weight_ih_l0`, ...
`harvib.export.card` says what stands beside them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from harvib.cells.feedforward import Feedforward
from harvib.cells.stack import Layer, reversed_in_time
from harvib.classifier import Classifier
from harvib.compact import Model, compact
from harvib.errors import InputError
from harvib.export.card import TorchCard
from harvib.export.made import Exported
from harvib.lasso import freeze_masks
from harvib.models import SequenceClassifier, recurrent
from harvib.readout import READOUTS
from harvib.weights import ModelCard, tensor_bytes

_SUFFIXES = ("", "_reverse")


class TorchClassifier(nn.Module):
    """Features (B, T, D) to logits (B, C): `rnn` and `head` are torch's own modules, all weights are theirs.

    A `projection`, where there is one, is an nn.Linear before `rnn`, which reads its values `projected` (K,); the
    head reads all of them, before the states.
    `lengths` (B,) tells the steps of each clip where clips are padded; without it all steps count.
    """

    inputs: Tensor
    projected: Tensor | None

    def __init__(
        self,
        inputs: Tensor,
        rnn: nn.Module | None,
        head: nn.Linear,
        readout: str,
        backward: int,
        projection: nn.Linear | None = None,
        projected: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("inputs", inputs, persistent=False)
        self.projection = projection
        self.register_buffer("projected", projected, persistent=False)
        self.rnn = rnn
        self.head = head
        self.readout, self.backward_size = readout, backward

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if lengths is None:
            lengths = torch.full((len(x),), x.shape[1], device=x.device)
        states = x[..., self.inputs].to(self.head.weight.dtype)
        before: list[Tensor] = []
        if self.projection is not None:
            before = [self.projection(states)]
            states = before[0][..., self.projected]
        if isinstance(self.rnn, nn.RNNBase):
            packed = pack_padded_sequence(states, lengths.cpu(), batch_first=True, enforce_sorted=False)
            states, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=x.shape[1])
        elif self.rnn is not None:
            states = self.rnn(states, lengths)
        return self.head(READOUTS[self.readout](torch.cat([*before, states], 2), lengths, self.backward_size))


class TorchLayers(nn.ModuleList):
    """Layers of different widths: an nn.ModuleList of layers, each an nn.ModuleDict of torch modules by direction.

    Direction 1 sees each clip reversed within its own length. Layer l takes `reads[l]` of the states below, (K,)
    indices, or all of them for None.
    """

    def __init__(self, layers: list[nn.ModuleDict], reads: list[Tensor | None]) -> None:
        super().__init__(layers)
        for number, chosen in enumerate(reads):
            self.register_buffer(f"reads_{number}", chosen, persistent=False)

    def layers(self) -> list[nn.ModuleDict]:
        """The modules by layer; of each `0` is its forward and `1` its backward one."""
        return [layer for layer in self if isinstance(layer, nn.ModuleDict)]

    def reads(self) -> list[Tensor | None]:
        """What each layer reads."""
        return [getattr(self, f"reads_{number}") for number in range(len(self))]

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        for layer, chosen in zip(self.layers(), self.reads(), strict=True):
            x = x if chosen is None else x[..., chosen]
            states = [
                reversed_in_time(cell(reversed_in_time(x, lengths))[0], lengths) if key == "1" else cell(x)[0]
                for key, cell in layer.items()
            ]
            x = torch.cat(states, dim=2)
        return x


@torch.no_grad()
def to_torch(model: SequenceClassifier) -> TorchClassifier:
    """The same function as a module of torch alone, in evaluation mode; a plain or masked one is compacted first.

    Raises InputError where factors of the masks stand where torch's modules have no weight, and for cells that are
    none of these modules.
    """
    if issubclass(model.spec.kind, Feedforward):
        raise InputError(
            f"--format torch holds nn.LSTM, nn.GRU, nn.RNN and nn.Linear; {model.spec.cell} is none of them"
        )
    if model.spec.normalize:
        raise InputError(
            "--format torch holds weights alone, and this model divides each row by its length first "
            "(--normalize): say --format onnx"
        )
    if model.spec.factor is not None:
        raise InputError("a factorised model has no form in torch's modules: they hold dense matrices")
    small = compact_form(model)
    layers = [layer for layer in small.recurrent.layers if isinstance(layer, Layer)]
    projection, projected = None, None
    if small.spec.cell == "linear":
        # All that the head reads are the values of the projection; no layer stands behind it.
        projected = torch.arange(0)
        linear = layers.pop().directions()[0][1].linear
        assert isinstance(linear, nn.Linear)
        projection = copy.deepcopy(linear)
    elif small.spec.projected:
        first, *layers = layers
        linear = first.directions()[0][1].linear
        assert isinstance(linear, nn.Linear)
        projection = copy.deepcopy(linear)
        projected, layers[0] = layers[0].reads, Layer([cell for _, cell in layers[0].directions()])
    rnn = None if small.spec.cell in ("mean", "linear") else _single(layers) or _several(layers)
    head = nn.Linear(small.head.in_features, small.head.out_features).to(small.head.weight)
    head.load_state_dict(small.head.state_dict())
    module = TorchClassifier(
        small.selection.clone(),
        rnn,
        head,
        small.spec.readout,
        small.recurrent.backward_size,
        projection,
        projected,
    )
    return module.to(small.head.weight.device).eval()


def torch_file(model: Classifier, card: ModelCard, out: Path, quantize: str) -> Exported:
    """`to_torch` of a model as safetensors; raises InputError as that does, and for anything but floats."""
    model = recurrent(model, "--format torch", "; say --format onnx or torchscript")
    if quantize != "none":
        raise InputError(
            f"--quantize {quantize}: torch's modules have no weights but floats: say --format torchscript"
        )
    module = to_torch(model)
    told = TorchCard(
        cell=model.spec.cell,
        features=model.spec.features,
        inputs=tuple(module.inputs.tolist()),
        shape=_shape(module.rnn),
        reads=_reads(module.rnn),
        readout=module.readout,
        classes=card.classes,
        fingerprint=card.fingerprint,
        stream=card.stream,
        projected=None if module.projected is None else tuple(module.projected.tolist()),
    )
    data = tensor_bytes(module.state_dict(), told.metadata() | card.extra)
    return Exported({out: data}, f"{out}: {described(module)}")


def described(module: TorchClassifier) -> str:
    """The torch modules that it consists of, as Python would make them."""
    shape = _shape(module.rnn)
    parts = [f"nn.Linear({module.head.in_features}, {module.head.out_features})"]
    if isinstance(module.rnn, nn.RNNBase):
        parts.insert(0, f"nn.{module.rnn}".replace(", batch_first=True", ""))
    elif shape:
        widths = " then ".join(" and ".join(str(width) for width in layer) for layer in shape)
        parts.insert(0, f"one torch module a layer and direction, of {widths} units")
    if module.projection is not None:
        linear = module.projection
        parts.insert(0, f"nn.Linear({linear.in_features}, {linear.out_features}) before it")
    return f"inputs {len(module.inputs):,}, {', '.join(parts)}"


def compact_form(model: Model) -> Model:
    """The same function as a compact model; what is one already, as it is."""
    if model.spec.state == "compact":
        return model
    if model.spec.state == "plain":
        # Open masks change nothing, and their compaction folds the standardisation into the weights.
        model = model.masked()
        freeze_masks(model, open_all=True)
        small = compact(model.eval())
        # Factors of open masks are one.
        small.use_hard_scales()
        return small
    return compact(model.eval())


def _single(layers: list[Layer]) -> nn.RNNBase | None:
    """All layers as one module of torch, where there is one."""
    widths = layers[0].widths
    if any(layer.widths != widths for layer in layers):
        return None
    if widths[1:] == (0,):
        widths = widths[:1]
    if len(set(widths)) > 1:
        return None
    if any(layer.reads is not None and layer.reads.tolist() != list(range(sum(widths))) for layer in layers[1:]):
        return None
    first = _module(layers[0], 0)
    # What the first cell is, but for its size, all others are.
    options = {"nonlinearity": first.nonlinearity} if isinstance(first, nn.RNN) else {}
    kind: Callable[..., nn.RNNBase] = type(first)
    rnn = kind(
        first.input_size,
        first.hidden_size,
        len(layers),
        batch_first=True,
        bidirectional=len(widths) > 1,
        **options,
    ).to(first.all_weights[0][0])
    for number, layer in enumerate(layers):
        for direction, suffix in enumerate(_SUFFIXES[: len(widths)]):
            for name, weight in _module(layer, direction).named_parameters():
                getattr(rnn, f"{name.removesuffix('_l0')}_l{number}{suffix}").copy_(weight)
    return rnn


def _several(layers: list[Layer]) -> TorchLayers:
    found = [
        nn.ModuleDict({str(direction): _module(layer, direction) for direction, _ in layer.directions()})
        for layer in layers
    ]
    return TorchLayers(found, [None if layer.reads is None else layer.reads.clone() for layer in layers])


def _module(layer: Layer, direction: int) -> nn.RNNBase:
    module = dict(layer.directions())[direction].torch_module()
    if module is None:
        raise InputError(
            "the masks' factors are part of this model (--keep-scales, or --finetune-epochs 0), and torch's "
            "modules have no weight for them: train with fine-tuning and leave out --keep-scales"
        )
    return module


def _shape(rnn: nn.Module | None) -> tuple[tuple[int, ...], ...]:
    """Units by layer and direction, 0 where a direction has no cell; none without a recurrence."""
    if isinstance(rnn, nn.RNNBase):
        return ((rnn.hidden_size,) * (2 if rnn.bidirectional else 1),) * rnn.num_layers
    if not isinstance(rnn, TorchLayers):
        return ()
    sizes: list[dict[str, int]] = [
        {key: cell.hidden_size for key, cell in layer.items() if isinstance(cell, nn.RNNBase)}
        for layer in rnn.layers()
    ]
    count = 2 if any("1" in layer for layer in sizes) else 1
    return tuple(tuple(layer.get(str(direction), 0) for direction in range(count)) for layer in sizes)


def _reads(rnn: nn.Module | None) -> tuple[tuple[int, ...] | None, ...]:
    if not isinstance(rnn, TorchLayers):
        return (None,) * len(_shape(rnn))
    return tuple(None if chosen is None else tuple(chosen.tolist()) for chosen in rnn.reads())
