"""Cache to batches. Memory holds features as stored; of bytes models see the numbers that they stand for.

The order of training clips, and the view drawn of each, are a pure function of (seed, epoch).

Views are other draws of a clip's frames, in streams of their own (`rgb-view-1`, ...), or its halves in time. Only
the train part has them, and only training sees them: validation, test, soft targets and statistics are of whole
clips of the main stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from harfeat.cache import VIEW, Cache
from harvib.division import divide
from harvib.errors import InputError
from harvib.joined import joined
from harvib.labels import Labels, LabelSets, labels_of
from harvib.source import main_stream, places_of
from harvib.unitrows import unit_rows

PIXELS = (1 / 255, 0.0)
"""Scale and shift of bytes that nothing else is told of."""

_CHECKED = 4096
"""Rows checked at once: a file that is mapped to memory need not fit into it."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Padded clips: features (B, T, D) float32, lengths (B,); rows beyond a length are zero.

    `labels` are (B,) int64 where each clip has one, else (B, C) float32, 1 at a clip's classes. `positions` (B,)
    are the clips' places in their set.
    """

    features: Tensor
    lengths: Tensor
    labels: Tensor
    positions: Tensor


@dataclass(frozen=True, eq=False)
class ClipSet:
    """Some clips of a cache in memory, features as stored (bytes stay bytes); `clips` are indices into the cache.

    `views` (K, V, 2) holds the first row and the end of each of the cache's V clips in each view, all in `rows`.
    `quantisation` (scale, shift) says which number, byte * scale + shift, a stored byte stands for.
    """

    rows: Tensor
    offsets: np.ndarray
    labels: Labels
    clips: np.ndarray
    views: np.ndarray | None = None
    quantisation: tuple[float, float] = PIXELS

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def dim(self) -> int:
        """Values in a feature row."""
        return int(self.rows.shape[1])

    def subset(self, clips: np.ndarray) -> ClipSet:
        """The same cache, other clips."""
        return replace(self, clips=np.asarray(clips, np.int64))

    def batch(self, positions: np.ndarray, device: torch.device, drawn: np.ndarray | None = None) -> Batch:
        """The clips at these positions of the set, padded to the longest; in the views `drawn` where given."""
        clips = self.clips[positions]
        starts, stops = self.offsets[clips], self.offsets[clips + 1]
        if drawn is not None and self.views is not None:
            starts, stops = self.views[drawn, clips].T
        lengths = stops - starts
        features = _gathered(self.rows, starts, lengths, self.quantisation)
        labels = self.labels
        return Batch(
            features.to(device),
            torch.from_numpy(lengths).to(device),
            (labels.dense(clips) if isinstance(labels, LabelSets) else labels[torch.from_numpy(clips)]).to(device),
            torch.from_numpy(positions).to(device),
        )

    def own_labels(self) -> np.ndarray | LabelSets:
        """Those of these clips alone, in their order: (len,) int64, or sets."""
        if isinstance(self.labels, LabelSets):
            return self.labels.of(self.clips)
        return self.labels[torch.from_numpy(self.clips)].numpy()

    def batches(self, size: int, device: torch.device) -> Iterator[Batch]:
        """All clips in their order."""
        for start in range(0, len(self), size):
            yield self.batch(np.arange(start, min(start + size, len(self))), device)

    def shuffled(self, size: int, device: torch.device, seed: int, epoch: int) -> Iterator[Batch]:
        """All clips once, in an order that only (seed, epoch) decides, each in the view drawn for that epoch.

        A last batch of a single clip is joined to the one before it: batch normalisation needs two.
        """
        order = np.random.default_rng((seed, epoch)).permutation(len(self))
        pieces = np.split(order, range(size, len(order), size))
        if len(pieces) > 1 and len(pieces[-1]) == 1:
            pieces[-2:] = [np.concatenate(pieces[-2:])]
        drawn = self.drawn(seed, epoch)
        for positions in pieces:
            yield self.batch(positions, device, None if drawn is None else drawn[positions])

    def drawn(self, seed: int, epoch: int) -> np.ndarray | None:
        """(len,) the view, from 0, of each clip in an epoch: all equally likely; None without views.

        By the clip's place in the cache, so that it does not depend on which other clips are in the set.
        """
        if self.views is None:
            return None
        count, clips = self.views.shape[:2]
        draws: np.ndarray = np.random.default_rng((seed, epoch, 1)).integers(0, count, size=(clips,))
        return draws[self.clips]

    def spans(self) -> np.ndarray:
        """(1 + K, V, 2) the first row and the end of each of the cache's clips, as it is and in each view."""
        main = np.stack([self.offsets[:-1], self.offsets[1:]], axis=-1)[None]
        return main if self.views is None else np.concatenate([main, self.views])

    def numbers(self, first: int, end: int, dtype: torch.dtype, normalize: bool = False) -> Tensor:
        """The rows from `first` to `end` as what models compute with; of length 1 each with `normalize`."""
        numbers = as_numbers(self.rows[first:end], dtype, self.quantisation)
        return unit_rows(numbers) if normalize else numbers

    def statistics(self, normalize: bool = False) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each feature over all rows of these clips, (D,) each.

        With `normalize` they are those of rows of length 1.
        """
        count = int((self.offsets[self.clips + 1] - self.offsets[self.clips]).sum())
        mean = torch.zeros(self.dim, dtype=torch.float64)
        for rows in self._clip_rows(normalize):
            mean += rows.sum(0) / count
        # A second pass: E[v^2] - E[v]^2 would give a constant feature of 1000 a deviation of 1e-5.
        variance = torch.zeros_like(mean)
        for rows in self._clip_rows(normalize):
            variance += (rows - mean).square().sum(0) / count
        return mean.float(), variance.sqrt().float()

    def _clip_rows(self, normalize: bool) -> Iterator[Tensor]:
        for clip in self.clips:
            yield self.numbers(self.offsets[clip], self.offsets[clip + 1], torch.float64, normalize)

    def halved(self) -> ClipSet:
        """The same clips with the halves in time of each, or of each of its views, as its views.

        The first half of an odd number of rows has one more; what has a single row stays whole.
        """
        spans = self.spans() if self.views is None else self.views
        first, end = spans[..., 0], spans[..., 1]
        middle = first + (end - first + 1) // 2
        whole = end - first < 2
        starts = [first, np.where(whole, first, middle)]
        halves = zip(starts, [np.where(whole, end, middle), end], strict=True)
        return replace(self, views=np.concatenate([np.stack(half, axis=-1) for half in halves]))


@dataclass(frozen=True, eq=False)
class Parts:
    """Train, validation (held out of the split's train clips, by group) and test part of a split.

    `split_hash` covers the names and roles of the split; `parts_hash` also who is held out, and the labels.
    """

    train: ClipSet
    validation: ClipSet
    test: ClipSet
    split_hash: str
    parts_hash: str


def as_numbers(rows: Tensor, dtype: torch.dtype, quantisation: tuple[float, float]) -> Tensor:
    """Stored rows as what models compute with: of bytes the numbers that they stand for, all else as it is."""
    numbers = rows.to(dtype)
    return _dequantised(numbers, quantisation) if rows.dtype == torch.uint8 else numbers


def _dequantised(numbers: Tensor, quantisation: tuple[float, float]) -> Tensor:
    """Numbers that were bytes, in place, as what they stand for."""
    scale, shift = quantisation
    # Divided by what pixels are divided by: 1 / (1 / 255) is 255.
    numbers.div_(1 / scale)
    return numbers.add_(shift) if shift else numbers


def _gathered(
    rows: Tensor, starts: np.ndarray, lengths: np.ndarray, quantisation: tuple[float, float] = PIXELS
) -> Tensor:
    """(B, T, D) float32: of each clip its rows from `starts` on, zeros after its length; T is the longest."""
    steps, dim = int(lengths.max()), rows.shape[1]
    if rows.dtype == torch.float32 and lengths.min() == steps and not (starts % steps).any():
        # As in a cache whose clips are equally long: whole clips are copied, as fast as memory gives them.
        blocks = rows[: len(rows) // steps * steps].view(-1, steps, dim)
        return blocks.index_select(0, torch.from_numpy(starts // steps))
    features = torch.empty(len(starts), steps, dim)
    for clip, start, length in zip(features, starts.tolist(), lengths.tolist(), strict=True):
        # Copied and converted in one pass.
        clip[:length] = rows[start : start + length]
        if rows.dtype == torch.uint8:
            _dequantised(clip[:length], quantisation)
        clip[length:] = 0
    return features


def load_clips(
    cache: Cache, stream: str = "", names: Sequence[str] | None = None, several: bool | None = None
) -> ClipSet:
    """The clips of these names in their order, or all, of one stream; they need at least one row.

    Their labels are sets where the cache has clips of several labels; `several` says what a model takes them for.
    Raises InputError, also where a model of one label a clip meets clips of several.
    """
    cache = joined(cache, stream)
    stream, clips = main_stream(cache, stream), places_of(cache, names)
    several = cache.has_several if several is None else several
    if not several and (cache.labels[clips] < 0).any():
        raise InputError(f"{cache.path}: clips with several labels; this model needs exactly one a clip")
    lengths = cache.lengths(stream)
    empty = clips[lengths[clips] == 0]
    if len(empty):
        raise InputError(f"{cache.path}: clip {cache.clips[empty[0]].name} has no feature rows: extract it again")
    rows = cache.read_all(stream)
    # Half floats and bytes stay as small as they are; what else HDF5 knows becomes what the models compute in.
    if rows.dtype not in (np.float16, np.uint8):
        with np.errstate(over="ignore"):
            rows = rows.astype(np.float32, copy=False)
    if rows.dtype != np.uint8 and not _all_finite(rows):
        raise InputError(f"{cache.path}: features hold NaN or infinity: extract or import them again")
    return ClipSet(
        torch.from_numpy(rows),
        np.concatenate([[0], np.cumsum(lengths)]),
        labels_of(cache, several),
        clips,
        quantisation=cache.quantisation(stream) if rows.dtype == np.uint8 else PIXELS,
    )


def load_parts(
    cache: Cache,
    split: str,
    validation: float,
    seed: int,
    views: bool = False,
    stream: str = "",
    names: Sequence[str] | None = None,
    halves: bool = False,
) -> Parts:
    """The three parts of a split (see `divide`), the train part with the stream's views where asked for.

    With `halves` its clips, or their views, are halves in time.
    """
    cache = joined(cache, stream)
    stream, division = main_stream(cache, stream), divide(cache, split, validation, seed, names)
    clips = load_clips(cache, stream, names)
    train = clips.subset(division.train)
    train = _with_views(cache, train, stream) if views else train
    return Parts(
        train.halved() if halves else train,
        clips.subset(division.validation),
        clips.subset(division.test),
        division.split_hash,
        division.parts_hash,
    )


def view_streams(cache: Cache, main: str) -> list[str]:
    """Names of the streams that hold views of the stream `main`, in their order."""
    found = [match for stream in cache.streams if (match := VIEW.fullmatch(stream)) and match["stream"] == main]
    return [match[0] for match in sorted(found, key=lambda match: int(match["number"]))]


def _all_finite(rows: np.ndarray) -> bool:
    return all(np.isfinite(rows[at : at + _CHECKED]).all() for at in range(0, len(rows), _CHECKED))


def _with_views(cache: Cache, train: ClipSet, main: str) -> ClipSet:
    """The same clips, with their views where the cache has some; nothing is read of other clips' views."""
    streams = view_streams(cache, main)
    if not streams:
        return train
    lengths = np.zeros((len(streams), len(cache.clips)), np.int64)
    for view, stream in enumerate(streams):
        if (cache.dim(stream), cache.dtype(stream)) != (cache.dim(main), cache.dtype(main)):
            raise InputError(f"{cache.path}: stream {stream} has other rows than {main}: train with --no-views")
        lengths[view, train.clips] = cache.lengths(stream)[train.clips]
    ends = len(train.rows) + np.cumsum(lengths).reshape(lengths.shape)
    spans = np.stack([ends - lengths, ends], axis=-1)
    rows = torch.empty(int(ends[-1, -1]), train.dim, dtype=train.rows.dtype)
    rows[: len(train.rows)] = train.rows
    for view, stream in enumerate(streams):
        for clip in train.clips.tolist():
            start, stop = spans[view, clip]
            if start == stop:
                raise InputError(f"{cache.path}: clip {cache.clips[clip].name} has no row in {stream}")
            rows[start:stop] = torch.from_numpy(cache.read(clip, stream).features)
            if not torch.isfinite(rows[start:stop]).all():
                raise InputError(f"{cache.path}: stream {stream} holds NaN or infinity: extract it again")
    return replace(train, rows=rows, views=spans)
