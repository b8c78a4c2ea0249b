"""What every classifier of clips offers, whatever stands in it, to training, compaction, files and reports.

A family of models (recurrent stacks: harvib/models.py, pooling: harvib/pooling) has a `Spec` and a `Classifier`.
"""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn
from typing_extensions import Self

from harvib.cells import Shape
from harvib.front import Front
from harvib.kernels.scale import scaled
from harvib.masks import VIBMask
from harvib.noise import dropout
from harvib.unitrows import unit_rows

State = Literal["plain", "masked", "compact"]


class Spec(Protocol):
    """What a model is, weights apart: a frozen dataclass that says all of it.

    `features` D are what a clip has in a step, `inputs` K of them are read. `masks_inputs`: whether a mask decides
    which inputs a compact model reads. `normalize`: each row of features is made of length 1 before all else.
    """

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]
    FAMILY: ClassVar[str]

    @property
    def state(self) -> State: ...
    @property
    def features(self) -> int: ...
    @property
    def inputs(self) -> int: ...
    @property
    def classes(self) -> int: ...
    @property
    def dropout(self) -> float: ...
    @property
    def masks_inputs(self) -> bool: ...
    @property
    def normalize(self) -> bool: ...

    def build(self) -> Classifier:
        """A model of this spec with fresh weights."""

    def plain_size(self) -> int:
        """Parameters of the plain model."""

    def smallest(self, factors: bool, units_stay: bool = False) -> int:
        """Parameters of the smallest compact model: one input, and one of whatever masks can drop.

        `factors`: with those that masks leave in it; `units_stay`: with all units instead.
        """

    def options(self) -> dict[str, str]:
        """A plain model as the options of `harvib train` say it, without its dropout, which anyone may change."""

    def bounds(self) -> dict[str, int]:
        """Below what the values of index tensors in a model file must be, by name; there may be more names."""

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Self:
        """From the fields as JSON gives them back; ValueError or TypeError where they are something else."""


def to_json(spec: Spec) -> str:
    """As text, for the metadata of a weight file."""
    told = dataclasses.asdict(spec)
    if not spec.normalize:
        # As it is of most models, and of all from before there was such a thing.
        del told["normalize"]
    return json.dumps(({} if spec.FAMILY == "recurrent" else {"family": spec.FAMILY}) | told)


