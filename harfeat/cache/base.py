"""What every open cache offers, whether it is one file or a folder of shards."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from typing_extensions import Self

from harfeat.cache.digest import content_of
from harfeat.cache.labels import is_several, label_sets_of
from harfeat.cache.schema import (
    DEFAULT_STREAM,
    CacheError,
    CacheHead,
    ClipFeatures,
    ClipRow,
    Failure,
    StreamLayout,
    quantisation_of,
)
from harfeat.splits import TEST, TRAIN, UNUSED, Split

VIEW = re.compile(r"(?P<stream>.+)-view-(?P<number>[0-9]+)")
"""Names of the streams that hold other draws of a stream's clips, to train on."""

ROLES = {"unused": UNUSED, "train": TRAIN, "test": TEST}


class Cache(ABC):
    """An open cache; use it as a context manager, or close it.

    Attributes: path, version, fingerprint, recipe, provenance, classes, clips (rows in file order), splits (by
    name), failures, streams (names), digests (hash of each part, in hex). Where a method takes a stream,
    None is the main one.
    """

    path: Path
    version: int
    fingerprint: str
    recipe: Mapping[str, Any]
    provenance: Mapping[str, Any]
    classes: tuple[str, ...]
    clips: tuple[ClipRow, ...]
    splits: Mapping[str, Split]
    failures: tuple[Failure, ...]
    streams: tuple[str, ...]
    digests: Mapping[str, str]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Close its files; rows already read stay valid."""

    @abstractmethod
    def dim(self, stream: str | None = None) -> int:
        """Number of values in a feature row."""

    @abstractmethod
    def dtype(self, stream: str | None = None) -> np.dtype[Any]:
        """Type in which the features are stored."""

    @abstractmethod
    def lengths(self, stream: str | None = None) -> np.ndarray:
        """(V,) int64 number of feature rows of each clip."""

    @abstractmethod
    def clip_hashes(self, stream: str | None = None) -> np.ndarray:
        """(V, 32) uint8 SHA-256 of each clip's rows and frame indices, as the cache states them."""

    @abstractmethod
    def read(self, clip: int, stream: str | None = None) -> ClipFeatures:
        """The features of one clip, as stored; checked against their hash when first read."""

    @abstractmethod
    def read_all(self, stream: str | None = None) -> np.ndarray:
        """(N, D) features of all clips in file order, as stored, checked; clip v owns `lengths` rows in turn."""

    @cached_property
    def main_stream(self) -> str:
        """The stream that models are tested on: `rgb`, or where that is absent the only one that is no view."""
        others = [name for name in self.streams if not VIEW.fullmatch(name)]
        return others[0] if len(others) == 1 else DEFAULT_STREAM

    @property
    def content(self) -> str:
        """One hash (hex) over all but the provenance: equal for a folder of shards and the file packed from it."""
        return content_of(self.digests)

    @property
    def labels(self) -> np.ndarray:
        """(V,) int64 class index of each clip, -1 where it has several, or none."""
        return np.array([clip.label for clip in self.clips], np.int64)

    @cached_property
    def has_several(self) -> bool:
        """Whether some clip has not exactly one label; only `label_sets` tells all of them then."""
        return is_several(self.clips)

    @cached_property
    def label_sets(self) -> tuple[np.ndarray, np.ndarray]:
        """Offsets (V+1,) int64 and index (n,) int32: clip v has the classes index[offsets[v]:offsets[v+1]]."""
        return label_sets_of(self.clips)

    @property
    def clips_per_class(self) -> np.ndarray:
        """(C,) int64 number of clips that have each class; a clip of several labels counts in each."""
        return np.bincount(self.label_sets[1], minlength=len(self.classes))

    def quantisation(self, stream: str | None = None) -> tuple[float, float]:
        """(scale, shift): what a stored value stands for is value * scale + shift.

        For bytes as the recipe states it, or else (1/255, 0), of pixels; (1, 0) for floats.
        """
        if self.dtype(stream) != np.uint8:
            return 1.0, 0.0
        return quantisation_of(self.recipe) or (1 / 255, 0.0)

    @property
    def head(self) -> CacheHead:
        """Everything but the features, as `write_cache` takes it."""
        told = {key: value for key, value in self.provenance.items() if key != "recipe"}
        return CacheHead(self.recipe, self.classes, self.clips, tuple(self.splits.values()), self.failures, told)

    def layout(self, stream: str | None = None) -> StreamLayout:
        """The shape of a stream."""
        return StreamLayout(self.lengths(stream).tolist(), self.dim(stream), self.dtype(stream))

    def read_streams(self, clip: int) -> dict[str, ClipFeatures]:
        """What one clip has in every stream."""
        return {stream: self.read(clip, stream) for stream in self.streams}

    def split(self, name: str) -> Split:
        """A split by name; the error lists those that exist."""
        if name not in self.splits:
            raise CacheError(f"{self.path}: no split {name!r}; this cache has: {_listed(self.splits)}")
        return self.splits[name]

    def require_stream(self, name: str) -> None:
        """Raise CacheError where there is no such stream."""
        if name not in self.streams:
            raise CacheError(f"{self.path}: no stream {name!r}; this cache has: {_listed(self.streams)}")


def _listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(names) or "none"
