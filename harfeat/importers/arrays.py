"""What every importer returns, and how it becomes the clips of a cache."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from harfeat.cache.labels import label_fields
from harfeat.cache.schema import FEATURE_TYPES, ClipFeatures, ClipRow
from harfeat.errors import InputError

UNREADABLE = (
    *(OSError, EOFError, RuntimeError, ValueError, TypeError, LookupError, MemoryError),
    *(zipfile.BadZipFile, zlib.error),
)
"""What h5py and NumPy raise on bytes that make no sense."""

_MOST_UNNAMED_CLASSES = 100_000


@dataclass(frozen=True)
class Keys:
    """Where things stand in a foreign file."""

    features: str
    labels: str
    names: str | None = None
    groups: str | None = None
    classes: str | None = None
    offsets: str | None = None
    label_offsets: str | None = None

    def given(self) -> dict[str, str]:
        """The keys that were given, by what they hold."""
        return {what: key for what, key in vars(self).items() if key is not None}


@dataclass(frozen=True, eq=False)
class ForeignArrays:
    """The arrays of a foreign file as they stand there.

    features (V, T, D), or (V, D) for one row a clip; it may be a lazy HDF5 data set. labels (V,) integers or
    text, or (V, C) of 0 and 1, where clips have several; names, groups (V,), classes (C,) where given. With
    offsets (V+1,) features are (N, D): clip v owns the rows offsets[v]:offsets[v+1]. With label_offsets (V+1,)
    labels are (n,): clip v has labels[label_offsets[v]:label_offsets[v+1]].
    """

    features: np.ndarray
    labels: np.ndarray
    names: np.ndarray | None
    groups: np.ndarray | None
    classes: np.ndarray | None
    offsets: np.ndarray | None = None
    label_offsets: np.ndarray | None = None


def collect(
    path: Path, keys: Keys, fetch: Callable[[str], np.ndarray], list_keys: Callable[[], list[str]]
) -> ForeignArrays:
    """Fetch every given key; InputError for one that is not there, listing those that are, or is damaged."""
    found: dict[str, np.ndarray] = {}
    for what, key in keys.given().items():
        try:
            known = list_keys()
            if key in known:
                found[what] = fetch(key)
        except UNREADABLE as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{path}: array {key!r} (--{what}) cannot be read ({reason})") from error
        if what not in found:
            raise InputError(f"{path}: no array {key!r} (--{what}); it holds: {', '.join(known) or 'none'}")
    return ForeignArrays(**{what: found.get(what) for what in vars(keys)})  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class ForeignClips:
    """Checked: rows in file order, and the features of each on demand."""

    rows: tuple[ClipRow, ...]
    classes: tuple[str, ...]
    lengths: tuple[int, ...]
    dim: int
    dtype: np.dtype[np.generic]
    arrays: ForeignArrays

    def features(self) -> Iterator[ClipFeatures]:
        """Each clip's (T, D) rows; the source frames are unknown, -1. NaN and infinity are InputErrors."""
        flat = self.arrays.offsets is not None
        starts = np.concatenate([[0], np.cumsum(self.lengths)]).tolist()
        for index, row in enumerate(self.rows):
            place = slice(*starts[index : index + 2]) if flat else index
            try:
                rows = np.asarray(self.arrays.features[place]).reshape(-1, self.dim)
            except UNREADABLE as error:
                raise InputError(
                    f"clip {row.name}: features cannot be read; the source file is damaged"
                ) from error
            if not np.isfinite(rows).all():
                raise InputError(f"clip {row.name}: features hold NaN or infinity; mend the source file")
            yield ClipFeatures(rows, np.full(len(rows), -1, np.int32))


def check(path: Path, arrays: ForeignArrays) -> ForeignClips:
    """Check that the arrays fit together; InputError, one line, where they do not."""
    shape, dtype = arrays.features.shape, arrays.features.dtype
    if len(shape) not in (2, 3) or dtype.name not in FEATURE_TYPES or 0 in shape:
        raise InputError(
            f"{path}: features are {dtype} {shape}; expected floats of shape (clips, frames, D) or (clips, D), "
            "or uint8"
        )
    lengths = _lengths(path, arrays)
    count = len(lengths)
    for what in ("labels", "names", "groups"):
        column = getattr(arrays, what)
        if what == "labels" and (arrays.label_offsets is not None or column.ndim == 2):
            continue
        if column is not None and column.shape != (count,):
            raise InputError(f"{path}: {what} have shape {column.shape} for {count} clips of features")
    names = (
        [f"clip{clip:06d}" for clip in range(count)]
        if arrays.names is None
        else _texts(path, "names", arrays.names)
    )
    if len(set(names)) != count:
        raise InputError(f"{path}: names are not unique; clips are told apart by name")
    classes, labels = _label_sets(path, arrays, count)
    groups = [""] * count if arrays.groups is None else _texts(path, "groups", arrays.groups)
    rows = tuple(
        ClipRow(name, label, group, labels=several)
        for name, (label, several), group in zip(names, map(label_fields, labels), groups, strict=True)
    )
    return ForeignClips(rows, classes, lengths, shape[-1], dtype.newbyteorder("="), arrays)


