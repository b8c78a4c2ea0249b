"""The cache file, version 1: what stands where, and the rows that go in and come out.

Layout (HDF5; readable by any HDF5 tool, nothing but built-in types):

    attributes                     format="harfeat", version, fingerprint, provenance (JSON), digests (JSON)
    /streams/<name>/features       (N, D)   frame features of all clips, one after the other
    /streams/<name>/offsets        (V+1,)   int64; clip v owns rows offsets[v]:offsets[v+1]
    /streams/<name>/frame_index    (N,)     int32; source frame of each row, -1 where unknown
    /streams/<name>/sha256         (V, 32)  uint8; hash of each clip's rows and frame indices
    /clips/name, group, sha256     (V,)     utf-8
    /clips/label                   (V,)     int32 index into /classes, -1 where a clip has several, or none
    /clips/source_frames           (V,)     int32; frames of a full linear decode, -1 where unknown
    /clips/damaged                 (V,)     int8; 1 where FFmpeg met errors in the video, 0 none, -1 unknown
    /clips/fps                     (V,)     float64, NaN where unknown
    /labels/offsets                (V+1,)   int64; only where some clip has not exactly one label: clip v has the
                                            classes index[offsets[v]:offsets[v+1]]
    /labels/index                  (n,)     int32 index into /classes, ascending within a clip
    /classes                       (C,)     utf-8
    /splits/<name>                 (V,)     int8: 0 unused, 1 train, 2 test
                                            attributes rule, seed, leaking_groups
    /failures/name, reason         (F,)     utf-8; clips of the data set that the cache lacks

Flat rows plus offsets is the "contiguous ragged array" of the CF conventions. Text has a fixed width, and metadata
the checksums of HDF5 1.8's format. `digests` covers everything above (see `harfeat.cache.digest`).

Where `quantisation` in the recipe states {scale, shift}, bytes of every stream stand for value * scale + shift;
elsewhere they are pixels, which stand for value / 255.

The stream `rgb` (or, in a cache of optical flow, `flow`) is what models are tested on; `rgb-view-1`, ... are other
draws of the same clips to train on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harfeat.errors import InputError
from harfeat.splits import Split

FORMAT = "harfeat"
VERSION = 1
DEFAULT_STREAM = "rgb"
FEATURE_TYPES = ("float16", "float32", "float64", "uint8")
"""Types of features; what uint8 stand for tells `quantisation_of`."""


_LARGEST = 1e30
"""Of what a quantisation may state: float32 holds the product with any byte."""


class CacheError(InputError):
    """A cache file that is missing, damaged, foreign, newer than this program, or unfit for the request."""


@dataclass(frozen=True, slots=True)
class ClipRow:
    """One clip of a cache, without its features.

    `label` is the index of its class; -1 where it has several, or none: then `labels` holds them (see
    `harfeat.cache.labels.label_fields`).
    """

    name: str
    label: int
    group: str = ""
    source_frames: int = -1
    fps: float = float("nan")
    sha256: str = ""
    damaged: int = -1
    """1 where the decoder met errors in the video (its frames are FFmpeg's best guess), 0 none, -1 unknown."""
    labels: tuple[int, ...] = ()
    """The classes of a clip that has not exactly one, ascending without repeats; empty where `label` tells it."""

    @property
    def all_labels(self) -> tuple[int, ...]:
        """All classes of the clip, however many."""
        return (self.label,) if self.label >= 0 else self.labels


@dataclass(frozen=True, eq=False, slots=True)
class ClipFeatures:
    """The features of one clip: (T, D) rows and the (T,) source frames they were taken from."""

    features: np.ndarray
    frame_index: np.ndarray


@dataclass(frozen=True)
class StreamLayout:
    """The shape of one stream: rows of each clip in order, values a row, type of the values."""

    lengths: Sequence[int]
    dim: int
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Failure:
    """A clip of the data set that is not in the cache, and why."""

    name: str
    reason: str


def offsets_of(lengths: Sequence[int]) -> np.ndarray:
    """(V+1,) int64 start of each clip's rows, from the clips' numbers of rows."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


def quantisation_of(recipe: Mapping[str, Any]) -> tuple[float, float] | None:
    """(scale, shift) that a recipe states for bytes; None where it states none. Raises ValueError."""
    if "quantisation" not in recipe:
        return None
    told = recipe["quantisation"]
    values: list[Any] = [told.get(key) for key in ("scale", "shift")] if isinstance(told, Mapping) else []
    if not values or not all(
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LARGEST
        for value in values
    ):
        raise ValueError('quantisation is not {"scale": number, "shift": number}')
    scale, shift = map(float, values)
    if scale <= 0:
        raise ValueError(f"quantisation states the scale {scale}")
    return scale, shift


@dataclass(frozen=True)
class CacheHead:
    """Everything in a cache but its features.

    `recipe` is what the fingerprint covers; `provenance` is told beside it (settings, versions, data set).
    """

    recipe: Mapping[str, Any]
    classes: Sequence[str]
    clips: Sequence[ClipRow]
    splits: Sequence[Split] = ()
    failures: Sequence[Failure] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
