"""Recurrent stacks and their like: a sequence classifier, plain, masked or compact, built from one spec."""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn
from typing_extensions import Self

from harvib import sizes
from harvib.cells import CELLS, Factors, PlainCell, Shape, Stack
from harvib.classifier import Classifier, NothingLeftError, State
from harvib.errors import InputError
from harvib.factorised import Factor, is_possible, outline
from harvib.masks import VIBMask
from harvib.readout import READOUTS, mean


@dataclass(frozen=True)
class ModelSpec:
    """What such a model is, weights apart; see `harvib.classifier.Spec`.

    `shape` holds the hidden units by layer and direction; `reads`, of a compact model, how many states of the
    layer below each further layer reads. `projected`: the first of the layers is a linear projection, which the
    head reads too. `kernel`: steps that a unit of `conv` sees. `factor`: the structured matrix that reads the
    inputs, the projection's or W_ih, `hidden_factor`: W_hh; None for dense ones.
    """

    FAMILY: ClassVar[str] = "recurrent"

    cell: str
    state: State
    features: int
    inputs: int
    shape: Shape
    classes: int
    readout: str = "mean"
    dropout: float = 0.0
    reads: tuple[int, ...] = ()
    projected: bool = False
    kernel: int = 3
    factor: Factor | None = None
    hidden_factor: Factor | None = None
    normalize: bool = False

    def __post_init__(self) -> None:
        known = (
            type(self.normalize) is bool
            and self.cell in CELLS
            and self.state in get_args(State)
            and self.readout in READOUTS
        )
        sizes = (self.features, self.inputs, self.classes, self.kernel, *map(sum, self.shape), *self.reads)
        widths = [width for layer in self.shape for width in layer]
        if not known or not self.shape or not all(type(size) is int and size > 0 for size in sizes):
            raise ValueError(f"no such model: {self}")
        if not all(0 < len(layer) < 3 for layer in self.shape) or not all(width >= 0 for width in widths):
            raise ValueError(f"no such model: {self}")
        if self.state != "compact" and 0 in widths:
            raise ValueError(f"no such model: {self}")
        if self.projected and (len(self.shape) < 2 or len(self.shape[0]) != 1):
            raise ValueError(f"no such model: {self}")
        if not self.kind.STACKS and len(self.shape[0]) + len(self.shape) > 2:
            raise ValueError(f"no such model: {self}")
        if self.kind.READOUT not in (None, self.readout):
            raise ValueError(f"no such model: {self}")
        below = zip(self.reads, self.shape, strict=False)
        if len(self.reads) != (len(self.shape) - 1 if self.state == "compact" else 0) or any(
            count > sum(layer) for count, layer in below
        ):
            raise ValueError(f"no such model: {self}")
        structured = [factor for factor in (self.factor, self.hidden_factor) if factor is not None]
        if structured and (
            self.factor is None
            or not all(map(is_possible, structured))
            or self.factor.size[1] != self.inputs
            or len(self.shape[0]) != 1
            or len(self.shape) != 1 + self.projected
        ):
            raise ValueError(f"no such model: {self}")
        if self.inputs > self.features or not 0 <= self.dropout < 1:
            raise ValueError(f"no such model: {self}")

    @property
    def kind(self) -> type[PlainCell]:
        """The plain cell."""
        return CELLS[self.cell].of_width(self.kernel)

    @property
    def factors(self) -> Factors:
        """The structured matrices."""
        return Factors(self.factor, self.hidden_factor)

    @property
    def masks_inputs(self) -> bool:
        """Whether a mask decides which inputs a compact model reads: a tensor network saves nothing by fewer."""
        if self.factor is None:
            return True
        matrix = outline(self.factor)
        return matrix.drops_inputs and matrix.masks_inputs

    def build(self) -> SequenceClassifier:
        """A model of this spec with fresh weights."""
        return SequenceClassifier(self)

    def plain_size(self) -> int:
        """Parameters of the plain model."""
        return sizes.plain_size(self)

    def smallest(self, factors: bool, units_stay: bool = False) -> int:
        """Parameters of the smallest compact model."""
        return sizes.smallest(self, factors, units_stay)

    def options(self) -> dict[str, str]:
        """As the options of `harvib train` say it."""
        cells = self.shape[1:] if self.projected else self.shape
        return {
            "--model": self.cell,
            "--project": str(self.shape[0][0] if self.projected else 0),
            "--hidden": str(cells[0][0]),
            "--layers": str(len(cells)),
            "--bidirectional": "yes" if len(cells[0]) == 2 else "no",
            "--kernel": str(self.kernel),
            "--readout": self.readout,
            "--factorize": _told(self.factor),
            "--factorize-hidden": _told(self.hidden_factor),
            "--normalize": "yes" if self.normalize else "no",
            "inputs": f"{self.inputs} of {self.features}",
            "classes": str(self.classes),
        }

    def bounds(self) -> dict[str, int]:
        """Of the index tensors in its model file."""
        found = {"selection": self.features}
        found |= {f"recurrent.layers.{i}.reads": sum(below) for i, below in enumerate(self.shape, 1) if self.reads}
        cell = "recurrent.layers.0.cells.0"
        if self.factor is not None:
            found[f"{cell}.rows"] = self.factor.size[0]
            found[f"{cell}.matrix.layer.positions"] = max(self.factor.ranks, default=0)
            found[f"{cell}.matrix.places"] = math.prod(self.factor.size)
        if self.hidden_factor is not None:
            rows, columns = self.hidden_factor.size
            found |= {
                f"{cell}.hidden_rows": rows,
                f"{cell}.units": columns,
                f"{cell}.hidden.places": rows * columns,
            }
            found[f"{cell}.hidden.layer.positions"] = max(self.hidden_factor.ranks, default=0)
        return found

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Self:
        """From the fields as JSON gives them back; ValueError or TypeError where they are something else."""
        if not {"shape", "reads"} <= fields.keys():
            raise ValueError("a spec needs a shape and reads")
        shape = tuple(tuple(layer) for layer in fields["shape"])
        factors = {name: fields.get(name) for name in ("factor", "hidden_factor")}
        made = {name: None if told is None else Factor.of(told) for name, told in factors.items()}
        return cls(**{**fields, "shape": shape, "reads": tuple(fields["reads"]), **made})


