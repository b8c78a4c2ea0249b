"""Classifiers made elsewhere: a torch `nn.LSTM/GRU/RNN` with one `nn.Linear` on it, read from a file of weights.

The recurrent part is known by torch's names (`weight_ih_l0`, `bias_hh_l1_reverse`, ...) under any prefix, the cell
by its number of gates; all that remains must be one Linear. What weights do not tell (readout, the non-linearity
of an RNN, the order of the classes) the user says or answers for.

Safetensors hold numbers alone. A TorchScript file is a program: PyTorch's C++ reader loads it and nothing of it is
called, but one that brings code to run while it is read (`__setstate__`) is refused. Pickles are refused always.
What `harvib export --format torch` wrote tells all of this, and which of a clip's features it reads.
"""

from __future__ import annotations

import hashlib
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from harvib.cells import CELLS, Stack, shape_of
from harvib.cells.stack import Layer
from harvib.errors import InputError
from harvib.export.card import TorchCard, read_card
from harvib.models import ModelSpec, SequenceClassifier
from harvib.readout import READOUTS
from harvib.scriptfile import DAMAGE

NONLINEARITIES = ("tanh", "relu")
_CELL_OF_GATES = {4: "lstm", 3: "gru", 1: "rnn"}
_MODULES: dict[str, Callable[..., nn.RNNBase]] = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn": nn.RNN,
    "rnn-relu": nn.RNN,
}
_RECURRENT = re.compile(r"(|.*\.)((?:weight|bias)_(?:ih|hh|hr)_l[0-9]{1,3}(?:_reverse)?)")
_TOLERANCE = 1e-9
_ZIP = b"PK\x03\x04"


@dataclass(frozen=True, eq=False)
class ForeignModel:
    """What was found in a file: the plain classifier, its hidden units a layer and direction, the file's hash.

    `card` holds classes and features' fingerprint where the file tells them.
    """

    path: Path
    sha256: str
    classifier: SequenceClassifier
    biases: bool
    card: TorchCard | None = None

    @property
    def hidden(self) -> int:
        """Hidden units in each layer and direction."""
        return self.classifier.spec.shape[0][0]

    @property
    def bidirectional(self) -> bool:
        """Whether each layer has a backward cell."""
        return len(self.classifier.spec.shape[0]) == 2

    def described(self) -> str:
        """One line on what was found."""
        spec = self.classifier.spec
        layers = len(spec.shape)
        inputs = str(spec.inputs) if spec.inputs == spec.features else f"{spec.inputs} of {spec.features}"
        return (
            f"{spec.cell} with {inputs} inputs, {self.hidden} hidden units, {layers} layer"
            f"{'s' if layers > 1 else ''}{', both directions' if self.bidirectional else ''}"
            f"{'' if self.biases else ', without biases'}; readout {spec.readout}; {spec.classes} classes"
        )


def read_foreign(path: Path, readout: str | None = None, nonlinearity: str | None = None) -> ForeignModel:
    """Read and check a classifier from a safetensors or TorchScript file; its logits are compared with torch's.

    `readout` is how the head sees the states: `last`, each direction's final state (torch's h_n), or `mean` over
    the clip's steps. `nonlinearity` must be said for an nn.RNN and for no other. A file of `harvib export` tells
    both itself. Raises InputError.
    """
    told = read_card(path)
    if told is not None:
        readout, nonlinearity = _agreed(path, told, readout, nonlinearity)
    weights = _read(path)
    if readout is None:
        raise InputError(f"--readout: {path} does not tell it; say one of {', '.join(READOUTS)}")
    if readout not in READOUTS:
        raise InputError(f"--readout {readout}: choose one of {', '.join(READOUTS)}")
    if nonlinearity not in (None, *NONLINEARITIES):
        raise InputError(f"--nonlinearity {nonlinearity}: choose one of {', '.join(NONLINEARITIES)}")
    for name, value in weights.items():
        if not value.is_floating_point() or value.is_quantized:
            raise InputError(f"{path}: {name} is {value.dtype}; only floating-point weights can be pruned")
        if not torch.isfinite(value.float()).all():
            raise InputError(f"{path}: {name} holds NaN or infinity")
    if told is not None and told.projected is not None:
        raise InputError(f"{path}: a model with a projection; start from its run by `harvib train --init`")
    recurrent, rest = _divided(path, weights)
    cell = _cell(path, recurrent, nonlinearity)
    module = _module(path, recurrent, cell)
    head = _head(path, rest, module)
    classifier = _classifier(module, head, cell, readout)
    if told is not None:
        _choose_inputs(path, classifier, told)
    _verify(path, classifier, module, head)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return ForeignModel(path, sha256, classifier, module.bias, told)


