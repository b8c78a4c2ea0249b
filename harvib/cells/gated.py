"""What LSTM, GRU and RNN have in common: a module of torch, VIB masks on its gates, and what compaction leaves.

A cell's own file states, as a `Kind`, its equations' gates, which masks may remove a unit and which means can be
folded; the rest follows here. In every form weights keep the names, shapes and gate order of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn

from harvib.cells.base import Cell, Compacted, MaskedCell, PlainCell
from harvib.kernels import Kernel, Step, Weights, run, stepper
from harvib.masks import VIBMask

SHUT = -1e4
"""A bias at which a sigmoid is exactly zero."""


@dataclass(frozen=True, eq=False)
class Kind:
    """A recurrent cell: one layer of a module of torch.

    `name` is the attribute that holds the module, and so part of the weights' names in files; `gates` name the
    blocks of its weights in torch's order, and their masks; `deciding` are the masks that must all keep a unit
    for it to stay, `output` is the one whose means multiply the states, so that they fold into every reader.
    `factors` are the means that fold nowhere and stay in the compact cell: each by its name there, the product
    of these masks' means. The first of its gates is a sigmoid, so that a factor zero is the same as that gate
    shut. The kernel takes the factors in this order, then that of the output.
    """

    name: str
    gates: tuple[str, ...]
    deciding: tuple[str, ...]
    output: str
    factors: Mapping[str, tuple[str, ...]]
    kernel: Kernel
    module: Callable[[int, int], nn.RNNBase]

    def parameter_count(self, inputs: int, hidden: int) -> int:
        """G H(D + H) + 2 G H: G gates, two bias vectors."""
        gates = len(self.gates)
        return gates * hidden * (inputs + hidden) + 2 * gates * hidden


class TorchCell(Cell):
    """A cell that holds, and is while nothing is on its gates, a module of torch."""

    KIND: ClassVar[Kind]

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        setattr(self, self.KIND.name, self.KIND.module(input_size, hidden_size))

    @property
    def module(self) -> nn.RNNBase:
        """The module of torch."""
        module = getattr(self, self.KIND.name)
        assert isinstance(module, nn.RNNBase)
        return module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)[0]

    def stepper(self) -> Step:
        return stepper(self.KIND.kernel, Weights(*self.module.all_weights[0]), self.on_gates())

    def on_gates(self) -> list[Tensor | None]:
        """What the kernel takes: the kind's factors, then that of the output; None for one everywhere."""
        return [None] * (len(self.KIND.factors) + 1)

    def input_weights(self) -> int:
        """G H D."""
        return self.module.all_weights[0][0].numel()

    def parameter_count(self) -> int:
        """By the formula of the kind."""
        return self.KIND.parameter_count(self.input_size, self.hidden_size)


class CompactForm(TorchCell):
    """A small cell with a constant factor (H,) for each of its kind's `factors`, a buffer of that name.

    While all factors are one the cell is exactly the module of torch that it holds, and runs as that.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        for name in self.KIND.factors:
            self.register_buffer(name, torch.ones(hidden_size))

    def factors(self) -> list[Tensor]:
        """In the order of the kind."""
        return [self.get_buffer(name) for name in self.KIND.factors]

    def forward(self, x: Tensor) -> Tensor:
        if self.is_plain():
            return self.module(x)[0]
        return run(self.KIND.kernel, x, Weights(*self.module.all_weights[0]), self.on_gates())

    def on_gates(self) -> list[Tensor | None]:
        return [*others_than_one(self.factors()), None]

    @torch.no_grad()
    def use_hard_scales(self) -> None:
        """Put one for every factor that is not zero; this changes the function, fine-tuning repairs it.

        A gate with factor zero becomes one that its bias holds shut, sigmoid(-1e4) = 0 exactly, so the cell is
        the plain one of torch afterwards.
        """
        weights = self.module.all_weights[0]
        for factor, gates in zip(self.factors(), self.KIND.factors.values(), strict=True):
            shut = (factor == 0).nonzero().squeeze(1) + self.KIND.gates.index(gates[0]) * self.hidden_size
            for weight, value in zip(weights, (0, 0, SHUT, 0), strict=True):
                weight[shut] = value
            factor.fill_(1)

    def is_plain(self) -> bool:
        """Whether the cell is exactly the module of torch that it holds."""
        return all(bool((factor == 1).all()) for factor in self.factors())

    def parameter_count(self) -> int:
        """By the formula of the kind, and the factors where they are not all zero or one."""
        factors = self.factors()
        trivial = all(bool(((factor == 0) | (factor == 1)).all()) for factor in factors)
        return super().parameter_count() + (0 if trivial else len(factors) * self.hidden_size)


class GateMasked(MaskedCell):
    """A cell with a mask of H factors on each gate of its kind.

    Training draws every mask once a sequence at every forward; evaluation uses the hard masks.
    """

    KIND: Kind

    def drawn(self, batch: int) -> list[Tensor]:
        """What the kernel takes: the kind's factors, then that of the output, (batch, H) each."""
        drawn = {gate: mask(batch) for gate, mask in self.masks.items()}
        factors = [product_of([drawn[gate] for gate in gates]) for gates in self.KIND.factors.values()]
        return [*factors, drawn[self.KIND.output]]

    def left_factors(self, units: Tensor) -> list[Tensor]:
        """What masks leave in the compact cell: the kind's factors of these units."""
        return [product_of([self.hard(gate) for gate in gates])[units] for gates in self.KIND.factors.values()]

    def kept_units(self, inputs: Tensor) -> Tensor:
        """Kept by every mask that decides, whatever the inputs."""
        keep = torch.stack([self.hard(gate) != 0 for gate in self.KIND.deciding]).all(0)
        return keep.nonzero().squeeze(1)

    def rows_of(self, units: Tensor) -> Tensor:
        """The rows of these units in each gate's block of a weight."""
        return torch.cat([units + gate * self.hidden_size for gate in range(len(self.KIND.gates))])


