"""Measures of clips with several labels, as YouTube-8M publishes them: GAP@20, hit at one, PERR, mAP.

Each is an object: `update(scores, targets)` with a batch, `compute()`, `reset()`, and `merge(other)` with what
another process has seen. Scores (B, C) are numbers of any range, larger is likelier; targets (B, C) are 0 or 1;
both torch or numpy. Clips in batches, in any order, give what all at once give.

The definitions are those of the evaluation in github.com/google/youtube-8m (eval_util.py,
average_precision_calculator.py and mean_average_precision_calculator.py, as of 2019), whose code is not used.
Ties are what it leaves to chance: pooled scores are shuffled with a fixed seed before a stable sort, and of equals
at the border of a clip's top 20 those stay that numpy.argpartition happens to leave. Here both have a rule without
chance: GAP and PERR are the expected values over all orders of equals, in closed form.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from harvib.errors import InputError

TOP = 20
"""Scores of a clip that count in GAP and mAP."""

_M = TypeVar("_M", bound="Measure")


class Measure(ABC):
    """What all measures have in common: a state that grows with batches and with others' states."""

    def __init__(self) -> None:
        self.reset()

    def update(self, scores: Tensor | np.ndarray, targets: Tensor | np.ndarray) -> None:
        """Add a batch: scores (B, C), targets (B, C) of 0 and 1. InputError for other shapes and NaN."""
        s, t = _array(scores), _array(targets)
        if s.ndim != 2 or s.shape != t.shape:
            raise InputError(f"scores {s.shape} and targets {t.shape} must both be (clips, classes)")
        if np.isnan(s).any():
            raise InputError("some scores are NaN: the model diverged, try a lower learning rate")
        hits = t > 0
        if not np.array_equal(hits, t):
            raise InputError("targets must be 0 or 1")
        if len(s):
            self._add(s, hits)

    @abstractmethod
    def reset(self) -> None:
        """Forget all clips."""

    @abstractmethod
    def merge(self: _M, other: _M) -> None:
        """Add what another measure of the same kind and settings has seen; it stays as it is."""

    @abstractmethod
    def compute(self) -> float:
        """The value for all clips so far, 0 to 1. InputError where none of them has a label."""

    @abstractmethod
    def _add(self, scores: np.ndarray, hits: np.ndarray) -> None:
        """Add checked (B, C) scores and bools, B at least 1."""


class GlobalAveragePrecision(Measure):
    """GAP@20: the `top` best scores of each clip, pooled over clips and classes, in one average precision.

    That is the sum, over the pooled list from its best score on, of precision times the step of recall, where
    recall counts ALL labels, also those whose score is not among a clip's best. Keeps `top` scores a clip, and of
    each whether it is right.
    """

    def __init__(self, top: int = TOP) -> None:
        self.top = _checked_top(top)
        super().__init__()

    def reset(self) -> None:
        self._scores: list[np.ndarray] = []
        self._hits: list[np.ndarray] = []
        self._ties: list[Ties] = []
        self._positives = 0

    def merge(self, other: GlobalAveragePrecision) -> None:
        _same("top", self.top, other.top)
        self._scores += other._scores
        self._hits += other._hits
        self._ties += other._ties
        self._positives += other._positives

    def _add(self, scores: np.ndarray, hits: np.ndarray) -> None:
        border = _best(scores, self.top)
        sure, ties = _cut(scores, hits, border, np.full(len(scores), min(self.top, scores.shape[1])))
        self._scores.append(scores[sure])
        self._hits.append(hits[sure])
        self._ties.append(ties)
        self._positives += int(hits.sum())

    def compute(self) -> float:
        _some_labels(self._positives)
        ties = Ties(*(np.concatenate(parts) for parts in zip(*self._ties, strict=True)))
        return average_precision(np.concatenate(self._scores), np.concatenate(self._hits), self._positives, ties)


class HitAtOne(Measure):
    """Share of clips whose most likely class, the lowest index of equals, is among their labels."""

    def reset(self) -> None:
        self._hits = self._clips = self._positives = 0

    def merge(self, other: HitAtOne) -> None:
        self._hits += other._hits
        self._clips += other._clips
        self._positives += other._positives

    def _add(self, scores: np.ndarray, hits: np.ndarray) -> None:
        self._hits += int(hits[np.arange(len(hits)), scores.argmax(1)].sum())
        self._clips += len(hits)
        self._positives += int(hits.sum())

    def compute(self) -> float:
        _some_labels(self._positives)
        return self._hits / self._clips