def stack_of(module: nn.RNNBase) -> Stack:
    """The weights of an nn.LSTM, nn.GRU or nn.RNN as a plain stack of cells; zero biases where it has none."""
    if module.proj_size:
        raise InputError("an LSTM with proj_size cannot be pruned: its states are projected; train one without")
    shape = shape_of(module.hidden_size, module.num_layers, module.bidirectional)
    first = module.all_weights[0][0]
    stack = Stack.plain(CELLS[cell_name(module)], module.input_size, shape).to(first.device, first.dtype)
    for number, layer in enumerate(stack.layers):
        assert isinstance(layer, Layer)
        for direction, cell in layer.directions():
            (inner,) = (child for child in cell.children() if isinstance(child, nn.RNNBase))
            suffix = f"_l{number}{'_reverse' if direction else ''}"
            with torch.no_grad():
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                    weight = getattr(inner, name + "_l0")
                    present = module.bias or name.startswith("weight")
                    weight.copy_(getattr(module, name + suffix) if present else torch.zeros_like(weight))
    return stack


def cell_name(module: nn.RNNBase) -> str:
    """The name in CELLS of a torch module's cell."""
    name = module.mode.lower()
    return {"rnn_tanh": "rnn", "rnn_relu": "rnn-relu"}.get(name, name)


def _agreed(path: Path, told: TorchCard, readout: str | None, nonlinearity: str | None) -> tuple[str, str | None]:
    """Readout and non-linearity as the file tells them; InputError where the user says otherwise."""
    pairs = (("readout", readout, told.readout), ("nonlinearity", nonlinearity, told.nonlinearity))
    for option, said, right in pairs:
        if said not in (None, right):
            raise InputError(f"--{option} {said}: {path} says {right}; leave the option out")
    return told.readout, told.nonlinearity


def _choose_inputs(path: Path, classifier: SequenceClassifier, told: TorchCard) -> None:
    """Let a classifier read those features of a clip that the file tells."""
    if (len(told.inputs), len(told.classes)) != (classifier.spec.inputs, classifier.spec.classes):
        raise InputError(f"{path}: its metadata do not fit its weights; export it again")
    classifier.spec = replace(classifier.spec, features=told.features)
    classifier.selection.copy_(torch.tensor(told.inputs))


def _read(path: Path) -> dict[str, Tensor]:
    """All tensors of a file by name."""
    if not path.is_file():
        raise InputError(f"{path}: no such model file")
    with path.open("rb") as stream:
        if stream.read(len(_ZIP)) == _ZIP:
            return _read_torchscript(path)
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("format") == "harvib":
                raise InputError(f"{path}: a model of harvib itself: start from its run by `harvib train --init`")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: neither a safetensors nor a TorchScript file: {error}") from error


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            code = [archive.read(name) for name in names if "/code/" in name and name.endswith(".py")]
    except DAMAGE as error:
        raise _unreadable(path, error) from error
    if not any(name.endswith("/constants.pkl") for name in names):
        raise InputError(
            f"{path}: a pickle of torch.save, which may run any code when it is read: save the weights by "
            "safetensors.torch.save_file(model.state_dict(), ...)"
        )
    if any(b"__setstate__" in text for text in code):
        raise InputError(f"{path}: brings code that runs while it is read; save the weights as safetensors")
    try:
        with warnings.catch_warnings():
            # PyTorch means its own successor of the format; files of this one exist and can be read.
            warnings.filterwarnings("ignore", ".*is deprecated", FutureWarning)
            module = torch.jit.load(str(path), map_location="cpu")
    except DAMAGE as error:
        raise _unreadable(path, error) from error
    return dict(module.state_dict())


def _unreadable(path: Path, error: BaseException) -> InputError:
    first = str(error).strip().partition("\n")[0]
    return InputError(f"{path}: not a readable TorchScript file: {first}")


