"""Stand-ins for nn.LSTM, nn.GRU and nn.RNN with the same call: masked, and compact. `harvib.wrap` puts them in.

They take what torch's modules take: (B, T, D), (T, B, D), (T, D) or a PackedSequence, and return the output and
h_n; layers, both directions and dropout between layers as there. Three things differ:

- The initial state is zero: None or zeros. What may be removed without a change rests on that.
- c_n of an LSTM is not computed: it is `UnknownState`, which raises InputError as soon as it is used.
- Biases are there, from zero, where the module had none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from harvib.cells import Shape, Stack
from harvib.cells.stack import Layer
from harvib.errors import InputError
from harvib.foreign import stack_of
from harvib.masks import VIBMask
from harvib.readout import last

Finals = Tensor | tuple[Tensor, ...]


class UnknownState:
    """In place of an LSTM's c_n: may be passed on and dropped, never used."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise InputError("the cell state c_n of a masked or compact LSTM is not computed: read h_n or the output")

    __getattr__ = __getitem__ = __iter__ = __len__ = __add__ = __mul__ = __radd__ = __rmul__ = _refuse

    @classmethod
    def __torch_function__(cls, *_: Any, **__: Any) -> NoReturn:
        cls()._refuse()


class DropIn(nn.Module, ABC):
    """The call and the attributes of torch's recurrent modules."""

    mode: str
    batch_first: bool
    bidirectional: bool
    input_size: int
    hidden_size: int
    num_layers: int
    dropout: float
    proj_size: ClassVar[int] = 0
    bias: ClassVar[bool] = True

    def __init__(self, like: nn.RNNBase | DropIn) -> None:
        super().__init__()
        self.mode, self.batch_first, self.bidirectional = like.mode, like.batch_first, like.bidirectional
        self.input_size, self.hidden_size = like.input_size, like.hidden_size
        self.num_layers, self.dropout = like.num_layers, like.dropout

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    def flatten_parameters(self) -> None:
        """Nothing: there is no need here."""

    def forward(self, x: Tensor | PackedSequence, hx: Any = None) -> tuple[Any, Any]:
        """As torch's: the output like x, and h_n or (h_n, c_n)."""
        _check_initial(hx)
        if isinstance(x, PackedSequence):
            padded, lengths = pad_packed_sequence(x, batch_first=True)
            output, finals = self._run(padded, lengths.to(padded.device))
            # Lengths from the CPU, where torch wants them.
            packed = pack_padded_sequence(output, lengths, True, enforce_sorted=x.sorted_indices is None)
            return packed, self._state(finals)
        if x.dim() not in (2, 3):
            raise InputError(f"a recurrent module reads 2 or 3 dimensions, not {x.dim()}")
        turned = x.dim() == 3 and not self.batch_first
        steps = x[None] if x.dim() == 2 else x.transpose(0, 1) if turned else x
        if steps.shape[2] != self.input_size or not steps.shape[1]:
            raise InputError(f"expected at least one step of {self.input_size} values, got {tuple(x.shape)}")
        lengths = torch.full((len(steps),), steps.shape[1], device=steps.device)
        output, finals = self._run(steps, lengths)
        if x.dim() == 2:
            finals = finals[:, 0] if isinstance(finals, Tensor) else tuple(one[0] for one in finals)
            return output[0], self._state(finals)
        return output.transpose(0, 1) if turned else output, self._state(finals)

    @abstractmethod
    def _run(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Finals]:
        """(B, T, D) to the last layer's states and all final states, (layers * directions, B, H)."""

    def _between(self, x: Tensor, number: int) -> Tensor:
        """Dropout between layers, in training, as torch has it."""
        return nn.functional.dropout(x, self.dropout, self.training and number < self.num_layers - 1)

    def _state(self, finals: Finals) -> Any:
        return (finals, UnknownState()) if self.mode == "LSTM" else finals


class Masked(DropIn):
    """With VIB masks on the gates, between layers and, where asked for, on the inputs."""

    def __init__(self, plain: nn.RNNBase, inputs: bool) -> None:
        super().__init__(plain)
        weight = plain.all_weights[0][0]
        self.stack = stack_of(plain).masked().to(weight.device, weight.dtype)
        self.input_mask = VIBMask(plain.input_size).to(weight.device, weight.dtype) if inputs else None
        self.train(plain.training)

    def masks(self) -> dict[str, VIBMask]:
        """The masks by name: `input`, and the cells' as `Stack.masks` names them."""
        return ({} if self.input_mask is None else {"input": self.input_mask}) | self.stack.masks()

    def kept_inputs(self) -> Tensor:
        """Indices of the inputs that the mask keeps."""
        if self.input_mask is None:
            return torch.arange(self.input_size, device=next(self.parameters()).device)
        return self.input_mask.hard().nonzero().squeeze(1)

    def kept_units(self) -> Shape:
        """How many units are alive, by layer and direction."""
        return self.stack.kept_units(self.kept_inputs())

    def _run(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Finals]:
        finals: list[Tensor] = []
        above = [self.input_mask, *self.stack.between]
        for number, (mask, layer) in enumerate(zip(above, self.stack.layers, strict=True)):
            if mask is not None:
                x = x * mask(len(x))[:, None]
            x = layer(x, lengths)
            backward = self.hidden_size if self.bidirectional else 0
            finals += last(x, lengths, backward).chunk(self.directions, dim=1)
            x = self._between(x, number)
        return x, torch.stack(finals)


