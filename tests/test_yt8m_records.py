"""The encoder of YouTube-8M files, read back by programs of others: TensorBoard's reader and google.protobuf."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboard.compat.tensorflow_stub import errors
from tfrecords import MESSAGES, records

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from yt8m_records import crc32c, frame_record, framed, video_record, write_records


def test_frame_level_files_are_read_by_others(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clips = [
        (
            f"id{t}".encode(),
            labels,
            rng.integers(0, 256, (t, 1024), np.uint8),
            rng.integers(0, 256, (t, 128), np.uint8),
        )
        for t, labels in ((1, [3861]), (7, [0, 127, 128, 300]), (2, []))
    ]
    path = tmp_path / "train00.tfrecord"
    assert write_records(path, (frame_record(*clip) for clip in clips)) == 3
    found = [MESSAGES["SequenceExample"].FromString(payload) for payload in records(path)]
    assert len(found) == 3
    for message, (clip_id, labels, rgb, audio) in zip(found, clips, strict=True):
        assert set(message.context.feature) == {"id", "labels"}
        assert list(message.context.feature["id"].bytes_list.value) == [clip_id]
        assert list(message.context.feature["labels"].int64_list.value) == labels
        assert message.context.feature["labels"].WhichOneof("kind") == "int64_list"
        assert set(message.feature_lists.feature_list) == {"rgb", "audio"}
        for name, rows in (("rgb", rgb), ("audio", audio)):
            frames = message.feature_lists.feature_list[name].feature
            got = np.stack([np.frombuffer(frame.bytes_list.value[0], np.uint8) for frame in frames])
            np.testing.assert_array_equal(got, rows)
            assert all(len(frame.bytes_list.value) == 1 for frame in frames)


def test_video_level_files_are_read_by_others(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rgb, audio = rng.normal(size=1024).astype(np.float32), rng.normal(size=128).astype(np.float32)
    path = tmp_path / "train00.tfrecord"
    write_records(path, [video_record(b"old", [5, 1], rgb, audio, id_name="video_id")])
    (message,) = (MESSAGES["Example"].FromString(payload) for payload in records(path))
    features = message.features.feature
    assert set(features) == {"video_id", "labels", "mean_rgb", "mean_audio"}
    assert list(features["video_id"].bytes_list.value) == [b"old"]
    assert list(features["labels"].int64_list.value) == [5, 1]
    np.testing.assert_array_equal(np.float32(features["mean_rgb"].float_list.value), rgb)
    np.testing.assert_array_equal(np.float32(features["mean_audio"].float_list.value), audio)


def test_the_sum_is_crc32c() -> None:
    # RFC 3720, B.4, and the usual check value.
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_a_changed_byte_is_seen_by_others(tmp_path: Path) -> None:
    rows = np.zeros((2, 1024), np.uint8)
    record = bytearray(framed(frame_record(b"x", [1], rows, rows[:, :128])))
    path = tmp_path / "broken.tfrecord"
    for at in (0, 9, 500, len(record) - 1):
        broken = bytearray(record)
        broken[at] ^= 1
        path.write_bytes(broken)
        with pytest.raises((errors.DataLossError, OverflowError, MemoryError)):
            list(records(path))


def test_floats_are_no_frames() -> None:
    with pytest.raises(ValueError, match="uint8"):
        frame_record(b"x", [1], np.zeros((2, 1024)), np.zeros((2, 128), np.uint8))
