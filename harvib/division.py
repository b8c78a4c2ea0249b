"""The parts of a run: which clips of a cache it trains on, selects on and is tested on.

Held out are whole groups, where the cache knows groups. Of clips with one label the classes stay in proportion; of
clips with several there is no such proportion to keep, and groups are drawn at random.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from harfeat.cache import ROLES, Cache
from harvib.errors import InputError
from harvib.labels import require_labels
from harvib.source import places_of


@dataclass(frozen=True, eq=False)
class Division:
    """Which clips of a cache are in which part of a split, (V,) indices each; the hashes are those of `Parts`."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    split_hash: str
    parts_hash: str


def divide(cache: Cache, split: str, validation: float, seed: int, names: Sequence[str] | None = None) -> Division:
    """The three parts of a split, without reading a feature.

    About `validation` of the train clips are held out to select models on, by whole groups where the cache
    knows groups, classes kept in proportion where each clip has one label. With `names` there are no other clips
    than these, and who is held out depends on their order, not on that of the cache. Clips without any label may
    stand in the cache as long as the split does not use them.
    """
    order = places_of(cache, names)
    roles = cache.split(split).roles[order]
    train, test = (np.flatnonzero(roles == ROLES[role]) for role in ("train", "test"))
    if not len(train) or not len(test):
        raise InputError(
            f"{cache.path}: split {split} has {len(train)} train and {len(test)} test clips; both are needed"
        )
    require_labels(cache, order[np.concatenate([train, test])])
    rows = [cache.clips[clip] for clip in order]
    groups = [rows[place].group for place in train]
    if cache.has_several:
        held = hold_out_groups(groups, validation, seed)
    else:
        held = hold_out(cache.labels[order[train]], groups, validation, seed)
    parts = roles.astype(int)
    parts[train[held]] = -1
    ours = [row.name for row in rows]
    labels = [",".join(map(str, row.all_labels)) for row in rows]
    hashes = _hash_of(ours, map(str, roles.tolist())), _hash_of(ours, map(str, parts.tolist()), labels)
    return Division(order[train[~held]], order[train[held]], order[test], *hashes)


def hold_out(labels: np.ndarray, groups: list[str], fraction: float, seed: int) -> np.ndarray:
    """Which clips to hold out, (V,) bool: one stratified fold of about `fraction`, groups never divided."""
    largest = int(np.bincount(labels).max())
    if largest < 2:
        raise InputError("no class has two clips in the train part, so none can be held out to select models on")
    _require_two_groups(groups)
    folds = min(max(2, round(1 / fraction)), largest, len(set(groups)) if any(groups) else largest)
    kind, units = (StratifiedGroupKFold, groups) if any(groups) else (StratifiedKFold, None)
    splitter = kind(n_splits=folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A class with fewer clips than there are folds is told of, but one fold is all that is used.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        _, held = next(iter(splitter.split(np.zeros(len(labels)), labels, units)))
    mask = np.zeros(len(labels), bool)
    mask[held] = True
    return mask


def hold_out_groups(groups: list[str], fraction: float, seed: int) -> np.ndarray:
    """Which clips to hold out, (V,) bool: whole groups drawn at random, as near to `fraction` as they come.

    Without groups each clip is one of its own. Some clip is always held out, and some is always left.
    """
    if len(groups) < 2:
        raise InputError("the train part has a single clip, so none can be held out to select models on")
    _require_two_groups(groups)
    units = np.unique(groups, return_inverse=True)[1] if any(groups) else np.arange(len(groups))
    order = np.random.default_rng(seed).permutation(int(units.max()) + 1)
    ends = np.cumsum(np.bincount(units)[order])
    count = 1 + int(np.argmin(np.abs(ends[:-1] - fraction * len(groups))))
    return np.isin(units, order[:count])


def _require_two_groups(groups: list[str]) -> None:
    if len(set(groups)) < 2 and any(groups):
        raise InputError("the train part has a single group, so nothing can be held out to select models on")


def _hash_of(*columns: Iterable[str]) -> str:
    """Of rows in any order."""
    lines = sorted("\t".join(row) + "\n" for row in zip(*columns, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
