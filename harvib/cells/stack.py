"""Layers of cells, each in one direction or both, in any of the three forms: plain, masked, compact.

The first layer may be a linear projection (harvib/cells/linear.py). What reads the stack, the head, then sees its
values beside the states of the last layer: with mean readout a linear classifier stands beside the recurrent one.

Layer l reads the states of layer l - 1, both directions side by side, forward first. A backward cell sees each
clip reversed within its own length, as torch's packed sequences do it, so that padding never reaches it.

Masked: beside the masks of its cells a stack has one VIB mask between every two layers, on what the upper one
reads. Compact: what a layer's reader has to do (keep some columns, scale and shift them) is what the next layer
takes for its inputs, so exactness passes from layer to layer. A state that only its own layer reads stays, and the
next layer picks those it reads. A direction that keeps no unit is gone; a layer that keeps none, or reads none,
leaves no model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harvib.cells.base import Cell, Maskable, MaskedCell, PlainCell
from harvib.cells.makers import Factors, makers
from harvib.factorised import Matrix
from harvib.kernels import Carried
from harvib.masks import VIBMask

Shape = tuple[tuple[int, ...], ...]
"""Hidden units by layer and direction, e.g. ((256,),) or ((128, 128), (64, 64)); 0: no cell in that direction."""


StackStep = Callable[[Tensor, list[Carried]], tuple[Tensor, list[Carried]]]
"""As `harvib.kernels.Step`, with what is left by layer."""


def shape_of(hidden: int, layers: int = 1, bidirectional: bool = False) -> Shape:
    """The same number of units everywhere."""
    return ((hidden,) * (2 if bidirectional else 1),) * layers


class Layer(nn.Module):
    """The cells of one layer: forward, or forward and backward; a direction without units has none.

    `reads` are the indices of what it reads of the states below, (K,); None for all.
    """

    reads: Tensor | None

    def __init__(self, cells: Sequence[Cell | None], reads: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("reads", reads)
        self.cells = nn.ModuleDict({str(i): cell for i, cell in enumerate(cells) if cell is not None})
        self.widths = tuple(0 if cell is None else cell.hidden_size for cell in cells)

    def directions(self) -> list[tuple[int, Cell]]:
        """The cells that there are, with their direction: 0 forward, 1 backward."""
        found = []
        for key, cell in self.cells.items():
            assert isinstance(cell, Cell)
            found.append((int(key), cell))
        return found

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D) to (B, T, sum of widths)."""
        if self.reads is not None:
            x = x[..., self.reads]
        states = [
            cell(x) if direction == 0 else reversed_in_time(cell(reversed_in_time(x, lengths)), lengths)
            for direction, cell in self.directions()
        ]
        return states[0] if len(states) == 1 else torch.cat(states, dim=2)