def _lengths(path: Path, arrays: ForeignArrays) -> tuple[int, ...]:
    """Rows of each clip."""
    shape, offsets = arrays.features.shape, arrays.offsets
    if offsets is None:
        return (1 if len(shape) == 2 else shape[1],) * shape[0]
    if len(shape) != 2 or offsets.ndim != 1 or offsets.dtype.kind not in "iu" or len(offsets) < 2:
        raise InputError(
            f"{path}: with --offsets features are (rows, D) and offsets (clips + 1,) integers, not {shape} and "
            f"{offsets.dtype} {offsets.shape}"
        )
    _require_cover(path, "offsets", offsets, shape[0], "rows of features")
    return tuple(np.diff(offsets).tolist())


def _require_cover(path: Path, what: str, offsets: np.ndarray, total: int, of: str) -> None:
    if offsets[0] != 0 or offsets[-1] != total or (offsets[1:] < offsets[:-1]).any():
        raise InputError(f"{path}: {what} do not cover the {total} {of} in order")


def _label_sets(path: Path, arrays: ForeignArrays, count: int) -> tuple[tuple[str, ...], list[list[int]]]:
    """Class names in order, and the indices of each clip's classes."""
    given = None if arrays.classes is None else tuple(_texts(path, "classes", arrays.classes))
    if given is not None and len(set(given)) != len(given):
        raise InputError(f"{path}: classes holds a name twice")
    labels, offsets = arrays.labels, arrays.label_offsets
    if offsets is None and labels.ndim == 2:
        return _of_matrix(path, labels, count, given)
    classes, indices = _classes(path, labels, given)
    if offsets is None:
        return classes, [[index] for index in indices]
    if labels.ndim != 1 or offsets.shape != (count + 1,) or offsets.dtype.kind not in "iu":
        raise InputError(
            f"{path}: with --label-offsets labels are (n,) and label_offsets ({count} clips + 1,) integers, not "
            f"{labels.shape} and {offsets.dtype} {offsets.shape}"
        )
    _require_cover(path, "label_offsets", offsets, len(labels), "labels")
    places = offsets.tolist()
    return classes, [indices[start:stop] for start, stop in pairwise(places)]


def _of_matrix(
    path: Path, labels: np.ndarray, count: int, given: tuple[str, ...] | None
) -> tuple[tuple[str, ...], list[list[int]]]:
    """Labels as a table of 0 and 1, a row a clip and a column a class."""
    columns = labels.shape[1]
    if labels.shape[0] != count or columns != len(given or range(columns)):
        told = "" if given is None else f" of {len(given)} classes"
        raise InputError(f"{path}: labels have shape {labels.shape} for {count} clips{told}")
    if columns < 2 or labels.dtype.kind not in "biuf" or not ((labels == 0) | (labels == 1)).all():
        raise InputError(
            f"{path}: labels have shape {labels.shape}, so they should be 0 and 1, a column a class; give class "
            "indices or names the shape (clips,)"
        )
    sets: list[list[int]] = [[] for _ in range(count)]
    for clip, label in np.argwhere(labels).tolist():
        sets[clip].append(label)
    return given or tuple(f"class{index}" for index in range(columns)), sets


def _classes(path: Path, labels: np.ndarray, given: tuple[str, ...] | None) -> tuple[tuple[str, ...], list[int]]:
    """Class names in order and the index of each label; text labels are named by `given`, or sorted."""
    if labels.dtype.kind in "iu":
        indices = [int(label) for label in labels]
        count = max(indices, default=-1) + 1 if given is None else len(given)
        if indices and not 0 <= min(indices) <= max(indices) < count:
            told = "; of several labels a clip name --label-offsets" if min(indices) == -1 else ""
            raise InputError(f"{path}: labels run from {min(indices)} to {max(indices)} for {count} classes{told}")
        if given is None and count > _MOST_UNNAMED_CLASSES:
            raise InputError(f"{path}: labels run to {max(indices)}; are they class indices? Name the --classes")
        return given or tuple(f"class{index}" for index in range(count)), indices
    if labels.dtype.kind not in "SUO":
        raise InputError(f"{path}: labels are {labels.dtype}; expected integers or text")
    texts = _texts(path, "labels", labels)
    classes = given or tuple(sorted(set(texts)))
    unknown = sorted(set(texts) - set(classes))
    if unknown:
        raise InputError(f"{path}: label {unknown[0]!r} is not among the {len(classes)} classes")
    places = {name: index for index, name in enumerate(classes)}
    return classes, [places[text] for text in texts]


def _texts(path: Path, what: str, column: np.ndarray) -> list[str]:
    """A column of text or integers as text."""
    if column.ndim != 1:
        raise InputError(f"{path}: {what} have shape {column.shape}, expected one column")
    try:
        texts = [value.decode("utf-8") if isinstance(value, bytes) else value for value in column.tolist()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: {what} are not utf-8") from error
    if not all(isinstance(value, (str, int)) for value in texts):
        raise InputError(f"{path}: {what} are {column.dtype}; expected text or integers")
    if any("\0" in str(value) for value in texts):
        raise InputError(f"{path}: {what} hold a zero byte")
    return [str(value) for value in texts]
