"""Pooling models: DBoF, NetVLAD or NetFV, an FC layer, a mixture of experts and context gating.

    frames -> clusters -> pooled over time -> FC, BN, ReLU6 -> experts -> context gating -> log-odds

A row may be several streams side by side (RGB and audio, say): each has clusters and an FC layer of its own, and
the experts read the FC layers of all. Araujo et al. 2018 (arXiv 1810.01140), after Miech et al. 2017 and
Abu-El-Haija et al. 2016. A stream of which masks keep no input, no cluster or no unit is gone: then it counts for
zero in the masked model's evaluation too.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn
from typing_extensions import Self

from harvib.cells import Shape
from harvib.classifier import Classifier, NothingLeftError, State
from harvib.factorised.base import Factor
from harvib.masks import VIBMask
from harvib.pooling.block import matrix_bounds
from harvib.pooling.experts import Experts, ExpertsShape
from harvib.pooling.frames import Frames
from harvib.pooling.gating import ContextGating
from harvib.pooling.matrices import outline
from harvib.pooling.pool import Bags
from harvib.pooling.shape import VECTORS, StreamShape
from harvib.pooling.stream import Stream


@dataclass(frozen=True)
class PoolingSpec:
    """What a pooling model is, weights apart; see `harvib.classifier.Spec`.

    `kind` is one of dbof, netvlad and netfv; `streams` are side by side in a row. `gating` is the matrix of
    context gating, None without it. `bags` of `bag_frames` drawn frames are DBoF's alone; 0: all are one bag.
    """

    FAMILY: ClassVar[str] = "pooling"

    kind: str
    state: State
    features: int
    inputs: int
    streams: tuple[StreamShape, ...]
    experts: ExpertsShape
    gating: Factor | None = None
    bags: int = 0
    bag_frames: int = 0
    dropout: float = 0.0
    normalize: bool = False

    def __post_init__(self) -> None:
        Bags(self.bags, self.bag_frames)
        known = self.kind in VECTORS and self.state in get_args(State) and len(self.streams) > 0
        known = known and type(self.normalize) is bool
        if not known or type(self.features) is not int or type(self.inputs) is not int:
            raise ValueError(f"no such model: {self}")
        for stream in self.streams:
            stream.check(self.kind)
        if self.inputs != sum(self.widths) or self.inputs > self.features or not 0 <= self.dropout < 1:
            raise ValueError(f"no such model: {self}")
        if self.bags and self.kind != "dbof":
            raise ValueError(f"{self.kind} has no bags: {self}")
        if self.experts.units.size[1] != sum(self.hidden):
            raise ValueError(f"the experts read {sum(self.hidden)} units: {self}")
        if self.gating is not None and self.gating.size != (self.classes, self.classes):
            raise ValueError(f"context gating is of {self.classes} classes: {self}")
        if not all(map(_is_possible, self._factors())):
            raise ValueError(f"no such matrix: {self}")
        if self.state != "compact" and (
            self.experts.scaled
            or any(
                stream != StreamShape.fresh(stream.pool.assign.factor, stream.fc.factor) for stream in self.streams
            )
        ):
            raise ValueError(f"only a compact model has what masks leave: {self}")

    def _factors(self) -> list[Factor]:
        found = [block.factor for stream in self.streams for block in (stream.pool.assign, stream.fc)]
        others = (self.experts.units, self.experts.gates, self.gating)
        return found + [factor for factor in others if factor is not None]

    @property
    def widths(self) -> tuple[int, ...]:
        """Inputs of each stream."""
        return tuple(stream.pool.width for stream in self.streams)

    @property
    def clusters(self) -> tuple[int, ...]:
        """Of each stream, without ghosts."""
        return tuple(stream.pool.clusters for stream in self.streams)

    @property
    def hidden(self) -> tuple[int, ...]:
        """Units of each stream's FC layer."""
        return tuple(stream.fc.units for stream in self.streams)

    @property
    def classes(self) -> int:
        """How many there are."""
        return self.experts.classes

    @property
    def masks_inputs(self) -> bool:
        """Whether a mask decides which inputs are read: NetVLAD and NetFV describe a cluster in all of them."""
        return not VECTORS[self.kind]

    def build(self) -> PoolingClassifier:
        """A model of this spec with fresh weights."""
        return PoolingClassifier(self)

    def size(self) -> int:
        """Parameters of such a model."""
        gating = 0 if self.gating is None else outline(self.gating).parameter_count() + 4 * self.classes
        streams = sum(stream.size(self.kind) for stream in self.streams)
        return streams + self.experts.size() + gating

    def plain_size(self) -> int:
        """Parameters of the plain model."""
        return self.size()

    def left(self, streams: tuple[StreamShape, ...], factors: bool) -> int:
        """Parameters of the compact model that has these streams; `factors`: with those that masks leave."""
        gating = 0 if self.gating is None else outline(self.gating).parameter_count() + 4 * self.classes
        units = sum(stream.fc.units for stream in streams)
        return (
            sum(stream.size(self.kind) for stream in streams) + self.experts.left(units, factors).size() + gating
        )

    def smallest(self, factors: bool, units_stay: bool = False) -> int:
        """Parameters of the smallest compact model, whichever of the streams is the one that it has."""
        every = (stream.least(self.kind, factors, units_stay) for stream in self.streams)
        return max(self.left((stream,), factors) for stream in every)

    def options(self) -> dict[str, str]:
        """As the options of `harvib train` say it."""
        first = self.streams[0]
        layers = {"clusters": first.pool.assign.factor, "fc": first.fc.factor, "moe": self.experts.units}
        layers |= {} if self.gating is None else {"gating": self.gating}
        circulant = {name: factor for name, factor in layers.items() if factor.ranks}
        return {
            "--model": self.kind,
            "--clusters": ",".join(map(str, self.clusters)),
            "--hidden": ",".join(map(str, dict.fromkeys(self.hidden))),
            "--circulant": ", ".join(f"{name} ({factor.kind})" for name, factor in circulant.items()) or "none",
            "--factors": ",".join(dict.fromkeys(str(len(factor.ranks)) for factor in circulant.values()))
            or "none",
            "--experts": str(self.experts.experts),
            "--gating": "no" if self.gating is None else "yes",
            "--bags": str(self.bags),
            "--bag-frames": str(self.bag_frames),
            "--normalize": "yes" if self.normalize else "no",
            "streams": "+".join(map(str, self.widths)),
            "inputs": f"{self.inputs} of {self.features}",
            "classes": str(self.classes),
        }

    def bounds(self) -> dict[str, int]:
        """Of the index tensors in its model file."""
        found = {"selection": self.features} | matrix_bounds("experts.units", self.experts.units)
        for number, stream in enumerate(self.streams):
            found |= stream.bounds(f"streams.{number}")
        for name, factor in (("experts.gates", self.experts.gates), ("gating.matrix", self.gating)):
            found |= {} if factor is None else matrix_bounds(name, factor)
        return found

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Self:
        """From the fields as JSON gives them back; ValueError or TypeError where they are something else."""
        if not {"streams", "experts"} <= fields.keys():
            raise ValueError("a spec needs streams and experts")
        try:
            streams = tuple(StreamShape.of(stream) for stream in fields["streams"])
            told = fields["experts"]
            gates = None if told["gates"] is None else Factor.of(told["gates"])
            experts = ExpertsShape(**{**told, "units": Factor.of(told["units"]), "gates": gates})
        except KeyError as error:
            raise ValueError(f"a spec needs {error}") from error
        gating = None if fields.get("gating") is None else Factor.of(fields["gating"])
        return cls(**{**fields, "streams": streams, "experts": experts, "gating": gating})


