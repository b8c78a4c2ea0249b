"""Reading a cache file that somebody else may have written: nothing in it is trusted before it is checked.

This is the only part of harfeat that harvib uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
from harfeat.cache.untrusted import UntrustedFile
from harfeat.splits import TEST, TRAIN, UNUSED, Split, leaking_groups

ROLES = {"unused": UNUSED, "train": TRAIN, "test": TEST}
_FEATURE_TYPES = ("float16", "float32", "float64", "uint8")


@dataclass(frozen=True, eq=False)
class _Stream:
    features: h5py.Dataset
    frame_index: h5py.Dataset
    offsets: np.ndarray


class Cache:
    """An open cache file; use it as a context manager, or close it.

    Attributes: path, version, fingerprint, recipe, provenance, classes, clips (rows in file order), splits,
    failures, streams (names).
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._file = UntrustedFile(self.path)
        try:
            self._read_identity()
            self._read_clips()
            self.splits: Mapping[str, Split] = {name: self._split(name) for name in self._file.children("splits")}
            names = self._file.text("failures/name")
            reasons = self._file.text("failures/reason", len(names))
            self.failures = tuple(Failure(*row) for row in zip(names, reasons, strict=True))
            self.streams = self._file.children("streams")
            if not self.streams:
                raise CacheError(f"{self.path}: streams holds no stream: file damaged or not a complete cache")
            self._stored = {name: self._checked_stream(name) for name in self.streams}
        except BaseException:
            self._file.close()
            raise

    def _read_identity(self) -> None:
        file = self._file
        if file.text_attribute("format", default="") != FORMAT:
            raise CacheError(f"{self.path}: not a harfeat cache (by its attribute format); see `harfeat import`")
        self.version = file.int_attribute("version")
        if self.version > VERSION:
            raise CacheError(
                f"{self.path}: cache version {self.version}, this program reads up to {VERSION}: update it"
            )
        if self.version < 1:
            raise CacheError(f"{self.path}: there is no cache version {self.version}: file altered")
        file.refuse_links()
        self.provenance = file.json_attribute("provenance")
        recipe = self.provenance.get("recipe")
        if not isinstance(recipe, dict):
            raise CacheError(f"{self.path}: attribute provenance holds no recipe")
        self.recipe: dict[str, Any] = recipe
        self.fingerprint = file.text_attribute("fingerprint")
        if fingerprint(self.recipe) != self.fingerprint:
            raise CacheError(f"{self.path}: fingerprint does not match the recipe in provenance: file altered")

    def _read_clips(self) -> None:
        file = self._file
        self.classes = file.text("classes")
        names = file.text("clips/name")
        count = len(names)
        labels = file.array("clips/label", "i", (count,))
        if count and not (labels.min() >= -1 and labels.max() < len(self.classes)):
            raise CacheError(f"{self.path}: clips/label points outside of the {len(self.classes)} classes")
        for key, values in (("classes", self.classes), ("clips/name", names)):
            if len(set(values)) != len(values):
                raise CacheError(f"{self.path}: {key} holds a name twice")
        groups, hashes = file.text("clips/group", count), file.text("clips/sha256", count)
        frames = file.array("clips/source_frames", "i", (count,))
        fps = file.array("clips/fps", "f", (count,))
        self.clips = tuple(
            ClipRow(*row)
            for row in zip(names, labels.tolist(), groups, frames.tolist(), fps.tolist(), hashes, strict=True)
        )

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
        return int(self._stream(stream).features.shape[1])

    def dtype(self, stream: str = DEFAULT_STREAM) -> np.dtype[Any]:
        """Type in which the features are stored."""
        return np.dtype(self._stream(stream).features.dtype)

    def lengths(self, stream: str = DEFAULT_STREAM) -> np.ndarray:
        """(V,) int64 number of feature rows of each clip."""
        return np.diff(self._stream(stream).offsets)

    def read(self, clip: int, stream: str = DEFAULT_STREAM) -> ClipFeatures:
        """The features of one clip, as stored."""
        stored = self._stream(stream)
        start, stop = stored.offsets[clip : clip + 2]
        with self._file.blaming(f"streams/{stream}"):
            return ClipFeatures(stored.features[start:stop], stored.frame_index[start:stop])

    def read_all(self, stream: str = DEFAULT_STREAM) -> np.ndarray:
        """(N, D) features of all clips in file order, as stored; clip v owns `lengths` rows in turn."""
        features = self._stream(stream).features
        with self._file.blaming(f"streams/{stream}/features"):
            return np.asarray(features[...])

    def split(self, name: str) -> Split:
        """A split by name; the error lists those that exist."""
        if name not in self.splits:
            known = ", ".join(self.splits) or "none"
            raise CacheError(f"{self.path}: no split {name!r}; this cache has: {known}")
        return self.splits[name]

    def _stream(self, name: str) -> _Stream:
        if name not in self._stored:
            raise CacheError(f"{self.path}: no stream {name!r}; this cache has: {', '.join(self.streams)}")
        return self._stored[name]

    def _split(self, name: str) -> Split:
        key = f"splits/{name}"
        roles = self._file.array(key, "i", (len(self.clips),))
        if not np.isin(roles, tuple(ROLES.values())).all():
            raise CacheError(f"{self.path}: {key} holds values other than 0, 1, 2")
        leaks = leaking_groups(roles, [clip.group for clip in self.clips])
        if self._file.int_attribute("leaking_groups", key, default=leaks) != leaks:
            raise CacheError(f"{self.path}: {key}@leaking_groups is not the {leaks} that leak: file altered")
        seed = self._file.int_attribute("seed", key) if self._file.has_attribute("seed", key) else None
        return Split(name, roles, self._file.text_attribute("rule", key, default=""), seed, leaks)

    def _checked_stream(self, name: str) -> _Stream:
        key = f"streams/{name}"
        features = self._file.dataset(f"{key}/features")
        with self._file.blaming(f"{key}/features"):
            dtype, shape = features.dtype, features.shape
        if len(shape) != 2 or dtype.name not in _FEATURE_TYPES or not dtype.isnative:
            raise CacheError(f"{self.path}: {key}/features is {dtype} {shape}, expected floats of shape (N, D)")
        offsets = self._file.array(f"{key}/offsets", "i", (len(self.clips) + 1,))
        # No differences: of 64-bit numbers they may wrap around.
        if offsets[0] != 0 or offsets[-1] != shape[0] or (offsets[1:] < offsets[:-1]).any():
            raise CacheError(f"{self.path}: {key}/offsets do not cover the {shape[0]} rows in order")
        index = self._file.dataset(f"{key}/frame_index")
        with self._file.blaming(f"{key}/frame_index"):
            if index.shape != shape[:1] or index.dtype.kind != "i":
                raise CacheError(f"{self.path}: {key}/frame_index is {index.dtype} {index.shape}")
        return _Stream(features, index, offsets)


def open_cache(path: Path | str) -> Cache:
    """Open a cache file for reading.

    Raises CacheError, one clear line, where the file is missing, damaged, foreign or too new.
    """
    return Cache(Path(path))
