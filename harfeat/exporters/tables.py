"""What every exporter writes: the columns of a cache under plain names.

features, offsets, frame_index          of the stream rgb: clip v owns rows offsets[v]:offsets[v+1]
<stream>/features, ...                  the same of every other stream
labels, source_frames, fps, damaged     a number a clip; names, groups, sha256: a text a clip
label_offsets, label_index              only where some clip has not exactly one label (-1 in `labels`): clip v has
                                        the classes label_index[label_offsets[v]:label_offsets[v+1]]
splits/<name>                           a clip's role: 0 unused, 1 train, 2 test
classes                                 names in the order of the labels
failures/name, failures/reason          clips that the cache lacks
fingerprint, content, provenance, split_rules   texts, the last two JSON

Bytes are stored as they are: where provenance.recipe states a `quantisation` {scale, shift}, they stand for
value * scale + shift, and elsewhere for value / 255.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from harfeat.cache import Cache
from harfeat.cache.schema import DEFAULT_STREAM, offsets_of
from harfeat.errors import InputError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")


@dataclass(frozen=True)
class ExportSettings:
    """What to export, and how webdataset's shards are cut.

    `streams`: all where empty. Only for webdataset: `split` puts train and test clips into shards of their own,
    `shard_clips` is how many clips a shard holds, `shuffle` the seed of an order drawn once (None: by name).
    """

    streams: tuple[str, ...] = ()
    split: str | None = None
    shard_clips: int = 1000
    shuffle: int | None = None


@dataclass(frozen=True)
class Selection:
    """An open cache, and what of it to export. Raises InputError where it has no such stream or split."""

    cache: Cache
    settings: ExportSettings = ExportSettings()

    def __post_init__(self) -> None:
        for stream in self.settings.streams:
            self.cache.require_stream(stream)
        if self.settings.split is not None:
            self.cache.split(self.settings.split)
        for name in (*self.streams, *self.cache.splits):
            # They become names inside of archives, which careless programs unpack.
            if not _NAME.fullmatch(name):
                raise InputError(f"{self.cache.path}: the stream or split {name!r} cannot be a name in an archive")

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams to export, the main one first."""
        chosen = dict.fromkeys(self.settings.streams or self.cache.streams)
        return tuple(sorted(chosen, key=lambda name: (name != DEFAULT_STREAM, name)))

    def numbers(self) -> dict[str, np.ndarray]:
        """The columns of numbers, but the streams' rows."""
        clips = self.cache.clips
        columns: dict[str, np.ndarray] = {
            "labels": np.array([clip.label for clip in clips], np.int64),
            "source_frames": np.array([clip.source_frames for clip in clips], np.int64),
            "damaged": np.array([clip.damaged for clip in clips], np.int8),
            "fps": np.array([clip.fps for clip in clips], np.float64),
        }
        if self.cache.has_several:
            columns["label_offsets"], columns["label_index"] = self.cache.label_sets
        columns |= {f"splits/{name}": split.roles.astype(np.int8) for name, split in self.cache.splits.items()}
        for stream in self.streams:
            columns[key_of(stream, "offsets")] = offsets_of(self.cache.lengths(stream).tolist())
        return columns

    def texts(self) -> dict[str, list[str]]:
        """The columns of text."""
        cache = self.cache
        return {
            "names": [clip.name for clip in cache.clips],
            "groups": [clip.group for clip in cache.clips],
            "sha256": [clip.sha256 for clip in cache.clips],
            "classes": list(cache.classes),
            "failures/name": [failure.name for failure in cache.failures],
            "failures/reason": [failure.reason for failure in cache.failures],
        }

    def facts(self) -> dict[str, str]:
        """What is said once."""
        rules = {
            name: {"rule": split.rule, "seed": split.seed, "leaking_groups": split.leaking_groups}
            for name, split in self.cache.splits.items()
        }
        return {
            "fingerprint": self.cache.fingerprint,
            "content": self.cache.content,
            "provenance": json.dumps(self.cache.provenance, sort_keys=True),
            "split_rules": json.dumps(rules, sort_keys=True),
        }

    def rows(self, stream: str, what: str) -> Iterator[np.ndarray]:
        """`features` or `frame_index` of a stream, clip by clip, checked against the clips' hashes."""
        for clip in range(len(self.cache.clips)):
            yield np.ascontiguousarray(getattr(self.cache.read(clip, stream), what))

    def shape(self, stream: str, what: str) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
        """Shape and type of all that `rows` yields."""
        total = int(self.cache.lengths(stream).sum())
        if what == "features":
            return (total, self.cache.dim(stream)), self.cache.dtype(stream)
        return (total,), np.dtype(np.int32)


ROWS = ("features", "frame_index")
"""What a stream has a row of for every sampled frame."""


def key_of(stream: str, what: str) -> str:
    """The name of a stream's array."""
    return what if stream == DEFAULT_STREAM else f"{stream}/{what}"