def _is_possible(factor: Factor) -> bool:
    """Whether there is such a layer, and memory has addresses for its weights."""
    try:
        return outline(factor).factor == factor
    except (ValueError, RuntimeError, OverflowError):
        return False


class PoolingClassifier(Classifier):
    """... -> streams -> experts -> context gating; what comes before is every classifier's."""

    spec: PoolingSpec

    def __init__(self, spec: PoolingSpec) -> None:
        super().__init__(spec)
        bags, masked = Bags(spec.bags, spec.bag_frames), spec.state == "masked"
        self.streams = nn.ModuleList(Stream(spec.kind, shape, bags, masked) for shape in spec.streams)
        self.experts = Experts(spec.experts)
        self.gating = None if spec.gating is None else ContextGating(spec.gating)

    def parts(self) -> list[Stream]:
        """The streams."""
        return [stream for stream in self.streams if isinstance(stream, Stream)]

    def logits(self, x: Tensor, lengths: Tensor) -> Tensor:
        frames, drawn = Frames.of(lengths, x.shape[1]), None
        if self.training and self.spec.bags:
            # The same frames of all streams: they are of one clip.
            drawn = frames.drawn(self.spec.bags * self.spec.bag_frames)
        live = [True] * len(self.streams) if self.training else self._live()
        units = [
            stream(own, frames, drawn) if alive else own.new_zeros(len(own), stream.fc.shape.units)
            for stream, own, alive in zip(self.parts(), x.split(self.spec.widths, dim=2), live, strict=True)
        ]
        odds: Tensor = self.experts(torch.cat(units, dim=1))
        return odds if self.gating is None else self.gating(odds)

    def own_masks(self) -> dict[str, VIBMask]:
        several = len(self.streams) > 1
        return {
            f"{name}.{number}" if several else name: mask
            for number, stream in enumerate(self.parts(), 1)
            for name, mask in stream.masks().items()
        }

    def needed_inputs(self) -> Tensor | None:
        """Those of streams that keep clusters and units; all where no stream does."""
        places = torch.arange(self.spec.inputs, device=self.selection.device)
        whole = self._whole()
        if not any(whole):
            return places
        return torch.cat([own for own, keeps in zip(places.split(self.spec.widths), whole, strict=True) if keeps])

    def _whole(self) -> list[bool]:
        """By stream, whether it keeps clusters and units."""
        return [len(stream.pool.kept()) > 0 and len(stream.kept()) > 0 for stream in self.parts()]

    def _live(self) -> list[bool]:
        """By stream, whether it keeps inputs too."""
        if self.spec.state != "masked":
            return [True] * len(self.streams)
        kept = self._by_stream(self.kept_inputs())
        return [keeps and len(own) > 0 for keeps, own in zip(self._whole(), kept, strict=True)]

    def _by_stream(self, inputs: Tensor) -> list[Tensor]:
        """Positions of inputs, ascending, as positions in each stream."""
        found, first = [], 0
        for width in self.spec.widths:
            found.append(inputs[(inputs >= first) & (inputs < first + width)] - first)
            first += width
        return found

    def kept_units(self) -> Shape:
        """Clusters by stream, and units of the FC layers by stream; zeros for a stream that is gone."""
        live = list(zip(self.parts(), self._live(), strict=True))
        clusters = tuple(len(stream.pool.kept()) if alive else 0 for stream, alive in live)
        return clusters, tuple(len(stream.kept()) if alive else 0 for stream, alive in live)

    def parameter_counts(self) -> dict[str, int]:
        """Exact counts of parameters, batch normalisation with its moving statistics, as published ones are.

        `head` is experts and gating, `input_to_hidden` the matrices that read the inputs.
        """
        before = sum(stream.parameter_count() for stream in self.parts())
        head = self.experts.parameter_count() + (0 if self.gating is None else self.gating.parameter_count())
        reads = sum(stream.pool.assign.matrix.parameter_count() for stream in self.parts())
        return {"recurrent": before, "head": head, "total": before + head, "input_to_hidden": reads}

    def macs(self, steps: int) -> tuple[int, int]:
        head = self.experts.macs() + (0 if self.gating is None else self.gating.macs())
        return sum(stream.macs(steps) for stream in self.parts()), head

    def masked(self) -> PoolingClassifier:
        masked = PoolingClassifier(dataclasses.replace(self.spec, state="masked"))
        own = {name: value for name, value in self.state_dict().items() if not name.startswith("front.")}
        missing = masked.load_state_dict(own, strict=False).missing_keys
        assert all(name.split(".")[-2].endswith("mask") for name in missing)
        masked.take_input(self)
        masked.front = copy.deepcopy(self.front)
        return masked.to(self.selection.device)

    def compacted(self, inputs: Tensor, scale: Tensor, shift: Tensor) -> PoolingClassifier:
        live = self._live()
        if not any(live):
            raise NothingLeftError(self._gone())
        widths = self.spec.widths
        streams = [
            stream.compacted(own, *folded)
            for stream, own, alive, *folded in zip(
                self.parts(), self._by_stream(inputs), live, scale.split(widths), shift.split(widths), strict=True
            )
            if alive
        ]
        units, factors, first = [], torch.zeros_like(scale).new_zeros(sum(self.spec.hidden)), 0
        for stream, alive in zip(self.parts(), live, strict=True):
            if alive and stream.mask is not None:
                units.append(stream.kept() + first)
                factors[first : first + stream.fc.shape.units] = stream.mask.hard()
            first += stream.fc.shape.units
        experts = self.experts.compacted(torch.cat(units), factors)
        spec = dataclasses.replace(
            self.spec,
            state="compact",
            inputs=len(inputs),
            streams=tuple(stream.shape for stream in streams),
            experts=experts.shape,
        )
        small = PoolingClassifier(spec).to(self.experts.bias)
        small.streams, small.experts, small.gating = nn.ModuleList(streams), experts, copy.deepcopy(self.gating)
        return small

    def _gone(self) -> str:
        """What is left of no stream."""
        if not any(len(stream.pool.kept()) for stream in self.parts()):
            return "cluster is left"
        if not any(len(stream.kept()) for stream in self.parts()):
            return "unit of the FC layer is left"
        return "stream with an input, a cluster and a unit is left"

    def use_hard_scales(self) -> None:
        for stream in self.parts():
            stream.use_hard_scales()
        self.experts.use_hard_scales()
        streams = tuple(stream.shape for stream in self.parts())
        self.spec = dataclasses.replace(self.spec, streams=streams, experts=self.experts.shape)

    def draw_by_fan_in(self) -> None:
        """Nothing: they are drawn so in any case."""