class Perr(Measure):
    """Precision at equal recall rate: of a clip with n labels, the share of its n best classes that are right.

    The mean is over clips with labels. (YouTube-8M's own program counts a clip without labels as 0, and leaves out
    scores that are not positive, which its probabilities always are.)
    """

    def reset(self) -> None:
        self._sum = 0.0
        self._clips = 0

    def merge(self, other: Perr) -> None:
        self._sum += other._sum
        self._clips += other._clips

    def _add(self, scores: np.ndarray, hits: np.ndarray) -> None:
        labelled = hits.any(1)
        scores, hits = scores[labelled], hits[labelled]
        counts = hits.sum(1)
        border = np.take_along_axis(np.sort(scores, 1), (scores.shape[1] - counts)[:, None], 1)[:, 0]
        sure, ties = _cut(scores, hits, border, counts)
        right = (hits & sure).sum(1).astype(np.float64)
        right[ties.clips] += ties.slots * ties.hits / ties.tied
        self._sum += float((right / counts).sum())
        self._clips += len(counts)

    def compute(self) -> float:
        _some_labels(self._clips)
        return self._sum / self._clips


class MeanAveragePrecision(Measure):
    """mAP: average precision of each class over clips, and of these the mean over classes that a clip has.

    As published, a class's list holds only clips that have it among their `top` best scores (None: all clips), and
    its recall counts all clips of the class. Orders of equals are averaged; of equals at the border of a clip's
    best those of lower index stay. (Published: a class that no clip has counts as 0.)
    """

    def __init__(self, top: int | None = TOP) -> None:
        self.top = top if top is None else _checked_top(top)
        super().__init__()

    def reset(self) -> None:
        self._scores: list[np.ndarray] = []
        self._classes: list[np.ndarray] = []
        self._hits: list[np.ndarray] = []
        self._positives: np.ndarray | None = None

    def merge(self, other: MeanAveragePrecision) -> None:
        _same("top", self.top, other.top)
        if other._positives is not None:
            self._count(other._positives)
        self._scores += other._scores
        self._classes += other._classes
        self._hits += other._hits

    def _count(self, positives: np.ndarray) -> None:
        if self._positives is None:
            self._positives = np.zeros_like(positives)
        _same("number of classes", len(self._positives), len(positives))
        self._positives = self._positives + positives

    def _add(self, scores: np.ndarray, hits: np.ndarray) -> None:
        self._count(hits.sum(0))
        kept = np.ones_like(hits)
        if self.top is not None and self.top < scores.shape[1]:
            border = _best(scores, self.top)[:, None]
            tied = scores == border
            slots = self.top - (scores > border).sum(1, keepdims=True)
            kept = (scores > border) | (tied & (tied.cumsum(1) <= slots))
        self._scores.append(scores[kept])
        self._classes.append(np.nonzero(kept)[1].astype(np.int32))
        self._hits.append(hits[kept])

    def compute(self) -> float:
        _some_labels(0 if self._positives is None else int(self._positives.sum()))
        assert self._positives is not None
        classes = np.concatenate(self._classes)
        order = classes.argsort(kind="stable")
        scores, hits = np.concatenate(self._scores)[order], np.concatenate(self._hits)[order]
        present = np.flatnonzero(self._positives)
        begin = np.searchsorted(classes, present, sorter=order)
        end = np.searchsorted(classes, present, side="right", sorter=order)
        each = [
            average_precision(scores[first:last], hits[first:last], int(self._positives[index]))
            for index, first, last in zip(present, begin, end, strict=True)
        ]
        return float(np.mean(each))


class Ties(NamedTuple):
    """Clips whose border runs through equal scores: `slots` of `tied` equals stay, drawn at random. All (n,)."""

    clips: np.ndarray
    """Index in the batch."""
    scores: np.ndarray
    slots: np.ndarray
    tied: np.ndarray
    hits: np.ndarray
    """How many of the tied are labels."""


