"""From a record of YouTube-8M to a clip of a cache: which are taken, by which classes, with which streams."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from harfeat.cache import ClipFeatures, ClipRow, label_fields
from harfeat.cache.labels import is_several
from harfeat.cache.schema import VERSION
from harfeat.errors import InputError
from harfeat.importers.example import FRAME, RecordError, VideoRecord
from harfeat.importers.tfrecord import Damage, Record, read_records
from harfeat.splits import TEST, TRAIN, UNUSED, Split, default_splits, fixed_split, parse_group_list

PARTITIONS = {"train": TRAIN, "validate": TEST, "test": UNUSED}
"""What the names of files begin with, by partition, and the role of its clips."""

MOST_CLASSES = 100_000
_NO_VOCABULARY = "no table with columns Index (a number) and Name, as YouTube-8M's vocabulary.csv"
FEATURES_ID = "youtube-8m"
"""Name of how the features were made, where the user gives none: all files of YouTube-8M are of one making."""

QUANTISATION = {"scale": 4 / 255, "shift": 4 / 512 - 2}
"""Bytes of frame-level records stand for value * 4/255 + 4/512 - 2 (YouTube-8M's own `Dequantize`)."""


@dataclass(frozen=True)
class Layout:
    """What the records hold: level, and the width of each stream."""

    level: str
    widths: tuple[tuple[str, int], ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the features: bytes a frame, floats a video."""
        return np.dtype(np.uint8 if self.level == FRAME else np.float32)

    def recipe(self, features_id: str) -> dict[str, Any]:
        """What the fingerprint covers."""
        return {
            "kind": "import",
            "schema": VERSION,
            "features_id": features_id,
            "format": "yt8m",
            "level": self.level,
            "streams": dict(self.widths),
            "dtype": str(self.dtype),
            **({"quantisation": QUANTISATION} if self.level == FRAME else {}),
        }

    def __str__(self) -> str:
        """As in 'frame level with rgb (1024), audio (128)'."""
        return f"{self.level} level with {', '.join(f'{name} ({width})' for name, width in self.widths)}"


@dataclass(frozen=True)
class Selection:
    """Which clips, by their labels. `only`: at least one of these, and no others are kept; None: all.

    `classes`: labels are below this number.
    """

    classes: int
    only: tuple[int, ...] | None = None

    def labels(self, found: Sequence[int]) -> tuple[int, ...] | None:
        """Class indices of a clip with these labels; None where it is not wanted. Raises RecordError."""
        if found and found[-1] >= self.classes:
            raise RecordError(f"it has the label {found[-1]}, there are {self.classes:,} classes")
        if self.only is None:
            return tuple(found)
        return tuple(self._places[label] for label in found if label in self._places) or None

    @cached_property
    def _places(self) -> dict[int, int]:
        return {label: place for place, label in enumerate(self.only or ())}


def layout_of(streams: Mapping[str, np.ndarray], level: str) -> Layout:
    """The layout of a record; raises RecordError where it has no features, or streams of different lengths."""
    if not streams or any(0 in rows.shape for rows in streams.values()):
        raise RecordError("it holds no features")
    lengths = {name: len(rows) for name, rows in streams.items()}
    if len(set(lengths.values())) > 1:
        raise RecordError(f"it has {' and '.join(f'{count} frames of {name}' for name, count in lengths.items())}")
    return Layout(level, tuple((name, rows.shape[1]) for name, rows in streams.items()))


def first_layout(path: Path) -> Layout | str:
    """The layout of a file's first record that makes sense; what is wrong with the first where none does.

    Raises InputError.
    """
    wrong = f"{path} is empty"
    for record in read_records(path):
        reason = record.reason if isinstance(record, Damage) else ""
        if isinstance(record, Record):
            try:
                video = VideoRecord(record.payload)
                return layout_of(video.streams(), video.level)
            except RecordError as error:
                reason = str(error)  # told of others when the file is read
        if record.number == 0:
            wrong = f"{path}, at byte {record.start:,}: {reason}"
    return wrong


def clip_of(
    video: VideoRecord, name: str, layout: Layout, selection: Selection
) -> tuple[ClipRow, dict[str, ClipFeatures]] | None:
    """The clip that a record becomes; None where it is not wanted. Raises RecordError."""
    labels = selection.labels(video.labels)
    if labels is None:
        return None
    streams = video.streams()
    found = layout_of(streams, video.level)
    if found != layout:
        raise RecordError(f"it is of {found}, the first of all records of {layout}")
    label, several = label_fields(labels)
    return ClipRow(name, label, labels=several), {
        stream: ClipFeatures(rows, np.full(len(rows), -1, np.int32)) for stream, rows in streams.items()
    }


def partition_of(file: str) -> str | None:
    """The partition that a file's name tells."""
    return next((name for name in PARTITIONS if file.startswith(name)), None)


def splits_of(partitions: Sequence[str | None], clips: Sequence[ClipRow], seed: int) -> tuple[Split, ...]:
    """The splits of clips from files of these partitions.

    `yt8m` where both train and validate are there; otherwise those of any data set without official ones, and none
    where no clip has a label. Clips without a label are unused: one would keep all others from being trained on.
    """
    groups = [""] * len(clips)
    counts = [len(clip.all_labels) for clip in clips]
    if not any(counts):
        return ()
    if {"train", "validate"} <= set(partitions):
        roles = [PARTITIONS[name] if name else UNUSED for name in partitions]
        without = sum(role != UNUSED and not count for role, count in zip(roles, counts, strict=True))
        roles = [role if count else UNUSED for role, count in zip(roles, counts, strict=True)]
        rule = (
            "YouTube-8M's partitions, by the names of the files: train* train, validate* test, all others unused"
        )
        rule += f"; {without} of these clips, which have no label, are unused too" if without else ""
        return (fixed_split("yt8m", roles, groups, rule),)
    labels = [clip.label for clip in clips]
    return default_splits(labels, groups, seed=seed, counts=counts if is_several(clips) else None)


def parse_labels(text: str) -> tuple[int, ...] | None:
    """What `--only-labels` names (numbers, ranges), ascending; None for an empty text. Raises InputError."""
    if not text:
        return None
    wanted = f"--only-labels {text}: say numbers and ranges of classes, as in 0-99,205"
    try:
        found = parse_group_list(text)
    except InputError as error:  # which speaks of groups
        raise InputError(wanted) from error
    if not all(item.isascii() and item.isdigit() and int(item) < MOST_CLASSES for item in found):
        raise InputError(wanted)
    return tuple(sorted({int(item) for item in found}))


def read_vocabulary(path: Path) -> tuple[str, ...]:
    """Names of the classes by YouTube-8M's vocabulary.csv (columns Index, Name), each once.

    A class without a name, or not in the file, is class<Index>; a name that several have gets the index behind it.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
        names = {int(row["Index"]): (row["Name"] or "").strip() for row in rows}
    except OSError as error:
        raise InputError(f"--vocabulary {path}: cannot be read ({error.strerror})") from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"--vocabulary {path}: {_NO_VOCABULARY}") from error
    if not names:
        raise InputError(f"--vocabulary {path}: {_NO_VOCABULARY}")
    if len(names) != len(rows) or not 0 <= min(names) <= max(names) < MOST_CLASSES:
        raise InputError(f"--vocabulary {path}: Index must be from 0 to {MOST_CLASSES - 1}, each once")
    told = [names.get(index) or f"class{index}" for index in range(max(names) + 1)]
    shared = {name for name in told if told.count(name) > 1}
    return tuple(f"{name} ({index})" if name in shared else name for index, name in enumerate(told))


def class_names(
    selection: Selection, vocabulary: Sequence[str] | None, stated: bool, largest: int
) -> tuple[str, ...]:
    """Names in the order of class indices; `largest` index found counts where their number was not `stated`."""
    if selection.only is not None:
        numbers: Sequence[int] = selection.only
    else:
        numbers = range(selection.classes if stated else largest + 1)
    return tuple(f"class{number}" if vocabulary is None else vocabulary[number] for number in numbers)


def told(selection: Selection) -> dict[str, Any]:
    """For provenance, and to compare."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(selection).items()}
