"""Settings to model: a sequence classifier, plain, masked or compact, built from one spec."""

from __future__ import annotations

import copy
import dataclasses
import json
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from harvib.cells import CELLS, Factors, PlainCell, Shape, Stack
from harvib.factorised import Factor, is_possible, outline
from harvib.front import Front
from harvib.kernels.scale import scaled
from harvib.masks import VIBMask
from harvib.noise import dropout
from harvib.readout import READOUTS, mean

State = Literal["plain", "masked", "compact"]


@dataclass(frozen=True)
class ModelSpec:
    """What a model is, weights apart.

    `features` D are what a clip has, `inputs` K of them are read; `shape` holds the hidden units by layer and
    direction; `reads`, of a compact model, how many states of the layer below each further layer reads.
    `projected`: the first of the layers is a linear projection, which the head reads too. `kernel`: steps that a
    unit of `conv` sees. `factor`: the structured matrix that reads the inputs, the projection's or W_ih,
    `hidden_factor`: W_hh; None for dense ones.
    """

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

    def __post_init__(self) -> None:
        known = self.cell in CELLS and self.state in get_args(State) and self.readout in READOUTS
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

    def to_json(self) -> str:
        """As text, for the metadata of a weight file."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """From `to_json`; ValueError or TypeError where the text is something else."""
        fields = json.loads(text)
        if not isinstance(fields, dict) or not {"shape", "reads"} <= fields.keys():
            raise ValueError("a spec needs a shape and reads")
        shape = tuple(tuple(layer) for layer in fields["shape"])
        factors = {name: fields.get(name) for name in ("factor", "hidden_factor")}
        made = {name: None if told is None else Factor.of(told) for name, told in factors.items()}
        return cls(**{**fields, "shape": shape, "reads": tuple(fields["reads"]), **made})


class SequenceClassifier(nn.Module):
    """Features (B, T, D) and lengths (B,) to logits (B, C).

    front -> selection -> standardisation -> dropout -> input mask -> recurrent cell -> readout over time -> head.
    A `front` (harvib/front.py), where there is one, makes the features of the stored rows; its weights are no
    part of the model's file and of its parameter counts.
    Selection applies where fewer inputs are read than there are features; dropout draws once a sequence.
    Without `standardize_by`, mean and scale are 0 and 1. A compact model has neither these nor masks: they are
    folded into its weights.
    """

    selection: Tensor
    input_mean: Tensor
    input_scale: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.front: Front | None = None
        self.register_buffer("selection", torch.arange(spec.inputs))
        if spec.state != "compact":
            self.register_buffer("input_mean", torch.zeros(spec.inputs))
            self.register_buffer("input_scale", torch.ones(spec.inputs))
        self.input_mask = VIBMask(spec.inputs) if spec.state == "masked" else None
        if self.input_mask is not None and not spec.masks_inputs:
            self.input_mask.freeze(open_all=True)
        self.recurrent = _stack(spec)
        self.head = nn.Linear(self.recurrent.hidden_size, spec.classes)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        if self.front is not None:
            x = self.front(x)
        if self.spec.inputs < self.spec.features:
            x = x[..., self.selection]
        x = x.to(self.head.weight.dtype)
        factor = self._input_factor(len(x))
        if self.spec.state != "compact":
            x = scaled(x, self.input_mean, factor)
        elif self.training:
            x = x * factor[:, None]
        states = self.recurrent(x, lengths)
        return self.head(READOUTS[self.spec.readout](states, lengths, self.recurrent.backward_size))

    def _input_factor(self, batch: int) -> Tensor:
        """What each input is multiplied by at all steps of a clip: scale, dropout and mask, (B, K) or (1, K)."""
        if self.spec.state == "compact":
            factor = self.head.weight.new_ones(1, self.spec.inputs)
        else:
            factor = self.input_scale[None]
        if self.training and self.spec.dropout > 0:
            factor = dropout(factor, batch, self.spec.dropout)
        if self.input_mask is not None:
            factor = factor * self.input_mask(batch)
        return factor

    @property
    def sees_mean(self) -> bool:
        """Whether the mean of its rows over time is all that it sees of a clip: that has the same logits."""
        reads_mean = READOUTS[self.spec.readout] is mean
        averages = self.recurrent.affine if reads_mean else self.recurrent.averages
        return averages and self.front is None

    def standardize_by(self, mean: Tensor, std: Tensor) -> None:
        """Standardise inputs by these statistics of the train part, (K,) each; a constant input becomes zero.

        Constant is what varies by no more than float32 resolves at its mean; small features are no less worth.
        """
        smallest = (1e-6 * mean.abs()).clamp_min(1e-30)
        self.input_mean.copy_(mean)
        self.input_scale.copy_(torch.where(std > smallest, 1 / std.clamp_min(1e-30), torch.zeros_like(std)))

    def masks(self) -> dict[str, VIBMask]:
        """The VIB masks: `input`, and the cell's by their names; empty for plain and compact models.

        Without `input` where that one is open for good, since no input can be dropped.
        """
        ours = {} if self.input_mask is None or not self.spec.masks_inputs else {"input": self.input_mask}
        return ours | self.recurrent.masks()

    def kept_inputs(self) -> Tensor:
        """Positions in `selection` of the inputs that the model still reads, ascending."""
        if self.input_mask is None:
            return torch.arange(self.spec.inputs, device=self.selection.device)
        kept = self.input_mask.hard() != 0
        if (needed := self.recurrent.needed_inputs()) is not None:
            # A constant input is zero, and what reads it leaves.
            kept &= torch.zeros_like(kept).index_fill(0, needed, True) & (self.input_scale != 0)
        return kept.nonzero().squeeze(1)

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


def _stack(spec: ModelSpec) -> Stack:
    if spec.state == "compact":
        return Stack.compact(spec.kind, spec.inputs, spec.shape, spec.reads, spec.projected, spec.factors)
    plain = Stack.plain(spec.kind, spec.inputs, spec.shape, spec.projected, spec.factors)
    return plain.masked() if spec.state == "masked" else plain


def masked_from(plain: SequenceClassifier) -> SequenceClassifier:
    """A masked model that starts from a plain one's weights."""
    spec = dataclasses.replace(plain.spec, state="masked")
    masked = SequenceClassifier(spec)
    masked.recurrent = plain.recurrent.masked()
    masked.front = copy.deepcopy(plain.front)
    masked.head.load_state_dict(plain.head.state_dict())
    masked.selection.copy_(plain.selection)
    masked.input_mean.copy_(plain.input_mean)
    masked.input_scale.copy_(plain.input_scale)
    return masked.to(plain.selection.device)
