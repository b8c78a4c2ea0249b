"""Which whole groups train, so that every class stays as near a wanted fraction as groups allow.

Groups that share no class do not influence each other, so the clips fall into components of groups
linked by classes. A component with one class is a subset-sum problem and is solved exactly; a small one
with several classes (subjects that each perform every action) is enumerated; a large one is searched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

_ENUMERATED_CELLS = 4_000_000
_SEARCH_STARTS = 6
_SEARCH_PASSES = 20
_SWAP_PARTNERS = 64


def training_groups(
    labels: Sequence[int], groups: Sequence[str], train_fraction: float, seed: int
) -> frozenset[str]:
    """Return the groups whose clips train; all others test.

    First as few classes as possible lack a side, then the sum over classes of
    |fraction of the clips that train - train_fraction| is as small as possible: exactly so for classes
    linked by no group and for small components, by a seeded search otherwise. A component of one group
    trains. The answer depends on the (label, group) pairs and the seed, not on the order of clips; a
    component's part of it depends on that component alone.
    """
    sizes = Counter(zip(groups, (int(label) for label in labels), strict=True))
    training: set[str] = set()
    for component in _components(sizes):
        names = sorted({group for group, _ in component})
        classes = sorted({label for _, label in component})
        table = np.zeros((len(names), len(classes)), np.int64)
        row = {name: index for index, name in enumerate(names)}
        column = {label: index for index, label in enumerate(classes)}
        for group, label in component:
            table[row[group], column[label]] = sizes[group, label]
        generator = np.random.default_rng([seed, classes[0] + 1])
        # The solvers below take the first of equally good answers; the shuffle makes that a random one.
        order = generator.permutation(len(names))
        trains = _partition(table[order], train_fraction, generator)
        training.update(names[index] for index in order[trains])
    return frozenset(training)


def _components(pairs: Iterable[tuple[str, int]]) -> Iterator[list[tuple[str, int]]]:
    """Gather (group, label) pairs that are linked through shared groups or labels."""
    parent: dict[str | int, str | int] = {}

    def find(node: str | int) -> str | int:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    pairs = sorted(pairs)
    for group, label in pairs:
        parent[find(group)] = find(label)
    members: dict[str | int, list[tuple[str, int]]] = {}
    for group, label in pairs:
        members.setdefault(find(label), []).append((group, label))
    yield from members.values()


def _partition(
    table: NDArray[np.int64], train_fraction: float, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Choose the training rows of a (groups, classes) table of clip counts; returns (groups,)."""
    groups, classes = table.shape
    if groups == 1:
        return np.ones(1, np.bool_)
    if classes == 1:
        return _nearest_subset(table[:, 0].tolist(), train_fraction)
    if groups < 30 and 2**groups * classes <= _ENUMERATED_CELLS:
        subsets = (np.arange(2**groups)[:, None] >> np.arange(groups)) & 1 == 1
        return subsets[np.argmin(_costs(subsets @ table, table.sum(axis=0), train_fraction))]
    return _search(table, train_fraction, generator)


def _nearest_subset(sizes: Sequence[int], train_fraction: float) -> NDArray[np.bool_]:
    """Choose a subset, neither empty nor whole, whose sum is nearest to the fraction of the total."""
    # Bit s of reachable[i] tells whether some of the first i sizes sum to s.
    reachable = [1]
    for size in sizes:
        reachable.append(reachable[-1] | reachable[-1] << size)
    total = sum(sizes)
    wanted = train_fraction * total
    possible = (value for value in range(1, total) if reachable[-1] >> value & 1)
    left = min(possible, key=lambda value: (abs(value - wanted), value))
    chosen = np.zeros(len(sizes), np.bool_)
    for index in reversed(range(len(sizes))):
        if not reachable[index] >> left & 1:
            chosen[index] = True
            left -= sizes[index]
    return chosen


def _costs(trained: NDArray[np.int64], totals: NDArray[np.int64], train_fraction: float) -> NDArray[np.float64]:
    """Cost of each row of (answers, classes) training counts: a class without a side outweighs all else."""
    one_sided = ((trained == 0) | (trained == totals)).sum(axis=1)
    deviation = np.abs(trained / totals - train_fraction).sum(axis=1)
    # Rounded, so that the order in which a machine adds floats cannot break a tie.
    return np.round(one_sided * (len(totals) + 1.0) + deviation, 9)


def _search(table: NDArray[np.int64], train_fraction: float, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Take the best of several seeded local searches; (groups, classes) to (groups,)."""
    best: NDArray[np.bool_] = np.ones(len(table), np.bool_)
    best_cost = np.inf
    for _ in range(_SEARCH_STARTS):
        trains = generator.random(len(table)) < train_fraction
        cost = _descend(table, trains, train_fraction, generator)
        if cost < best_cost:
            best, best_cost = trains, cost
    return best


def _descend(
    table: NDArray[np.int64],
    trains: NDArray[np.bool_],
    train_fraction: float,
    generator: np.random.Generator,
) -> float:
    """Move a group over, or swap two, as long as the cost falls; changes `trains`, returns the cost."""
    totals = table.sum(axis=0)
    trained = table[trains].sum(axis=0)
    cost = float(_costs(trained[None], totals, train_fraction)[0])
    for _ in range(_SEARCH_PASSES):
        before = cost
        for group in generator.permutation(len(table)):
            partners = np.flatnonzero(trains != trains[group])
            if len(partners) > _SWAP_PARTNERS:
                partners = generator.choice(partners, _SWAP_PARTNERS, replace=False)
            change = -table[group] if trains[group] else table[group]
            back = table[partners] if trains[group] else -table[partners]
            options = np.concatenate([(trained + change)[None], trained + change + back])
            costs = _costs(options, totals, train_fraction)
            best = int(np.argmin(costs))
            if costs[best] < cost:
                cost, trained = float(costs[best]), options[best]
                trains[group] = not trains[group]
                if best > 0:
                    trains[partners[best - 1]] = not trains[partners[best - 1]]
        if cost == before:
            break
    return cost
