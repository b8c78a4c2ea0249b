"""Reading one cache file that somebody else may have written: nothing in it is trusted before it is checked.

Rows of a contiguous data set are read past HDF5, by one system call a clip: twice as fast, in several threads at
once, and in processes forked after opening.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from harfeat.cache.base import ROLES, Cache
from harfeat.cache.digest import digest_of_clip, digests_of_head, digests_of_stream
from harfeat.cache.fingerprint import fingerprint
from harfeat.cache.labels import checked_labels
from harfeat.cache.schema import (
    FEATURE_TYPES,
    FORMAT,
    VERSION,
    CacheError,
    ClipFeatures,
    ClipRow,
    Failure,
    quantisation_of,
)
from harfeat.cache.untrusted import UntrustedFile
from harfeat.splits import Split, leaking_groups


@dataclass(frozen=True, eq=False, slots=True)
class _Stream:
    features: h5py.Dataset
    frame_index: h5py.Dataset
    offsets: np.ndarray
    hashes: np.ndarray
    dim: int
    dtype: np.dtype[Any]
    places: tuple[int | None, int | None] | None  # where both lie in the file, if each lies in one piece
    checked: bytearray  # 1 for each clip whose rows were compared with their hash


class FileCache(Cache):
    """An open cache file. `head_only` opens the head of a folder of shards, which has no stream.

    `guarded` is False in the process in which a suspicious file is tried (`harfeat.cache.guard`).
    """

    def __init__(self, path: Path, head_only: bool = False, guarded: bool = True) -> None:
        self.path = Path(path)
        self._file = UntrustedFile(self.path, guarded)
        try:
            self._read_identity()
            self._read_clips()
            self.splits = {name: self._split(name) for name in self._file.children("splits")}
            names = self._file.text("failures/name")
            reasons = self._file.text("failures/reason", len(names))
            self.failures = tuple(Failure(*row) for row in zip(names, reasons, strict=True))
            self.streams = self._file.children("streams")
            if head_only == bool(self.streams):
                if head_only:
                    raise CacheError(f"{self.path}: streams holds features, expected a head alone: file altered")
                raise CacheError(
                    f"{self.path}: streams holds no stream: not a complete cache, or the head of a folder of "
                    f"shards; then name the folder {self.path.parent}"
                )
            self._stored = {name: self._checked_stream(name) for name in self.streams}
            self._check_digests()
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        self._file.close()

    def dim(self, stream: str | None = None) -> int:
        return self._stream(stream).dim

    def dtype(self, stream: str | None = None) -> np.dtype[Any]:
        return self._stream(stream).dtype

    def lengths(self, stream: str | None = None) -> np.ndarray:
        return np.diff(self._stream(stream).offsets)

    def clip_hashes(self, stream: str | None = None) -> np.ndarray:
        return self._stream(stream).hashes

    def is_in_one_piece(self, stream: str | None = None) -> bool:
        """Whether the rows are read past HDF5."""
        return self._stream(stream).places is not None

    def read(self, clip: int, stream: str | None = None) -> ClipFeatures:
        stream = stream or self.main_stream
        stored = self._stored.get(stream) or self._stream(stream)
        values = self._rows(stored, clip, stream)
        if not stored.checked[clip]:
            self._check(stored, clip, values, stream)
        return values

    def read_all(self, stream: str | None = None) -> np.ndarray:
        stream = stream or self.main_stream
        stored = self._stream(stream)
        with self._file.blaming(f"streams/{stream}/features"):
            rows = np.asarray(stored.features[...])
        with self._file.blaming(f"streams/{stream}/frame_index"):
            index = np.asarray(stored.frame_index[...])
        for clip in range(len(self.clips)):
            start, stop = stored.offsets[clip : clip + 2]
            self._check(stored, clip, ClipFeatures(rows[start:stop], index[start:stop]), stream)
        return rows

    def _rows(self, stored: _Stream, clip: int, stream: str) -> ClipFeatures:
        start, stop = stored.offsets.item(clip), stored.offsets.item(clip + 1)
        if stored.places is None:
            with self._file.blaming(f"streams/{stream}"):
                return ClipFeatures(stored.features[start:stop], stored.frame_index[start:stop])
        features = np.empty((stop - start, stored.dim), stored.dtype)
        index = np.empty(stop - start, np.int32)
        self._file.read_into(features, stored.places[0] + start * stored.dim * stored.dtype.itemsize)
        self._file.read_into(index, stored.places[1] + start * 4)
        return ClipFeatures(features, index)

    def _check(self, stored: _Stream, clip: int, values: ClipFeatures, stream: str) -> None:
        if digest_of_clip(values) != stored.hashes[clip].tobytes():
            raise CacheError(
                f"{self.path}: streams/{stream}: the features of clip {self.clips[clip].name} do not match their "
                "hash: file damaged or altered, fetch or extract it again"
            )
        stored.checked[clip] = 1

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
        self.recipe = recipe
        try:
            quantisation_of(recipe)
        except ValueError as error:
            raise CacheError(f"{self.path}: the recipe in provenance cannot be: its {error}") from error
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
        damaged = file.array("clips/damaged", "i", (count,))
        for key, numbers, high in (("source_frames", frames, 2**31 - 1), ("damaged", damaged, 1)):
            if count and not (numbers.min() >= -1 and numbers.max() <= high):
                raise CacheError(f"{self.path}: clips/{key} holds numbers outside of -1 to {high}")
        several = self._several(names, labels)
        columns = (
            names,
            labels.tolist(),
            groups,
            frames.tolist(),
            fps.tolist(),
            hashes,
            damaged.tolist(),
            several,
        )
        self.clips = tuple(ClipRow(*row) for row in zip(*columns, strict=True))

    def _several(self, names: Sequence[str], labels: np.ndarray) -> Sequence[tuple[int, ...]]:
        """`ClipRow.labels` of all clips."""
        if not (labels < 0).any():
            if self._file.has("labels"):
                raise CacheError(
                    f"{self.path}: labels is there though clips/label gives every clip one: file altered"
                )
            return [()] * len(names)
        with self._file.blaming("labels/index"):
            shape = self._file.dataset("labels/index").shape
            if shape is None or len(shape) != 1:
                raise CacheError(f"{self.path}: labels/index has the shape {shape}, expected one column")
        offsets = self._offsets("labels/offsets", len(names), shape[0])
        index = self._file.array("labels/index", "i", shape)
        return checked_labels(self.path, names, len(self.classes), labels, offsets, index)

    def _check_digests(self) -> None:
        """Compare every hash that covers what has been read by now."""
        found = digests_of_head(self.head)
        for name, stream in self._stored.items():
            lengths = np.diff(stream.offsets).tolist()
            found |= digests_of_stream(name, stream.dim, stream.dtype, lengths, stream.hashes)
        stated = self._file.json_attribute("digests")
        for key in sorted(found.keys() | stated.keys()):
            if found.get(key) != stated.get(key):
                what = f"attribute {key[1:]}" if key.startswith("@") else key
                raise CacheError(f"{self.path}: {what} does not match its hash: file damaged or altered")
        self.digests = found

    def _stream(self, name: str | None) -> _Stream:
        name = name or self.main_stream
        self.require_stream(name)
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

    def _offsets(self, key: str, clips: int, rows: int) -> np.ndarray:
        """(clips + 1,) where each clip's rows begin; they cover `rows` in order."""
        offsets = self._file.array(key, "i", (clips + 1,))
        # No differences: of 64-bit numbers they may wrap around.
        if offsets[0] != 0 or offsets[-1] != rows or (offsets[1:] < offsets[:-1]).any():
            raise CacheError(f"{self.path}: {key} do not cover the {rows} rows in order")
        return offsets

    def _checked_stream(self, name: str) -> _Stream:
        key = f"streams/{name}"
        features = self._file.dataset(f"{key}/features")
        with self._file.blaming(f"{key}/features"):
            dtype, shape = features.dtype, features.shape
        if shape is None or len(shape) != 2 or dtype.name not in FEATURE_TYPES or not dtype.isnative:
            raise CacheError(f"{self.path}: {key}/features is {dtype} {shape}, expected floats of shape (N, D)")
        count = len(self.clips)
        offsets = self._offsets(f"{key}/offsets", count, shape[0])
        index = self._file.dataset(f"{key}/frame_index")
        with self._file.blaming(f"{key}/frame_index"):
            if index.shape != shape[:1] or index.dtype != np.int32:
                raise CacheError(f"{self.path}: {key}/frame_index is {index.dtype} {index.shape}")
        hashes = self._file.array(f"{key}/sha256", "u", (count, 32))
        first, second = self._file.place(f"{key}/features"), self._file.place(f"{key}/frame_index")
        in_one_piece = first is not None and second is not None and hasattr(os, "preadv")
        places = (first, second) if in_one_piece else None
        return _Stream(features, index, offsets, hashes, int(shape[1]), np.dtype(dtype), places, bytearray(count))