class Stack(nn.Module):
    """Features (B, T, D) and lengths (B,) to the last layer's states (B, T, H), after a projection's values."""

    def __init__(self, layers: Sequence[Layer], masked: bool = False, projected: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.projected = projected
        between = [VIBMask(sum(layer.widths)) for layer in layers[:-1]] if masked else []
        self.between = nn.ModuleList(between)

    @classmethod
    def plain(
        cls,
        kind: type[PlainCell],
        inputs: int,
        shape: Shape,
        projected: bool = False,
        factors: Factors = Factors(),  # noqa: B008 - frozen
    ) -> Stack:
        """A fresh stack of plain cells; `projected`: the first layer is a projection."""
        layers = []
        for each, widths in zip(makers(kind, len(shape), projected, factors), shape, strict=True):
            cells = [each.fresh(inputs, width) for width in widths]
            layers.append(Layer(cells))
            inputs = sum(cell.hidden_size for cell in cells)
        return cls(layers, projected=projected)

    @classmethod
    def compact(
        cls,
        kind: type[PlainCell],
        inputs: int,
        shape: Shape,
        reads: tuple[int, ...],
        projected: bool = False,
        factors: Factors = Factors(),  # noqa: B008 - frozen
    ) -> Stack:
        """An empty compact stack, to load weights into; layer l + 1 reads `reads[l]` states of the one below."""
        layers: list[Layer] = []
        each_layer = makers(kind, len(shape), projected, factors)
        for each, widths, count in zip(each_layer, shape, (inputs, *reads), strict=True):
            cells = [each.compact(count, width) if width else None for width in widths]
            layers.append(Layer(cells, torch.arange(count) if layers else None))
        return cls(layers, projected=projected)

    def masked(self) -> Stack:
        """The same stack with VIB masks, from these weights."""
        layers = []
        for layer in self._layers():
            cells: list[Cell | None] = []
            for _, cell in layer.directions():
                assert isinstance(cell, Maskable)
                cells.append(cell.masked())
            layers.append(Layer(cells))
        return Stack(layers, masked=True, projected=self.projected)

    @torch.no_grad()
    def draw_by_fan_in(self) -> None:
        """Draw the input weights of plain cells anew, from U(-1/sqrt(D), 1/sqrt(D)) for D inputs.

        torch's recurrent modules draw them from U(-1/sqrt(H), 1/sqrt(H)), whatever D is: with thousands of inputs
        and a few units the gates start saturated, and a small cell hardly learns.
        """
        for name, weight in self.named_parameters():
            if name.endswith("weight_ih_l0"):
                bound = weight.shape[1] ** -0.5
                nn.init.uniform_(weight, -bound, bound)

    @property
    def shape(self) -> Shape:
        """Hidden units by layer and direction."""
        return tuple(layer.widths for layer in self._layers())

    @property
    def hidden_size(self) -> int:
        """States that the reader sees."""
        return width_read(self.shape, self.projected)

    @property
    def backward_size(self) -> int:
        """How many of them, the last, come from the backward direction."""
        return sum(self.shape[-1][1:])

    @property
    def affine(self) -> bool:
        """Whether the mean of what the reader sees is what it sees of the mean input; see `Cell.AFFINE`."""
        return all(cell.AFFINE for layer in self._layers() for _, cell in layer.directions())

    @property
    def averages(self) -> bool:
        """Whether the last state is that of the mean input; see `Cell.AVERAGES`."""
        return all(cell.AVERAGES for layer in self._layers() for _, cell in layer.directions())

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        first = None
        for number, layer in enumerate(self.layers):
            if number and len(self.between):
                x = x * self.between[number - 1](len(x))[:, None]
            x = layer(x, lengths)
            first = x if first is None else first
        return torch.cat([first, x], dim=2) if self.projected and first is not None else x

    @property
    def causal(self) -> bool:
        """Whether no cell reads a clip backwards."""
        return all(direction == 0 for layer in self._layers() for direction, _ in layer.directions())

    def stepper(self) -> StackStep:
        """A causal stack of one further step at a time, in evaluation, with weights and masks as they are now."""
        steps = []
        for number, layer in enumerate(self._layers()):
            ((_, cell),) = layer.directions()
            factors = self.between[number - 1](1) if number and len(self.between) else None
            steps.append((factors, layer.reads, cell.stepper()))

        def step(x: Tensor, carried: list[Carried]) -> tuple[Tensor, list[Carried]]:
            values, left = [x], []
            for (factors, reads, each), before in zip(steps, carried or [()] * len(steps), strict=True):
                x = x if factors is None else x * factors
                x, after = each(x if reads is None else x[:, reads], before)
                values.append(x)
                left.append(after)
            return torch.cat([values[1], x], dim=1) if self.projected else x, left

        return step

    def masks(self) -> dict[str, VIBMask]:
        """The VIB masks by name: a gate's name alone where there is one cell, else `<layer><f|b>.<gate>`.

        `between.<layer>` is what layer `<layer>` reads, counted from 1 as in the other names.
        """
        found: dict[str, VIBMask] = {}
        single = self.shape == ((self.hidden_size,),)
        for number, layer in enumerate(self._layers(), 1):
            for direction, cell in layer.directions():
                prefix = "" if single else f"{number}{'fb'[direction]}."
                if isinstance(cell, MaskedCell):
                    found |= {f"{prefix}{name}": mask for name, mask in cell.all_masks().items()}
        for number, mask in enumerate(self.between, 2):
            assert isinstance(mask, VIBMask)
            found[f"between.{number}"] = mask
        return found

    def parameter_count(self) -> int:
        """By the cells' formulas, masks not counted."""
        return sum(cell.parameter_count() for layer in self._layers() for _, cell in layer.directions())

    def input_weights(self) -> int:
        """Weights between inputs and hidden states: of W_ih in all layers, and of a projection; no biases."""
        return sum(cell.input_weights() for layer in self._layers() for _, cell in layer.directions())

    def macs(self, steps: int) -> int:
        """Multiply-accumulates of a clip of so many steps, each cell by its own count."""
        return sum(cell.macs(steps) for layer in self._layers() for _, cell in layer.directions())

    def matrices(self) -> dict[str, Matrix]:
        """The structured matrices, `ih` and `hh`: only a first layer of one direction can have some."""
        return self._layers()[0].directions()[0][1].matrices()

    def needed_inputs(self) -> Tensor | None:
        """The inputs that kept units read through a structured matrix, ascending; None where all are read."""
        matrix, cell = self.matrices().get("ih"), self._layers()[0].directions()[0][1]
        if matrix is None or not isinstance(cell, MaskedCell):
            return None
        # Which units of such a cell are kept does not depend on the inputs.
        everything = torch.arange(cell.input_size, device=next(self.parameters()).device)
        return matrix.needed(cell.rows_of(cell.kept_units(everything)))

    def factors(self) -> Factors:
        """What those are."""
        found = {side: matrix.factor for side, matrix in self.matrices().items()}
        return Factors(found.get("ih"), found.get("hh"))

    def kept_units(self, inputs: Tensor) -> Shape:
        """How many units are alive by layer and direction, given the indices of the inputs that are."""
        return tuple(tuple(len(units) for units in kept) for _, kept in self._kept(inputs))

    def kept_reads(self, inputs: Tensor) -> tuple[int, ...]:
        """How many of the values that it reads are alive, by layer."""
        return tuple(len(reads) for reads, _ in self._kept(inputs))

    @torch.no_grad()
    def compacted(self, inputs: Tensor, scale: Tensor, shift: Tensor) -> StackCompacted:
        """The same function of the kept inputs alone, exactly; arguments as of `MaskedCell.compacted`."""
        layers: list[Layer] = []
        seen: list[tuple[Tensor, Tensor, Tensor]] = []
        for number, layer in enumerate(self._layers()):
            reads: Tensor | None = None
            if number:
                mask = self.between[number - 1]
                assert isinstance(mask, VIBMask)
                hard = mask.hard().double()
                reads = (hard[inputs] != 0).nonzero().squeeze(1)
                inputs = inputs[reads]
                scale, shift = scale * hard, shift * hard
            cells: list[Cell | None] = [None] * len(layer.widths)
            units, scales, shifts, before = [], [], [], 0
            for direction, cell in layer.directions():
                assert isinstance(cell, MaskedCell)
                result = cell.compacted(inputs, scale, shift) if len(cell.kept_units(inputs)) else None
                if result is None:
                    nothing = torch.zeros(cell.hidden_size, dtype=torch.float64, device=scale.device)
                    scales.append(nothing)
                    shifts.append(nothing)
                else:
                    cells[direction] = result.cell
                    units.append(result.units + before)
                    scales.append(result.scale)
                    shifts.append(result.shift)
                before += cell.hidden_size
            layers.append(Layer(cells, reads))
            inputs, scale, shift = torch.cat(units), torch.cat(scales), torch.cat(shifts)
            seen.append((inputs, scale, shift))
        stack = Stack(layers, projected=self.projected)
        if not self.projected:
            return StackCompacted(stack, inputs, scale, shift)
        (rows, *ours), (units_, *theirs) = seen[0], seen[-1]
        scale, shift = (torch.cat(pair) for pair in zip(ours, theirs, strict=True))
        return StackCompacted(stack, torch.cat([rows, units_ + len(ours[0])]), scale, shift)

    def use_hard_scales(self) -> None:
        """Put one for every factor that a compact cell keeps of its masks; see the cells."""
        for layer in self._layers():
            for _, cell in layer.directions():
                cell.use_hard_scales()

    def _kept(self, inputs: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        """By layer: indices of what it reads and what is alive, and of the units that stay, by direction."""
        found: list[tuple[Tensor, list[Tensor]]] = []
        for number, layer in enumerate(self._layers()):
            if number and len(self.between):
                mask = self.between[number - 1]
                assert isinstance(mask, VIBMask)
                inputs = inputs[mask.hard()[inputs] != 0]
            kept: list[Tensor] = []
            offset, offsets = 0, []
            for _, cell in layer.directions():
                everything = torch.arange(cell.hidden_size, device=inputs.device)
                kept.append(cell.kept_units(inputs) if isinstance(cell, MaskedCell) else everything)
                offsets.append(offset)
                offset += cell.hidden_size
            found.append((inputs, kept))
            inputs = torch.cat([units + at for units, at in zip(kept, offsets, strict=True)])
        return found

    def _layers(self) -> list[Layer]:
        return [layer for layer in self.layers if isinstance(layer, Layer)]


@dataclass(frozen=True, eq=False)
class StackCompacted:
    """A compact stack, and what its reader does; as `Compacted`, for all that it sees."""

    stack: Stack
    units: Tensor
    scale: Tensor
    shift: Tensor


def width_read(shape: Shape, projected: bool) -> int:
    """How many values the reader of a stack of this shape sees."""
    return sum(shape[-1]) + (sum(shape[0]) if projected else 0)


def reversed_in_time(x: Tensor, lengths: Tensor) -> Tensor:
    """(B, T, D) with the first `lengths[b]` steps of each clip in reverse order; padding stays where it is."""
    steps = torch.arange(x.shape[1], device=x.device)
    ends = lengths.to(x.device)[:, None]
    order = torch.where(steps < ends, ends - 1 - steps, steps)
    return x.gather(1, order[:, :, None].expand_as(x))