class Classifier(nn.Module, ABC):
    """Features (B, T, D) and lengths (B,) to logits (B, C).

    front -> rows of length 1 (with `normalize`) -> selection -> standardisation -> dropout -> input mask ->
    `logits`, which is the family's own.
    A `front` (harvib/front.py), where there is one, makes the features of the stored rows; its weights are no
    part of the model's file and of its parameter counts.
    Selection applies where fewer inputs are read than there are features; dropout draws once a sequence.
    Without `standardize_by`, mean and scale are 0 and 1. A compact model has neither these nor masks: they are
    folded into its weights.
    """

    spec: Spec
    selection: Tensor
    input_mean: Tensor
    input_scale: Tensor

    def __init__(self, spec: Spec) -> None:
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

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.logits(self.read(x), lengths)

    def read(self, x: Tensor) -> Tensor:
        """Features (B, T, D) to what `logits` takes, (B, T, K): all that is done with each step by itself."""
        if self.front is not None:
            x = self.front(x)
        if self.spec.normalize:
            x = unit_rows(x.to(self.dtype))
        if self.spec.inputs < self.spec.features:
            x = x[..., self.selection]
        x = x.to(self.dtype)
        factor = self._input_factor(len(x))
        if self.spec.state != "compact":
            x = scaled(x, self.input_mean, factor)
        elif self.training:
            x = x * factor[:, None]
        return x

    @abstractmethod
    def logits(self, x: Tensor, lengths: Tensor) -> Tensor:
        """What the model reads of the inputs, (B, T, K) and (B,), to (B, C)."""

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return next(weight.dtype for name, weight in self.named_parameters() if not name.startswith("front."))

    def _input_factor(self, batch: int) -> Tensor:
        """What each input is multiplied by at all steps of a clip: scale, dropout and mask, (B, K) or (1, K)."""
        if self.spec.state == "compact":
            factor = torch.ones(1, self.spec.inputs, dtype=self.dtype, device=self.selection.device)
        else:
            factor = self.input_scale[None]
        if self.training and self.spec.dropout > 0:
            factor = dropout(factor, batch, self.spec.dropout)
        if self.input_mask is not None:
            factor = factor * self.input_mask(batch)
        return factor

    @property
    def sees_mean(self) -> bool:
        """Whether the mean over time of what follows `normalize` is all that it sees of a clip.

        That, as a clip of one row, has the same logits.
        """
        return False

    def standardize_by(self, mean: Tensor, std: Tensor) -> None:
        """Standardise inputs by these statistics of the train part, (K,) each; a constant input becomes zero.

        Constant is what varies by no more than float32 resolves at its mean; small features are no less worth.
        """
        smallest = (1e-6 * mean.abs()).clamp_min(1e-30)
        self.input_mean.copy_(mean)
        self.input_scale.copy_(torch.where(std > smallest, 1 / std.clamp_min(1e-30), torch.zeros_like(std)))

    def masks(self) -> dict[str, VIBMask]:
        """The VIB masks: `input`, and the family's own by their names; empty for plain and compact models.

        Without `input` where that one is open for good, since no input can be dropped.
        """
        ours = {} if self.input_mask is None or not self.spec.masks_inputs else {"input": self.input_mask}
        return ours | self.own_masks()

    @abstractmethod
    def own_masks(self) -> dict[str, VIBMask]:
        """The masks behind the input's, by name."""

    def kept_inputs(self) -> Tensor:
        """Positions in `selection` of the inputs that the model still reads, ascending."""
        if self.input_mask is None:
            return torch.arange(self.spec.inputs, device=self.selection.device)
        kept = self.input_mask.hard() != 0
        if (needed := self.needed_inputs()) is not None:
            # A constant input is zero, and what reads it leaves.
            kept &= torch.zeros_like(kept).index_fill(0, needed, True) & (self.input_scale != 0)
        return kept.nonzero().squeeze(1)

    def needed_inputs(self) -> Tensor | None:
        """Of a masked model the inputs that something kept reads, ascending; None where all are read."""
        return None

    @abstractmethod
    def kept_units(self) -> Shape:
        """How many units are alive, by layer and what stands side by side in it."""

    @abstractmethod
    def parameter_counts(self) -> dict[str, int]:
        """Exact counts of parameters: recurrent, head, total, and input_to_hidden, a part of recurrent.

        `recurrent` is all before the head. Masks and standardisation are not among them.
        """

    @abstractmethod
    def macs(self, steps: int) -> tuple[int, int]:
        """Multiply-accumulates of a clip of so many steps (harvib/macs.py): before the head, and of the head."""

    @abstractmethod
    def masked(self) -> Self:
        """Of a plain model: a masked one that starts from its weights; see `take_input`."""

    @abstractmethod
    def compacted(self, inputs: Tensor, scale: Tensor, shift: Tensor) -> Self:
        """Of a masked model: the compact one that reads `inputs` (K,) alone, but for selection and front.

        Input v reaches `logits` as v * scale + shift, (D,) each in float64, both zero where it is dropped. Raises
        NothingLeftError where masks keep too little for a model.
        """

    @abstractmethod
    def use_hard_scales(self) -> None:
        """Of a compact model: put one for every factor that masks have left in it; fine-tuning repairs that."""

    @abstractmethod
    def draw_by_fan_in(self) -> None:
        """Draw the weights of a plain model that read the inputs anew, by how many inputs there are."""

    def take_input(self, other: Classifier) -> None:
        """Take over front, selection and standardisation."""
        self.front = other.front
        self.selection.copy_(other.selection)
        self.input_mean.copy_(other.input_mean)
        self.input_scale.copy_(other.input_scale)


class NothingLeftError(ValueError):
    """Masks keep nothing of something that a model needs; the text names it."""
