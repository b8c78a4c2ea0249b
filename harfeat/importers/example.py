"""YouTube-8M's two kinds of records: SequenceExample (a row a second of the video) and Example (one row a video).

Messages of TensorFlow's example.proto and feature.proto:

    SequenceExample  1 context: Features   2 feature_lists: FeatureLists
    Example          1 features: Features
    Features         1 feature: map of text to Feature
    FeatureLists     1 feature_list: map of text to FeatureList;  FeatureList  1 feature: Feature, repeated
    Feature          one of 1 bytes_list, 2 float_list, 3 int64_list, each with field 1 value, repeated

Fields by https://research.google.com/youtube8m/download.html: id (in older files video_id) and labels in the
context; at frame level rgb and audio, one string of bytes a frame; at video level the floats mean_rgb and
mean_audio.
"""

from __future__ import annotations

import numpy as np

from harfeat.importers import wire

FRAME, VIDEO = "frame", "video"
"""Levels of records."""

STREAMS = ("rgb", "audio")

_BYTES, _FLOATS, _INTEGERS = 1, 2, 3
_KINDS = {0: "nothing", _BYTES: "bytes", _FLOATS: "floats", _INTEGERS: "integers"}
_MOST_LABELS, _MOST_FRAMES, _LONGEST_NAME = 10_000, 10_000, 256


class RecordError(ValueError):
    """A record that cannot be used; the text says why."""


class VideoRecord:
    """One record, parsed as far as it is asked for. Everything raises RecordError where it makes no sense."""

    def __init__(self, payload: bytes) -> None:
        try:
            whole = memoryview(payload)
            lists = wire.message(whole, 2)
            self._features = wire.mapping(wire.message(whole, 1), 1)
            self._lists = wire.mapping(lists, 1)
        except wire.WireError as error:
            raise RecordError(f"it is no Example or SequenceExample ({error})") from error
        self.level = FRAME if len(lists) else VIDEO

    @property
    def name(self) -> str:
        """The video's id."""
        key = b"id" if b"id" in self._features else b"video_id"
        try:
            values = wire.strings(self._values(key, _BYTES), 1) if key in self._features else []
        except wire.WireError as error:
            raise RecordError(f"its id cannot be read ({error})") from error
        if len(values) != 1 or not 0 < len(values[0]) <= _LONGEST_NAME:
            raise RecordError("it has no id")
        try:
            name = bytes(values[0]).decode()
        except UnicodeDecodeError as error:
            raise RecordError("its id is not utf-8") from error
        if "\0" in name:
            raise RecordError("its id holds a zero byte")
        return name

    @property
    def labels(self) -> tuple[int, ...]:
        """Classes of the video, ascending without repeats; none in YouTube-8M's test part."""
        if b"labels" not in self._features:
            return ()
        try:
            found = sorted(set(wire.integers(self._values(b"labels", _INTEGERS), 1, _MOST_LABELS)))
        except wire.WireError as error:
            raise RecordError(f"its labels cannot be read ({error})") from error
        if found and found[0] < 0:
            raise RecordError(f"it has the label {found[0]}")
        return tuple(found)

    def streams(self) -> dict[str, np.ndarray]:
        """(T, D) uint8 by name at frame level, (1, D) float32 at video level; those of `STREAMS` that it has."""
        try:
            if self.level == FRAME:
                lists = {name: self._lists.get(name.encode()) for name in STREAMS}
                return {name: _frames(name, rows) for name, rows in lists.items() if rows is not None}
            means = {name: f"mean_{name}".encode() for name in STREAMS}
            return {name: self._mean(key) for name, key in means.items() if key in self._features}
        except wire.WireError as error:
            raise RecordError(f"its features cannot be read ({error})") from error

    def _mean(self, key: bytes) -> np.ndarray:
        values = wire.floats(self._values(key, _FLOATS), 1)
        row = np.frombuffer(values, "<f4").astype(np.float32)[None]
        if not np.isfinite(row).all():
            raise RecordError(f"{key.decode()} holds NaN or infinity")
        return row

    def _values(self, key: bytes, kind: int) -> memoryview:
        """The list in a feature, which must be of this kind (or empty)."""
        try:
            found, values = _list_of(self._features[key])
        except wire.WireError as error:
            raise RecordError(f"its {key.decode()} cannot be read ({error})") from error
        if found not in (0, kind):
            raise RecordError(f"its {key.decode()} holds {_KINDS[found]}, expected {_KINDS[kind]}")
        return values


def _list_of(feature: memoryview) -> tuple[int, memoryview]:
    """Kind and message of the list that a Feature holds; (0, empty) where it holds none."""
    kind = 0
    parts: list[memoryview] = []
    for number, wired, value in wire.fields(feature):
        if number in (_BYTES, _FLOATS, _INTEGERS) and wired == wire.LENGTH and isinstance(value, memoryview):
            # One of three: what comes last puts out the others.
            kind, parts = number, [*(parts if number == kind else ()), value]
    return kind, wire.joined(parts)


def _frames(name: str, rows: memoryview) -> np.ndarray:
    """(T, D) uint8 of a FeatureList."""
    regular = _regular(rows)
    if regular is not None:
        return _counted(name, regular)
    frames = []
    for number, feature in enumerate(wire.strings(rows, 1)):
        kind, values = _list_of(feature)
        found = wire.strings(values, 1) if kind == _BYTES else []
        if len(found) != 1:
            raise RecordError(f"frame {number} of {name} is not one string of bytes")
        frames.append(np.frombuffer(found[0], np.uint8))
        if len(frames[-1]) != len(frames[0]):
            raise RecordError(f"frame {number} of {name} has {len(frames[-1])} bytes, frame 0 {len(frames[0])}")
    return _counted(name, np.stack(frames) if frames else np.zeros((0, 0), np.uint8))


def _counted(name: str, frames: np.ndarray) -> np.ndarray:
    if len(frames) > _MOST_FRAMES:
        raise RecordError(f"{name} has {len(frames):,} frames, more than {_MOST_FRAMES:,}")
    return frames


def _regular(rows: memoryview) -> np.ndarray | None:
    """The frames at once, where each is wrapped in the very same bytes as the first; None where they are not.

    As in every file that TensorFlow writes: three tags with lengths, then the frame. One by one they would take
    many times as long.
    """
    at = 0
    ends: list[int] = []
    while len(ends) < 3:
        if at >= len(rows) or rows[at] != 1 << 3 | wire.LENGTH:
            return None
        size, at = wire.varint(rows, at + 1)
        ends.append(at + size)
    stride = ends[0]
    if len(set(ends)) != 1 or stride == at or len(rows) % stride:
        return None
    table = np.frombuffer(rows, np.uint8).reshape(-1, stride)
    if not (table[:, :at] == table[0, :at]).all():
        return None
    return np.ascontiguousarray(table[:, at:])
