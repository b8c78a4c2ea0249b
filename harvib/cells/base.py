"""What every recurrent cell offers: a plain form, a masked form, and exact compaction from one to the other."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor, nn

from harvib.factorised.base import Matrix
from harvib.kernels import Step
from harvib.masks import VIBMask


class Cell(nn.Module, ABC):
    """(B, T, input_size) to states (B, T, hidden_size), causal: step t sees steps up to t only.

    `AFFINE`: a state is an affine function of its own step's input alone, the same at all steps of a sequence, so
    that the mean of the states is the state of the mean input. `AVERAGES`: the state after the last step is that
    of the mean input.
    """

    AFFINE: ClassVar[bool] = False
    AVERAGES: ClassVar[bool] = False
    input_size: int
    hidden_size: int

    def stepper(self) -> Step:
        """The cell of one further step at a time, in evaluation, with weights and masks as they are now.

        Here it is that of a cell whose state follows from its own step's input alone.
        """
        return lambda x, carried: (self(x[:, None])[:, 0], carried)

    @abstractmethod
    def parameter_count(self) -> int:
        """Number of parameters by the cell's formula."""

    @abstractmethod
    def input_weights(self) -> int:
        """How many of them are weights of the matrix that reads the inputs; biases are not."""

    def matrices(self) -> dict[str, Matrix]:
        """The structured matrices of a factorised cell: `ih` reads the inputs, `hh` is W_hh where that is one."""
        return {}

    def macs(self, steps: int) -> int:
        """Multiply-accumulates with the cell's matrices for a clip of so many steps: one a weight and step."""
        return steps * sum(weight.numel() for weight in self.parameters() if weight.dim() == 2)

    def use_hard_scales(self) -> None:
        """Of a compact cell: put one for every factor that its masks have left in it and that is not zero.

        The cell is then the plain one of torch; that changes the function, and fine-tuning repairs it.
        """

    def torch_module(self) -> nn.RNNBase | None:
        """Of a plain or compact cell: a copy as torch's own module of one layer, equal to it exactly.

        None where there is no such module: a factor that the masks have left is neither 0 nor 1, or the cell has
        no recurrence.
        """
        if not all(bool(((factor == 0) | (factor == 1)).all()) for factor in self.buffers()):
            return None
        cell = copy.deepcopy(self)
        # Nothing changes where every factor is 0 or 1.
        cell.use_hard_scales()
        return next((child for child in cell.children() if isinstance(child, nn.RNNBase)), None)


class Maker(Protocol):
    """What makes the cells of a layer: a class of cells, or one with all that its cells have in common."""

    def fresh(self, inputs: int, hidden: int, /) -> Maskable:
        """A plain cell with weights drawn anew."""

    def compact(self, inputs: int, hidden: int, /) -> Cell:
        """An empty compact cell of this kind, to load weights into."""

    def size(self, inputs: int, hidden: int, /, factors: bool = False) -> int:
        """Parameters of such a cell; `factors`: with those that masks leave in its compact form."""


class Maskable(Cell):
    """A plain cell, which can be given masks."""

    @abstractmethod
    def masked(self) -> MaskedCell:
        """A cell with VIB masks that starts from these weights."""


class PlainCell(Maskable):
    """A cell as everybody knows it, with its two other forms; the class is its own `Maker`.

    `READOUT` names the one readout that it has a sense with, None where any will do; `STACKS` tells whether it can
    stand in layers, in both directions and behind a projection.
    """

    READOUT: ClassVar[str | None] = None
    STACKS: ClassVar[bool] = True

    @classmethod
    def of_width(cls, kernel: int) -> type[PlainCell]:
        """The cell that sees so many steps at once; of most cells, which see one, the same."""
        return cls

    @classmethod
    def fresh(cls, inputs: int, hidden: int) -> PlainCell:
        """A cell with weights drawn anew."""
        return cls(inputs, hidden)

    @classmethod
    @abstractmethod
    def size(cls, inputs: int, hidden: int, factors: bool = False) -> int:
        """Parameters of such a cell; `factors`: with those that masks leave in its compact form."""

    @classmethod
    @abstractmethod
    def compact(cls, input_size: int, hidden_size: int) -> Cell:
        """An empty compact cell of this kind, to load weights into."""


class MaskedCell(Cell):
    """The same cell with VIB masks: to be trained, then compacted.

    `masks` holds its VIBMasks by name; it is empty for a cell that only a mask on the input can shrink. `DECIDING`
    names those that must all keep a unit for it to stay, `OUTPUT` the one whose means multiply the states.
    """

    DECIDING: ClassVar[tuple[str, ...]]
    OUTPUT: ClassVar[str]
    masks: nn.ModuleDict

    def all_masks(self) -> dict[str, VIBMask]:
        """`masks`, and those on the bonds of its matrices, `ih-<bond>` and `hh-<bond>`."""
        found = {name: mask for name, mask in self.masks.items() if isinstance(mask, VIBMask)}
        for side, matrix in self.matrices().items():
            found |= {f"{side}-{bond}": mask for bond, mask in matrix.of_masks().items()}
        return found

    @abstractmethod
    def kept_units(self, inputs: Tensor) -> Tensor:
        """Indices of the states that are alive, ascending, given the indices of the inputs that are."""

    def hard(self, name: str) -> Tensor:
        """The hard factors (H,) of one of its masks."""
        mask = self.masks[name]
        assert isinstance(mask, VIBMask)
        return mask.hard()

    def rows_of(self, units: Tensor) -> Tensor:
        """The rows of these units in a weight that reads the inputs."""
        return units

    @abstractmethod
    def compacted(self, inputs: Tensor, scale: Tensor, shift: Tensor) -> Compacted:
        """The same function of the kept inputs alone, exactly.

        `inputs` are the indices of the kept inputs, (K,). Input v reaches this cell as v * scale + shift, (D,)
        each, both zero where the input is dropped.
        """


@dataclass(frozen=True, eq=False)
class Compacted:
    """A compact cell, and what a reader of the states does to see the same as before.

    The reader keeps its columns `units` (K,) of H, multiplies its weights by `scale` (H,), and adds its weights
    times `shift` (H,) to its bias.
    """

    cell: Cell
    units: Tensor
    scale: Tensor
    shift: Tensor