def _divided(path: Path, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights of the recurrent part by torch's own names, and all others."""
    recurrent: dict[str, Tensor] = {}
    rest: dict[str, Tensor] = {}
    prefixes: set[str] = set()
    for name, value in weights.items():
        if match := _RECURRENT.fullmatch(name):
            prefixes.add(match[1])
            recurrent[match[2]] = value
        else:
            rest[name] = value
    if not prefixes:
        raise InputError(f"{path}: no weights of an nn.LSTM, nn.GRU or nn.RNN (such as rnn.weight_ih_l0) in it")
    if len(prefixes) > 1:
        shown = ", ".join(sorted(prefix.rstrip(".") or "(top)" for prefix in prefixes))
        raise InputError(f"{path}: several recurrent parts ({shown}); one with a Linear on it can be pruned")
    return recurrent, rest


def _cell(path: Path, recurrent: Mapping[str, Tensor], nonlinearity: str | None) -> str:
    """The name in CELLS, by the number of gates and, of an RNN, by what the user says."""
    if any("_hr_" in name for name in recurrent):
        raise InputError(f"{path}: an LSTM with proj_size cannot be pruned: its states are projected")
    weight = recurrent.get("weight_hh_l0")
    if weight is None or weight.ndim != 2 or not weight.numel():
        raise InputError(f"{path}: weight_hh_l0 is missing or no matrix")
    rows, hidden = weight.shape
    cell = _CELL_OF_GATES.get(rows // hidden) if rows % hidden == 0 else None
    if cell is None:
        raise InputError(f"{path}: weight_hh_l0 is {rows} x {hidden}, no LSTM (4:1), GRU (3:1), RNN (1:1)")
    if (cell == "rnn") != (nonlinearity is not None):
        said = "say --nonlinearity tanh or relu, which weights do not tell"
        reason = f"an RNN: {said}" if cell == "rnn" else f"{cell}: leave out --nonlinearity, which is for an RNN"
        raise InputError(f"{path} holds {reason}")
    return "rnn-relu" if nonlinearity == "relu" else cell


def _module(path: Path, recurrent: Mapping[str, Tensor], cell: str) -> nn.RNNBase:
    """The torch module with these weights, in float32."""
    first = recurrent.get("weight_ih_l0")
    if first is None or first.ndim != 2 or not first.numel():
        raise InputError(f"{path}: weight_ih_l0 is missing or no matrix")
    layers = 1 + max(int(re.findall(r"_l([0-9]+)", name)[0]) for name in recurrent)
    options = {"nonlinearity": "relu" if cell == "rnn-relu" else "tanh"} if "rnn" in cell else {}
    with torch.device("meta"):
        module = _MODULES[cell](
            first.shape[1],
            recurrent["weight_hh_l0"].shape[1],
            layers,
            bias=any(name.startswith("bias") for name in recurrent),
            bidirectional=any(name.endswith("_reverse") for name in recurrent),
            batch_first=True,
            **options,
        )
    _fill(path, module, recurrent)
    return module


def _head(path: Path, rest: Mapping[str, Tensor], module: nn.RNNBase) -> nn.Linear:
    """The one Linear that all other weights must be."""
    states = module.hidden_size * (2 if module.bidirectional else 1)
    weights = [name for name in rest if name.rpartition(".")[2] == "weight" and rest[name].ndim == 2]
    prefix = weights[0].rpartition("weight")[0] if weights else ""
    others = sorted(rest.keys() - {f"{prefix}weight", f"{prefix}bias"})
    if not weights or others:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        found = f"there are also {shown}" if weights else f"found {shown or 'nothing'}"
        raise InputError(f"{path}: beside the recurrent part only one nn.Linear, its head, can be read; {found}")
    classes, width = rest[weights[0]].shape
    if width != states or not classes:
        raise InputError(f"{path}: the head {weights[0]} reads {width} values, the recurrent part has {states}")
    with torch.device("meta"):
        head = nn.Linear(width, classes, bias=f"{prefix}bias" in rest)
    _fill(path, head, {name.removeprefix(prefix): value for name, value in rest.items()})
    return head


def _fill(path: Path, module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a module on the meta device its weights, as float32 of its own; names and shapes must be its own."""
    expected = module.state_dict()
    if differing := sorted(expected.keys() ^ weights.keys()):
        place = "missing" if differing[0] in expected else "not expected"
        raise InputError(f"{path}: {differing[0]} is {place} in a {type(module).__name__} of this shape")
    for name, wanted in expected.items():
        if weights[name].shape != wanted.shape:
            raise InputError(
                f"{path}: {name} is {tuple(weights[name].shape)}, a {type(module).__name__} with these layers "
                f"has {tuple(wanted.shape)}"
            )
    own = {name: value.detach().float().clone().contiguous() for name, value in weights.items()}
    module.load_state_dict(own, assign=True)


def _classifier(module: nn.RNNBase, head: nn.Linear, cell: str, readout: str) -> SequenceClassifier:
    inputs = module.input_size
    shape = shape_of(module.hidden_size, module.num_layers, module.bidirectional)
    model = SequenceClassifier(ModelSpec(cell, "plain", inputs, inputs, shape, head.out_features, readout))
    model.recurrent = stack_of(module)
    with torch.no_grad():
        model.head.weight.copy_(head.weight)
        model.head.bias.copy_(torch.zeros(()) if head.bias is None else head.bias)
    return model.eval()


@torch.no_grad()
def _verify(path: Path, classifier: SequenceClassifier, module: nn.RNNBase, head: nn.Linear) -> None:
    """Random clips through torch's modules and through ours, in float64; beyond rounding is our own defect."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, classifier.spec.features, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([4, 1, 3])
    read = x[..., classifier.selection]
    packed = nn.utils.rnn.pack_padded_sequence(read, lengths, batch_first=True, enforce_sorted=False)
    output, state = module.double()(packed)
    if classifier.spec.readout == "last":
        final = state[0] if isinstance(state, tuple) else state
        states = torch.cat(list(final[-2 if module.bidirectional else -1 :]), dim=1)
    else:
        padded, _ = nn.utils.rnn.pad_packed_sequence(output, batch_first=True)
        states = padded.sum(1) / lengths[:, None]
    theirs = head.double()(states)
    ours = classifier.double()(x, lengths)
    classifier.float()
    if not torch.isfinite(theirs).all():
        raise InputError(f"{path}: its logits on random input are not finite; were the weights damaged?")
    difference = float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1))
    if not difference <= _TOLERANCE:
        raise RuntimeError(f"{path}: our form of it differs from torch's by {difference:.2e} in float64")
