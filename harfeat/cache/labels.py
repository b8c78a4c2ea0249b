"""Clips with several labels, or none: as rows, and as the two data sets of a file.

One label is the rule, and stands in `clips/label`. As soon as one clip has another number of them,
`labels/offsets` and `labels/index` list those of all clips, one clip after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np

from harfeat.cache.schema import CacheError, ClipRow, offsets_of


def label_fields(classes: Iterable[int]) -> tuple[int, tuple[int, ...]]:
    """`ClipRow.label` and `ClipRow.labels` of a clip of these classes, in any order; repeats count once."""
    found = tuple(sorted(set(classes)))
    return (found[0], ()) if len(found) == 1 else (-1, found)


def is_several(clips: Iterable[ClipRow]) -> bool:
    """Whether some clip has not exactly one label."""
    return any(clip.label < 0 for clip in clips)


def label_sets_of(clips: Sequence[ClipRow]) -> tuple[np.ndarray, np.ndarray]:
    """Offsets (V+1,) int64 and class indices (n,) int32: clip v has the classes index[offsets[v]:offsets[v+1]].

    Raises ValueError where a row says both `label` and `labels`, one class in `labels`, or one twice or not in
    their order.
    """
    sets = [clip.all_labels for clip in clips]
    offsets = offsets_of([len(one) for one in sets])
    index = np.fromiter(chain.from_iterable(sets), np.int32, int(offsets[-1]))
    for clip in clips:
        if clip.labels and (clip.label >= 0 or len(clip.labels) == 1):
            raise ValueError(f"clip {clip.name}: label {clip.label} beside labels {clip.labels}, see label_fields")
    if (disorder := _disorder(offsets, index)) is not None:
        raise ValueError(f"clip {clips[disorder].name}: labels {sets[disorder]} do not ascend, see label_fields")
    return offsets, index


def checked_labels(
    path: object, names: Sequence[str], classes: int, labels: np.ndarray, offsets: np.ndarray, index: np.ndarray
) -> list[tuple[int, ...]]:
    """`ClipRow.labels` of every clip from the data sets of a file that nobody vouches for.

    `offsets` (V+1,) is known to ascend from 0 to the size of `index`. Raises CacheError, which begins with `path`:
    a class that is not there, classes that do not ascend, one label where `labels` (V,), the column
    `clips/label`, says several, or the other way round.
    """
    if index.size and not (index.min() >= 0 and index.max() < classes):
        raise CacheError(f"{path}: labels/index points outside of the {classes} classes")
    if (disorder := _disorder(offsets, index)) is not None:
        raise CacheError(f"{path}: labels/index of clip {names[disorder]} does not ascend, or holds a class twice")
    single = np.diff(offsets) == 1
    stated = np.full(len(labels), -1, np.int64)
    stated[single] = index[offsets[:-1][single]]
    if (other := np.flatnonzero(stated != labels)).size:
        raise CacheError(
            f"{path}: labels/index and clips/label disagree on clip {names[other[0]]}: file damaged or altered"
        )
    places, values = offsets.tolist(), index.tolist()
    return [
        () if alone else tuple(values[places[clip] : places[clip + 1]])
        for clip, alone in enumerate(single.tolist())
    ]


def _disorder(offsets: np.ndarray, index: np.ndarray) -> int | None:
    """The first clip whose classes do not ascend."""
    ascends = index[1:] > index[:-1]
    starts = offsets[(offsets > 0) & (offsets < len(index))]
    ascends[starts - 1] = True
    if ascends.all():
        return None
    place = int(np.flatnonzero(~ascends)[0])
    return int(np.searchsorted(offsets, place, side="right")) - 1