class MaskedForm(GateMasked):
    """The module of torch with masks on its gates."""

    COMPACT: ClassVar[type[CompactForm]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.DECIDING, cls.OUTPUT = cls.KIND.deciding, cls.KIND.output

    def __init__(self, plain: nn.RNNBase) -> None:
        super().__init__()
        self.input_size, self.hidden_size = plain.input_size, plain.hidden_size
        copies = (nn.Parameter(weight.detach().clone()) for weight in plain.all_weights[0])
        self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh = copies
        self.masks = nn.ModuleDict({gate: VIBMask(self.hidden_size) for gate in self.KIND.gates})

    def forward(self, x: Tensor) -> Tensor:
        return run(self.KIND.kernel, x, self._weights(), self.drawn(len(x)))

    def stepper(self) -> Step:
        return stepper(self.KIND.kernel, self._weights(), self.drawn(1))

    def _weights(self) -> Weights:
        return Weights(self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)

    def parameter_count(self) -> int:
        """Of the cell under the masks, without the masks."""
        return self.KIND.parameter_count(self.input_size, self.hidden_size)

    def input_weights(self) -> int:
        """G H D."""
        return self.weight_ih.numel()

    @torch.no_grad()
    def compacted(self, inputs: Tensor, scale: Tensor, shift: Tensor) -> Compacted:
        """Scale and shift of the inputs fold into W_ih and the bias, the output mask into every reader of h.

        The other means stay as the factors of the compact cell.
        """
        units = self.kept_units(inputs)
        rows = self.rows_of(units)
        weight_ih, output = self.weight_ih[rows].double(), self.hard(self.OUTPUT).double()
        cell = self.COMPACT(len(inputs), len(units)).to(self.weight_ih)
        small = (
            weight_ih[:, inputs] * scale[inputs],
            self.weight_hh[rows][:, units] * output[units],
            self.bias_ih[rows] + weight_ih @ shift,
            self.bias_hh[rows],
        )
        for weight, value in zip(cell.module.all_weights[0], small, strict=True):
            weight.copy_(value)
        for factor, left in zip(cell.factors(), self.left_factors(units), strict=True):
            factor.copy_(left)
        return Compacted(cell, units, output, torch.zeros_like(output))


class PlainForm(TorchCell, PlainCell):
    """The module of torch, as everybody knows it."""

    MASKED: ClassVar[type[MaskedForm]]

    def masked(self) -> MaskedForm:
        return self.MASKED(self.module)

    @classmethod
    def size(cls, inputs: int, hidden: int, factors: bool = False) -> int:
        return cls.KIND.parameter_count(inputs, hidden) + (len(cls.KIND.factors) * hidden if factors else 0)

    @classmethod
    def compact(cls, input_size: int, hidden_size: int) -> CompactForm:
        return cls.MASKED.COMPACT(input_size, hidden_size)


def others_than_one(factors: list[Tensor]) -> list[Tensor | None]:
    """None in the place of those that are one everywhere."""
    return [None if bool((factor == 1).all()) else factor for factor in factors]


def product_of(factors: list[Tensor]) -> Tensor:
    """Of tensors, elementwise; there is at least one."""
    return prod(factors[1:], start=factors[0])
