"""No recurrence at all: the states are the inputs. With the mean readout, "mean over time + linear".

Under VIB only the mask on the input works; scale and shift of the kept inputs fold into the head.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from harvib.cells.base import Cell, Compacted, MaskedCell, PlainCell


class _Same(Cell):
    AFFINE: ClassVar[bool] = True

    def forward(self, x: Tensor) -> Tensor:
        return x

    def parameter_count(self) -> int:
        """None."""
        return 0

    def input_weights(self) -> int:
        """None."""
        return 0


class Identity(_Same, PlainCell):
    """(B, T, D) to the same; the hidden size is the input size, whatever was asked for."""

    STACKS: ClassVar[bool] = False

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = self.hidden_size = input_size

    def masked(self) -> MaskedIdentity:
        return MaskedIdentity(self.input_size)

    @classmethod
    def size(cls, inputs: int, hidden: int, factors: bool = False) -> int:
        return 0

    @classmethod
    def compact(cls, input_size: int, hidden_size: int) -> Cell:
        return cls(input_size, hidden_size)


class MaskedIdentity(_Same, MaskedCell):
    """The identity behind a masked input."""

    DECIDING = ()

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.input_size = self.hidden_size = input_size
        self.masks = nn.ModuleDict()

    def kept_units(self, inputs: Tensor) -> Tensor:
        return inputs

    def compacted(self, inputs: Tensor, scale: Tensor, shift: Tensor) -> Compacted:
        return Compacted(Identity(len(inputs), len(inputs)), inputs, scale, shift)