class Compact(DropIn):
    """What the masks keep. As wide as before, with zeros where units are gone, unless `narrow`.

    Narrow: the output has the kept units alone; h_n is of the last layer, (1, B, K), in both directions a pair
    of (B, K), which may differ in width.
    """

    def __init__(self, masked: Masked, narrow: bool = False) -> None:
        super().__init__(masked)
        self.narrow = narrow
        inputs = masked.kept_inputs()
        self._refuse_nothing(masked, inputs)
        reads = inputs
        first = masked.input_mask
        scale = torch.ones(self.input_size, dtype=torch.float64, device=inputs.device)
        scale = scale if first is None else first.hard().double()
        shift = torch.zeros_like(scale)
        layers = []
        for number, layer in enumerate(masked.stack.layers):
            assert isinstance(layer, Layer)
            if number:
                mask = masked.stack.between[number - 1]
                assert isinstance(mask, VIBMask)
                hard = mask.hard().double()
                reads = (hard[inputs] != 0).nonzero().squeeze(1)
                inputs, scale, shift = inputs[reads], scale * hard, shift * hard
            result = Stack([layer]).compacted(inputs, scale, shift)
            layers.append(_CompactLayer(result.stack, reads, result.units, result.scale, result.shift))
            inputs, scale, shift = result.units, result.scale, result.shift
        self.layers = nn.ModuleList(layers).to(dtype=next(masked.parameters()).dtype)
        self.train(masked.training)

    @property
    def reading(self) -> tuple[Tensor, Tensor, Tensor]:
        """Units, scale and shift for a Linear behind the narrow output: see `harvib.cells.base.Compacted`."""
        top = self._layers()[-1]
        return top.units, top.scale, top.shift

    def parameter_count(self) -> int:
        """By the cells' formulas, factors that masks have left among them."""
        return sum(layer.stack.parameter_count() for layer in self._layers())

    def _layers(self) -> list[_CompactLayer]:
        return [layer for layer in self.layers if isinstance(layer, _CompactLayer)]

    def _run(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Finals]:
        finals: list[Tensor] = []
        layers = self._layers()
        for number, layer in enumerate(layers):
            x = layer.stack(x[..., layer.reads], lengths)
            ends = last(x, lengths, layer.stack.backward_size)
            if not self.narrow:
                finals += layer.spread(ends).chunk(self.directions, dim=1)
            x = self._between(x, number)
        if not self.narrow:
            return layers[-1].spread(x), torch.stack(finals)
        one_way = not self.bidirectional
        return x, ends[None] if one_way else ends.split(layers[-1].stack.shape[-1], dim=1)

    @staticmethod
    def _refuse_nothing(masked: Masked, inputs: Tensor) -> None:
        if not len(inputs):
            raise InputError("no input feature is left: the penalty on the input masks is too strong, lower it")
        kept = zip(masked.kept_units(), masked.stack.kept_reads(inputs), strict=True)
        for number, (widths, reads) in enumerate(kept, 1):
            if not sum(widths) or not reads:
                raise InputError(f"no hidden unit is left in layer {number}: the penalty is too strong, lower it")


class _CompactLayer(nn.Module):
    """A stack of one compact layer, what it reads of the layer below, and how its states are seen from outside."""

    reads: Tensor
    units: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, stack: Stack, reads: Tensor, units: Tensor, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.stack = stack
        for name, value in {"reads": reads, "units": units, "scale": scale, "shift": shift}.items():
            self.register_buffer(name, value)

    def spread(self, narrow: Tensor) -> Tensor:
        """(..., K) kept states to the (..., H) of the masked layer."""
        wide = self.shift.expand(*narrow.shape[:-1], -1).clone()
        wide[..., self.units] = narrow * self.scale[self.units] + self.shift[self.units]
        return wide


def _check_initial(hx: Any) -> None:
    for state in hx if isinstance(hx, tuple | list) else (hx,):
        if isinstance(state, UnknownState) or (state is not None and bool(state.any())):
            raise InputError(
                "a masked or compact module starts from zero: leave out the initial state (only so can units be "
                "removed exactly)"
            )