def _told(factor: Factor | None) -> str:
    if factor is None:
        return "none"
    modes = ["x".join(map(str, modes)) for modes in (factor.rows, factor.columns)]
    return f"{factor.kind} {' by '.join(modes)} with ranks {','.join(map(str, factor.ranks))}"


class SequenceClassifier(Classifier):
    """... -> recurrent cells -> readout over time -> head; what comes before is every classifier's."""

    spec: ModelSpec

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.recurrent = _stack(spec)
        self.head = nn.Linear(self.recurrent.hidden_size, spec.classes)

    @property
    def dtype(self) -> torch.dtype:
        return self.head.weight.dtype

    def logits(self, x: Tensor, lengths: Tensor) -> Tensor:
        states = self.recurrent(x, lengths)
        return self.head(READOUTS[self.spec.readout](states, lengths, self.recurrent.backward_size))

    @property
    def sees_mean(self) -> bool:
        reads_mean = READOUTS[self.spec.readout] is mean
        averages = self.recurrent.affine if reads_mean else self.recurrent.averages
        return averages and self.front is None

    def own_masks(self) -> dict[str, VIBMask]:
        return self.recurrent.masks()

    def needed_inputs(self) -> Tensor | None:
        return self.recurrent.needed_inputs()

    def kept_units(self) -> Shape:
        """How many hidden units are alive, by layer and direction."""
        return self.recurrent.kept_units(self.kept_inputs())

    def parameter_counts(self) -> dict[str, int]:
        """Exact counts of parameters: recurrent, head, total; masks and standardisation are not among them.

        `input_to_hidden`, a part of `recurrent`: the weights between inputs and hidden states, of W_ih in all
        layers and of a projection, without biases. It is what papers on factorised cells count.
        """
        recurrent = self.recurrent.parameter_count()
        head = sum(weight.numel() for weight in self.head.parameters())
        reads = self.recurrent.input_weights()
        return {"recurrent": recurrent, "head": head, "total": recurrent + head, "input_to_hidden": reads}

    def macs(self, steps: int) -> tuple[int, int]:
        return self.recurrent.macs(steps), self.head.weight.numel()

    def masked(self) -> SequenceClassifier:
        masked = SequenceClassifier(dataclasses.replace(self.spec, state="masked"))
        masked.recurrent = self.recurrent.masked()
        masked.head.load_state_dict(self.head.state_dict())
        masked.take_input(self)
        masked.front = copy.deepcopy(self.front)
        return masked.to(self.selection.device)

    def compacted(self, inputs: Tensor, scale: Tensor, shift: Tensor) -> SequenceClassifier:
        shape, all_reads = self.kept_units(), self.recurrent.kept_reads(inputs)
        dead = [number for number, widths in enumerate(shape, 1) if not sum(widths)]
        dead += [number for number, reads in enumerate(all_reads, 1) if not reads]
        if dead:
            # As users count: the projection is no layer of cells.
            layer = dead[0] - self.spec.projected
            where = "" if len(shape) == 1 else f" in layer {layer}" if layer else " in the projection"
            raise NothingLeftError(f"hidden unit is left{where}")
        result = self.recurrent.compacted(inputs, scale, shift)
        factors = result.stack.factors()
        spec = dataclasses.replace(
            self.spec,
            state="compact",
            inputs=len(inputs),
            shape=shape,
            reads=all_reads[1:],
            factor=factors.inputs,
            hidden_factor=factors.hidden,
        )
        small = SequenceClassifier(spec).to(self.head.weight)
        small.recurrent = result.stack
        weight = self.head.weight.double()
        small.head.weight.copy_((weight * result.scale)[:, result.units])
        small.head.bias.copy_(self.head.bias + weight @ result.shift)
        return small

    def use_hard_scales(self) -> None:
        self.recurrent.use_hard_scales()

    def draw_by_fan_in(self) -> None:
        self.recurrent.draw_by_fan_in()


def _stack(spec: ModelSpec) -> Stack:
    if spec.state == "compact":
        return Stack.compact(spec.kind, spec.inputs, spec.shape, spec.reads, spec.projected, spec.factors)
    plain = Stack.plain(spec.kind, spec.inputs, spec.shape, spec.projected, spec.factors)
    return plain.masked() if spec.state == "masked" else plain


def recurrent(model: Classifier, what: str, instead: str = "") -> SequenceClassifier:
    """The model as one of this family.

    Raises InputError, which begins with `what` and ends with `instead`, where it is another's.
    """
    if not isinstance(model, SequenceClassifier):
        raise InputError(f"{what}: not for a {model.spec.FAMILY} model, only for {', '.join(CELLS)}{instead}")
    return model
