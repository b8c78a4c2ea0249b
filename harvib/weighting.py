"""Scores of several streams as one: their weighted mean, and the weights that are best on a validation part."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from harvib.metrics import Evaluation

STEPS = {2: 24, 3: 24, 4: 12}
"""By the number of streams: weights are multiples of 1/24 or 1/12, among which all streams may weigh the same."""


def fused_scores(logits: Sequence[Tensor], weights: Sequence[float], several: bool = False) -> Tensor:
    """(B, C) weighted mean of the log-softmax of each stream's (B, C) logits.

    Of `several` labels it is the mean of the logits: they are the log-odds of each class by itself.
    """
    return _weighted(_scores(logits, several), weights)


def _scores(logits: Sequence[Tensor], several: bool) -> list[Tensor]:
    return list(logits) if several else [part.log_softmax(1) for part in logits]


def _weighted(scores: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    return torch.stack([weight * part for weight, part in zip(weights, scores, strict=True)]).sum(0)


def fuse(streams: Sequence[Evaluation], weights: Sequence[float]) -> Evaluation:
    """What the fused model does on clips of which each stream's logits are given, in one order."""
    logits = [torch.from_numpy(stream.logits).double() for stream in streams]
    return Evaluation(fused_scores(logits, weights, streams[0].several).numpy(), streams[0].labels)


def best_weights(streams: Sequence[Evaluation]) -> tuple[float, ...]:
    """The weights on the grid of STEPS, which sum to 1, with which fusion is right most often on these clips.

    Of several labels those with the highest GAP@20.

    Of equally good ones those nearest to equal weights, and of these the ones with the lowest loss.
    """
    count, steps, first = len(streams), STEPS[len(streams)], streams[0]
    logs = _scores([torch.from_numpy(stream.logits).double() for stream in streams], first.several)

    def merit(parts: tuple[int, ...]) -> tuple[float, int]:
        fused = Evaluation(_weighted(logs, [part / steps for part in parts]).numpy(), first.labels)
        return fused.score, -sum((count * part - steps) ** 2 for part in parts)

    merits = {tuple(part / steps for part in parts): merit(parts) for parts in _divisions(steps, count)}
    best = max(merits.values())
    return min(
        (weights for weights, found in merits.items() if found == best),
        key=lambda weights: fuse(streams, weights).loss,
    )


def _divisions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to write `total` as a sum of so many whole numbers from 0 on, order counting."""
    for bars in itertools.combinations(range(total + parts - 1), parts - 1):
        ends = (-1, *bars, total + parts - 1)
        yield tuple(after - before - 1 for before, after in itertools.pairwise(ends))
