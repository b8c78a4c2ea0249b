"""What a cut through the ranking leaves of a pooling model; see harvib/ranking.py."""

from __future__ import annotations

import bisect

import torch
from torch import Tensor

from harvib.pooling.model import PoolingClassifier
from harvib.pooling.shape import StreamShape
from harvib.ranking import Landing, Ranking, finite, impose

_LAST = 1e30


class PoolingRanking(Ranking):
    """Units of the FC layers, and clusters, by log alpha; inputs in one order for all streams.

    The stream of the best input keeps its best cluster and its best unit in any case, so that a model is left.
    Where no input can go clusters may have a threshold of their own, so that a budget is filled up with them.
    """

    def __init__(self, model: PoolingClassifier) -> None:
        self._spec = spec = model.spec
        self._masks = [stream.masks() for stream in model.parts()]
        self._clusters = [finite(masks["clusters"]) for masks in self._masks]
        self._units = [finite(masks["fc"]) for masks in self._masks]
        super().__init__(model, self._units, self._clusters)
        self.has_weights = not spec.masks_inputs
        # A constant input is not kept, wherever it stands.
        constant = model.input_scale.cpu() == 0
        self.inputs = torch.where(constant, _LAST, self.inputs)
        order = self.inputs.argsort(stable=True)
        stream_of = torch.arange(len(spec.widths)).repeat_interleave(torch.tensor(spec.widths))
        counted = torch.nn.functional.one_hot(stream_of[order], len(spec.widths)) * ~constant[order, None]
        self._counts = counted.cumsum(0)
        if spec.masks_inputs:
            self._stays = int(stream_of[order[0]])
        else:
            best = [max(float(c.min()), float(u.min())) for c, u in zip(self._clusters, self._units, strict=True)]
            self._stays = best.index(min(best))

    def kept(self, threshold: float, weights: float | None) -> list[tuple[Tensor, Tensor]]:
        """By stream which clusters and which units stay, as bools; `weights` is the clusters' own threshold."""
        found = []
        for number, (clusters, units) in enumerate(zip(self._clusters, self._units, strict=True)):
            stay = [clusters <= (threshold if weights is None else weights), units <= threshold]
            if number == self._stays:
                for scores, keep in zip((clusters, units), stay, strict=True):
                    keep[scores.argmin()] = True
            found.append((stay[0], stay[1]))
        return found

    def parameters(self, inputs: int, threshold: float, factors: bool, weights: float | None = None) -> int:
        """Exact parameters of the compact model with the first so many inputs; see `kept`."""
        counts = self._counts[inputs - 1].tolist() if self._spec.masks_inputs else self._spec.widths
        left: list[StreamShape] = [
            stream.left(self._spec.kind, count, clusters, units, factors)
            for stream, count, (clusters, units) in zip(
                self._spec.streams, counts, self.kept(threshold, weights), strict=True
            )
            if count and clusters.any() and units.any()
        ]
        return self._spec.left(tuple(left), factors)

    def weights_within(self, target: int, threshold: float, factors: bool) -> float | None:
        """Up to which score clusters fit into `target` beside the units up to `threshold`; None: not one."""
        values = torch.cat(self._clusters).unique()

        def count(position: int) -> int:
            return self.parameters(len(self.inputs), threshold, factors, float(values[position]))

        first_above = bisect.bisect_right(range(len(values)), target, key=count)
        return float(values[first_above - 1]) if first_above else None

    def impose_units(self, landing: Landing) -> None:
        kept = self.kept(landing.threshold, landing.weights)
        for masks, (clusters, units) in zip(self._masks, kept, strict=True):
            impose(masks["clusters"], clusters)
            impose(masks["fc"], units)
