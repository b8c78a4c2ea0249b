"""Measures of several labels: against plain loops, scikit-learn, and the mean over many shuffles of equals."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from harvib.errors import InputError
from harvib.gap import (
    GlobalAveragePrecision,
    HitAtOne,
    MeanAveragePrecision,
    Measure,
    Perr,
    average_precision,
    measures,
)

Case = tuple[np.ndarray, np.ndarray]


@st.composite
def cases(draw: st.DrawFn, levels: int | None = None) -> Case:
    """(scores, targets) of some clips, at least one label; `levels`: so many different scores, else no ties."""
    clips, classes = draw(st.integers(1, 7)), draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if levels is None:
        scores = rng.permutation(clips * classes).reshape(clips, classes) - clips * classes / 2
    else:
        scores = rng.integers(0, levels, (clips, classes)) / 4
    targets = rng.random((clips, classes)) < rng.choice([0.05, 0.3, 0.9])
    targets[rng.integers(clips), rng.integers(classes)] = True
    return scores.astype(np.float64), targets


def ap_of(entries: list[tuple[float, bool]], positives: int) -> float:
    """Average precision of a list in this order, by a loop."""
    found, total = 0, 0.0
    for place, (_, hit) in enumerate(entries, 1):
        if hit:
            found += 1
            total += found / place / positives
    return total


def best(row: list[tuple[float, bool]], top: int) -> list[tuple[float, bool]]:
    return sorted(row, key=lambda entry: -entry[0])[:top]  # stable: of equals the first


def naive_gap(scores: np.ndarray, targets: np.ndarray, top: int, rng: np.random.Generator) -> float:
    """GAP with chance: classes of each clip, then all entries, are shuffled before they are sorted."""
    pool: list[tuple[float, bool]] = []
    for row, labels in zip(scores, targets, strict=True):
        entries = list(zip(row.tolist(), labels.tolist(), strict=True))
        pool += best([entries[at] for at in rng.permutation(len(entries))], top)
    return ap_of(best([pool[at] for at in rng.permutation(len(pool))], len(pool)), int(targets.sum()))


def naive_perr(scores: np.ndarray, targets: np.ndarray, rng: np.random.Generator) -> float:
    each = []
    for row, labels in zip(scores, targets, strict=True):
        if labels.any():
            order = sorted(rng.permutation(len(row)), key=lambda at: -row[at])[: labels.sum()]
            each.append(np.mean([labels[at] for at in order]))
    return float(np.mean(each))


def naive_map(scores: np.ndarray, targets: np.ndarray, top: int, rng: np.random.Generator) -> float:
    """mAP: equals in a class's list shuffled; of equals at a clip's border those of lower index."""
    kept = np.zeros_like(targets)
    for clip, row in enumerate(scores):
        kept[clip, sorted(range(len(row)), key=lambda at: -row[at])[:top]] = True
    each = []
    for index in np.flatnonzero(targets.any(0)):
        clips = rng.permutation(np.flatnonzero(kept[:, index]))
        entries = [(float(scores[clip, index]), bool(targets[clip, index])) for clip in clips]
        each.append(ap_of(best(entries, len(entries)), int(targets[:, index].sum())))
    return float(np.mean(each))


def value(measure: Measure, scores: np.ndarray, targets: np.ndarray) -> float:
    measure.update(scores, targets)
    return measure.compute()


@given(cases(), st.integers(1, 25))
def test_without_ties_all_equal_a_plain_loop(case: Case, top: int) -> None:
    scores, targets = case
    rng = np.random.default_rng(0)
    assert value(GlobalAveragePrecision(top), *case) == pytest.approx(naive_gap(*case, top, rng))
    assert value(Perr(), *case) == pytest.approx(naive_perr(*case, rng))
    assert value(MeanAveragePrecision(top), *case) == pytest.approx(naive_map(*case, top, rng))
    hits = [labels[int(np.argmax(row))] for row, labels in zip(scores, targets, strict=True)]
    assert value(HitAtOne(), *case) == pytest.approx(sum(hits) / len(hits))


@given(cases())
def test_over_all_scores_it_is_scikit_learns_average_precision(case: Case) -> None:
    scores, targets = case
    known = average_precision_score(targets.ravel(), scores.ravel())
    assert value(GlobalAveragePrecision(30), *case) == pytest.approx(known)
    classes = np.flatnonzero(targets.any(0))
    each = [average_precision_score(targets[:, at], scores[:, at]) for at in classes]
    assert value(MeanAveragePrecision(None), *case) == pytest.approx(np.mean(each))


def outcomes(scores: list[list[float]], targets: list[list[int]], top: int) -> Iterator[tuple[Fraction, Fraction]]:
    """(probability, GAP) of every order of classes in each clip, and of every order of the pool."""
    positives = sum(map(sum, targets))
    rows = [
        [
            sorted(order, key=lambda e: -e[0])[:top]
            for order in itertools.permutations(zip(row, labels, strict=True))
        ]
        for row, labels in zip(scores, targets, strict=True)
    ]
    pools = list(itertools.product(*rows))
    for parts in pools:
        orders = list(itertools.permutations(itertools.chain(*parts)))
        for order in orders:
            found, total = 0, Fraction(0)
            for place, (_, hit) in enumerate(sorted(order, key=lambda e: -e[0]), 1):
                found += hit
                total += Fraction(hit * found, place * positives)
            yield Fraction(1, len(pools) * len(orders)), total


@pytest.mark.parametrize(
    ("scores", "targets", "top"),
    [
        ([[1.0, 1.0, 1.0]], [[1, 0, 1]], 3),
        ([[1.0, 1.0, 1.0]], [[1, 0, 1]], 2),
        ([[2.0, 1.0, 1.0], [1.0, 1.0, 0.0]], [[0, 1, 0], [1, 1, 0]], 2),
        ([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], [[0, 1, 1], [1, 0, 0]], 2),
        ([[2.0, 2.0, 2.0], [2.0, 1.0, 1.0], [3.0, 1.0, 1.0]], [[1, 0, 1], [0, 1, 0], [0, 0, 1]], 2),
    ],
)
def test_gap_with_ties_is_the_exact_mean_over_all_orders(
    scores: list[list[float]], targets: list[list[int]], top: int
) -> None:
    exact = sum(chance * gap for chance, gap in outcomes(scores, targets, top))
    got = value(GlobalAveragePrecision(top), np.array(scores), np.array(targets))
    assert got == pytest.approx(float(exact), abs=1e-12)


@settings(max_examples=15)
@given(cases(levels=4), st.integers(1, 12))
def test_with_ties_shuffles_approach_the_closed_form(case: Case, top: int) -> None:
    rng = np.random.default_rng(1)
    for measure, naive in (
        (GlobalAveragePrecision(top), lambda: naive_gap(*case, top, rng)),
        (Perr(), lambda: naive_perr(*case, rng)),
        (MeanAveragePrecision(top), lambda: naive_map(*case, top, rng)),
    ):
        drawn = [naive() for _ in range(300)]
        # Bernstein's bound for values in 0 to 1: none of the 45 comparisons should ever miss by chance.
        allowed = 6 * np.std(drawn) / np.sqrt(len(drawn)) + 6 / len(drawn)
        assert abs(value(measure, *case) - np.mean(drawn)) <= allowed


@given(cases(levels=5), st.lists(st.integers(0, 7), max_size=3), st.randoms())
def test_pieces_orders_and_processes_do_not_matter(case: Case, cuts: list[int], chance: object) -> None:
    scores, targets = case
    order = np.random.default_rng(len(cuts)).permutation(len(scores))
    for kind in (GlobalAveragePrecision, HitAtOne, Perr, MeanAveragePrecision):
        whole = value(kind(), *case)
        total = kind()
        for piece in np.split(order, sorted(min(cut, len(scores)) for cut in cuts)):
            other = kind()
            other.update(torch.from_numpy(scores[piece]), torch.from_numpy(targets[piece]))
            total.merge(pickle.loads(pickle.dumps(other)))  # as multiprocessing sends it
        assert total.compute() == pytest.approx(whole, abs=1e-12)


def test_labels_outside_the_top_count_in_recall() -> None:
    """30 classes, one label found at the first place, one at the last: half of the recall is lost."""
    scores = -np.arange(30.0)[None]
    targets = np.zeros((1, 30), int)
    targets[0, [0, 29]] = 1
    assert measures(scores, targets) == {"gap": 0.5, "hit": 1.0, "perr": 0.5, "map": 0.5}
    assert value(GlobalAveragePrecision(30), scores, targets) == pytest.approx((1 + 2 / 30) / 2)


def test_a_classifier_that_knows_nothing_gets_the_share_of_labels() -> None:
    """Equal scores: a list of N in random order, P labels; known mean of average precision (Bestgen 2015)."""
    n, p = 40, 9
    hits = np.arange(n) < p
    harmonic = sum(1 / k for k in range(1, n + 1))
    mean = ((p - 1) / (n - 1) * (n - harmonic) + harmonic) / n
    assert average_precision(np.zeros(n), hits, p) == pytest.approx(mean)


def test_equal_best_classes_hit_by_their_lowest_index_as_accuracy_does() -> None:
    scores = np.array([[1.0, 1.0], [1.0, 1.0]])
    assert value(HitAtOne(), scores, np.array([[1, 0], [0, 1]])) == 0.5


def test_half_precision_gpu_style_tensors_are_taken() -> None:
    scores = torch.tensor([[2.5, -1.0], [2.0, 3.0]], dtype=torch.bfloat16, requires_grad=True)
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.bfloat16)
    assert measures(scores, targets) == {"gap": 1.0, "hit": 1.0, "perr": 1.0, "map": 1.0}


def test_memory_is_the_top_only() -> None:
    gap = GlobalAveragePrecision()
    gap.update(np.random.default_rng(0).random((50, 3862)).astype(np.float32), np.zeros((50, 3862), bool))
    held = pickle.dumps(gap)
    assert len(held) < 50 * 20 * 5 + 2000


def test_reset_forgets_all() -> None:
    right, wrong = np.array([[1, 0]]), np.array([[0, 1]])
    for kind in (GlobalAveragePrecision, HitAtOne, Perr, MeanAveragePrecision):
        measure = kind()
        measure.update(np.array([[1.0, 0.0]]), wrong)
        measure.reset()
        assert value(measure, np.array([[1.0, 0.0]]), right) == 1.0


def test_bad_input_is_told_in_one_line() -> None:
    gap, scores = GlobalAveragePrecision(), np.zeros((2, 3))
    for bad, targets, told in (
        (scores, np.zeros((2, 4)), "must both be"),
        (np.zeros(3), np.zeros(3), "must both be"),
        (scores * np.nan, np.zeros((2, 3)), "NaN"),
        (scores, np.full((2, 3), 0.5), "0 or 1"),
        (scores, np.full((2, 3), -1), "0 or 1"),
    ):
        with pytest.raises(InputError, match=told):
            gap.update(bad, targets)
    gap.update(scores, np.zeros((2, 3)))
    for measure in (gap, HitAtOne(), Perr(), MeanAveragePrecision()):
        with pytest.raises(InputError, match="no clip with a label"):
            measure.compute()
    with pytest.raises(InputError, match="top is 5"):
        gap.merge(GlobalAveragePrecision(5))
    with pytest.raises(InputError, match="at least one"):
        GlobalAveragePrecision(0)
    classes = MeanAveragePrecision()
    classes.update(scores, np.ones((2, 3)))
    with pytest.raises(InputError, match="number of classes"):
        classes.update(np.zeros((2, 4)), np.ones((2, 4)))
