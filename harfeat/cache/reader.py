"""Reading a cache file that somebody else may have written: nothing in it is trusted before it is checked.

This is the only part of harfeat that harvib uses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from harfeat.cache.fingerprint import fingerprint
from harfeat.cache.schema import (
    DEFAULT_STREAM,
    FORMAT,
    VERSION,
    CacheError,
    ClipFeatures,
    ClipRow,
    Failure,
)
from harfeat.splits import TEST, TRAIN, UNUSED, Split

ROLES = {"unused": UNUSED, "train": TRAIN, "test": TEST}


class Cache:
    """An open cache file; use it as a context manager, or close it.

    Attributes: path, version, fingerprint, recipe, provenance, classes, clips (rows in file order), splits,
    failures, streams (names).
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._file = _open(self.path)
        try:
            self._read_head()
        except BaseException:
            self._file.close()
            raise

    def _read_head(self) -> None:
        attributes = self._file.attrs
        if attributes.get("format") != FORMAT:
            raise CacheError(f"{self.path}: not a harfeat cache (no format attribute); see `harfeat import`")
        self.version = int(attributes.get("version", 0))
        if self.version > VERSION:
            raise CacheError(
                f"{self.path}: cache version {self.version}, this program reads up to {VERSION}: update it"
            )
        _refuse_links(self._file, self.path)
        self.provenance: dict[str, Any] = self._json_attribute("provenance")
        self.recipe: dict[str, Any] = self.provenance.get("recipe", {})
        self.fingerprint = str(attributes.get("fingerprint", ""))
        if fingerprint(self.recipe) != self.fingerprint:
            raise CacheError(f"{self.path}: fingerprint does not match the recipe in provenance: file altered")
        self.classes = self._text("classes")
        names = self._text("clips/name")
        count = len(names)
        labels = self._array("clips/label", "i", (count,))
        if count and not (labels.min() >= -1 and labels.max() < len(self.classes)):
            raise CacheError(f"{self.path}: clips/label points outside of the {len(self.classes)} classes")
        if len(set(names)) != count:
            raise CacheError(f"{self.path}: clips/name holds a name twice")
        groups, hashes = self._text("clips/group", count), self._text("clips/sha256", count)
        frames = self._array("clips/source_frames", "i", (count,))
        fps = self._array("clips/fps", "f", (count,))
        self.clips = tuple(
            ClipRow(*row)
            for row in zip(names, labels.tolist(), groups, frames.tolist(), fps.tolist(), hashes, strict=True)
        )
        self.splits: Mapping[str, Split] = {name: self._split(name) for name in self._children("splits")}
        self.failures = tuple(
            Failure(*row) for row in zip(self._text("failures/name"), self._text("failures/reason"), strict=True)
        )
        self.streams = self._children("streams")
        self._offsets = {name: self._checked_offsets(name) for name in self.streams}

    def __enter__(self) -> Cache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; rows already read stay valid."""
        self._file.close()

    @property
    def labels(self) -> np.ndarray:
        """(V,) int64 class index of each clip, -1 where it has several."""
        return np.array([clip.label for clip in self.clips], np.int64)

    def dim(self, stream: str = DEFAULT_STREAM) -> int:
        """Number of values in a feature row."""
        return int(self._features(stream).shape[1])

    def dtype(self, stream: str = DEFAULT_STREAM) -> np.dtype[Any]:
        """Type in which the features are stored."""
        return np.dtype(self._features(stream).dtype)

    def lengths(self, stream: str = DEFAULT_STREAM) -> np.ndarray:
        """(V,) int64 number of feature rows of each clip."""
        return np.diff(self._stream_offsets(stream))

    def read(self, clip: int, stream: str = DEFAULT_STREAM) -> ClipFeatures:
        """The features of one clip, as stored."""
        start, stop = self._stream_offsets(stream)[clip : clip + 2]
        index = self._file[f"streams/{stream}/frame_index"]
        return ClipFeatures(self._features(stream)[start:stop], index[start:stop])

    def read_all(self, stream: str = DEFAULT_STREAM) -> np.ndarray:
        """(N, D) features of all clips in file order, as stored; clip v owns `lengths` rows in turn."""
        return np.asarray(self._features(stream)[...])

    def split(self, name: str) -> Split:
        """A split by name; the error lists those that exist."""
        if name not in self.splits:
            known = ", ".join(self.splits) or "none"
            raise CacheError(f"{self.path}: no split {name!r}; this cache has: {known}")
        return self.splits[name]

    def _features(self, stream: str) -> h5py.Dataset:
        self._stream_offsets(stream)
        return self._file[f"streams/{stream}/features"]

    def _stream_offsets(self, stream: str) -> np.ndarray:
        if stream not in self._offsets:
            raise CacheError(f"{self.path}: no stream {stream!r}; this cache has: {', '.join(self.streams)}")
        return self._offsets[stream]

    def _json_attribute(self, key: str) -> dict[str, Any]:
        try:
            value = json.loads(self._file.attrs[key])
        except (KeyError, TypeError, ValueError) as error:
            raise CacheError(f"{self.path}: attribute {key} is missing or not JSON") from error
        if not isinstance(value, dict):
            raise CacheError(f"{self.path}: attribute {key} is not a JSON object")
        return value

    def _dataset(self, key: str) -> h5py.Dataset:
        item = self._file.get(key)
        if not isinstance(item, h5py.Dataset):
            raise CacheError(f"{self.path}: {key} is missing: file damaged or not a complete cache")
        return item

    def _array(self, key: str, kind: str, shape: tuple[int, ...]) -> np.ndarray:
        item = self._dataset(key)
        if item.dtype.kind != kind or item.shape != shape:
            raise CacheError(f"{self.path}: {key} is {item.dtype} {item.shape}, expected {shape} of kind {kind!r}")
        return np.asarray(item[...])

    def _text(self, key: str, count: int | None = None) -> tuple[str, ...]:
        item = self._dataset(key)
        if h5py.check_string_dtype(item.dtype) is None or item.ndim != 1:
            raise CacheError(f"{self.path}: {key} is {item.dtype}, expected a column of text")
        if count is not None and len(item) != count:
            raise CacheError(f"{self.path}: {key} has {len(item)} rows, expected {count}")
        try:
            return tuple(item.asstr()[...].tolist())
        except UnicodeDecodeError as error:
            raise CacheError(f"{self.path}: {key} is not utf-8") from error

    def _children(self, key: str) -> tuple[str, ...]:
        item = self._file.get(key)
        if not isinstance(item, h5py.Group):
            raise CacheError(f"{self.path}: group {key} is missing: file damaged or not a complete cache")
        return tuple(item.keys())

    def _split(self, name: str) -> Split:
        roles = self._array(f"splits/{name}", "i", (len(self.clips),))
        if not np.isin(roles, tuple(ROLES.values())).all():
            raise CacheError(f"{self.path}: splits/{name} holds values other than 0, 1, 2")
        attributes = self._file[f"splits/{name}"].attrs
        seed = attributes.get("seed")
        return Split(
            name,
            roles,
            str(attributes.get("rule", "")),
            None if seed is None else int(seed),
            int(attributes.get("leaking_groups", 0)),
        )

    def _checked_offsets(self, stream: str) -> np.ndarray:
        features = self._dataset(f"streams/{stream}/features")
        if features.ndim != 2 or features.dtype.kind not in "fu":
            raise CacheError(f"{self.path}: streams/{stream}/features is {features.dtype} {features.shape}")
        rows = features.shape[0]
        offsets = self._array(f"streams/{stream}/offsets", "i", (len(self.clips) + 1,))
        if offsets[0] != 0 or offsets[-1] != rows or (np.diff(offsets) < 0).any():
            raise CacheError(f"{self.path}: streams/{stream}/offsets do not cover the {rows} rows in order")
        index = self._dataset(f"streams/{stream}/frame_index")
        if index.shape != (rows,):
            raise CacheError(f"{self.path}: streams/{stream}/frame_index has shape {index.shape}")
        return offsets


def open_cache(path: Path | str) -> Cache:
    """Open a cache file for reading.

    Raises CacheError, one clear line, where the file is missing, damaged, foreign or too new.
    """
    return Cache(Path(path))


def _open(path: Path) -> h5py.File:
    if not path.is_file():
        raise CacheError(f"{path}: no such file")
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise CacheError(f"{path}: not a readable HDF5 file (damaged, cut short or foreign)") from error


def _refuse_links(group: h5py.Group, path: Path) -> None:
    """External links, soft links, virtual and external datasets can show other files of the reader."""
    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise CacheError(f"{path}: {group.name}/{name} is a link, which no cache holds: do not trust it")
        item = group[name]
        if isinstance(item, h5py.Group):
            _refuse_links(item, path)
        elif item.is_virtual or item.external:
            raise CacheError(f"{path}: {item.name} stores its data outside of the file: do not trust it")