def average_precision(scores: np.ndarray, hits: np.ndarray, positives: int, ties: Ties | None = None) -> float:
    """Sum over the list, best score first, of precision times the step of recall; 0 for an empty list.

    (N,) scores and bools; `positives` is the count of all labels, in the list or not. Equal scores: the expected
    value over their orders, and over what the draws of `ties` add to the list.

    Let n equals, of which P are labels, follow on N0 entries with P0 labels. The i-th of them is a label with
    probability P / n, and then each of the i - 1 equals before it is one with (P - 1) / (n - 1): precision times
    hit is expected to be (P (P0 + 1) / n + (i - 1) P (P - 1) / (n (n - 1))) / (N0 + i). A draw at a border makes P
    random (hypergeometric), but not n: then E[P] and E[P (P - 1)] stand in these places. P0 is of other scores and
    each clip has one border, so the two are independent and E[P0] is enough.
    """
    drawn = _no_ties(scores.dtype) if ties is None else ties
    values, group = np.unique(np.concatenate([scores, drawn.scores]), return_inverse=True)
    if not len(values):
        return 0.0
    group = len(values) - 1 - group  # np.unique is ascending
    listed, borders = group[: len(scores)], group[len(scores) :]
    share = drawn.hits / drawn.tied
    spread = drawn.slots * share * (1 - share) * (drawn.tied - drawn.slots) / np.maximum(drawn.tied - 1, 1)

    def total(of: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.bincount(of, weights, len(values))

    n = total(listed, np.ones(len(listed))) + total(borders, drawn.slots)
    labels = total(listed, hits) + total(borders, drawn.slots * share)
    pairs = np.maximum(labels**2 + total(borders, spread) - labels, 0)
    end = n.cumsum()
    before, before_labels = end - n, labels.cumsum() - labels
    harmonic = np.add.reduceat(1 / np.arange(1, int(end[-1]) + 1), before.astype(np.int64))
    first = labels / n * (before_labels + 1) * harmonic
    others = pairs / (n * np.maximum(n - 1, 1)) * (n - (before + 1) * harmonic)
    return float((first + others).sum() / positives)


def measures(scores: Tensor | np.ndarray, targets: Tensor | np.ndarray) -> dict[str, float]:
    """All four of one set of clips: gap, hit, perr, map."""
    found: dict[str, Measure] = {
        "gap": GlobalAveragePrecision(),
        "hit": HitAtOne(),
        "perr": Perr(),
        "map": MeanAveragePrecision(),
    }
    for measure in found.values():
        measure.update(scores, targets)
    return {name: measure.compute() for name, measure in found.items()}


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """(B,) the count-th best score of each row; the worst where there are fewer."""
    at = max(scores.shape[1] - count, 0)
    return np.partition(scores, at, axis=1)[:, at]


def _cut(scores: np.ndarray, hits: np.ndarray, border: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, Ties]:
    """Which (B, C) are among the `counts` best of their row for sure, and the rows where equals must be drawn."""
    above, tied = scores > border[:, None], scores == border[:, None]
    slots, equals = counts - above.sum(1), tied.sum(1)
    whole = slots == equals
    rows = np.flatnonzero(~whole)
    ties = Ties(rows, border[rows], slots[rows], equals[rows], (tied & hits)[rows].sum(1))
    return above | (tied & whole[:, None]), ties


def _no_ties(dtype: np.dtype) -> Ties:
    none = np.zeros(0, np.int64)
    return Ties(none, none.astype(dtype), none, none, none)


def _array(values: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(values, Tensor):
        kept = values.detach().cpu()
        # numpy has no bfloat16; float32 holds its numbers, and those of float16, exactly.
        return (kept.float() if kept.is_floating_point() and kept.itemsize < 4 else kept).numpy()
    return np.asarray(values)


def _checked_top(top: int) -> int:
    if top < 1:
        raise InputError(f"top {top}: at least one score of a clip must count")
    return top


def _same(what: str, mine: object, theirs: object) -> None:
    if mine != theirs:
        raise InputError(f"cannot add a measure whose {what} is {theirs} to one whose {what} is {mine}")


def _some_labels(positives: int) -> None:
    if not positives:
        raise InputError("no clip with a label has been seen, so there is nothing to measure")
