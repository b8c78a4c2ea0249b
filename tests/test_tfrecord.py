"""TFRecord files and their messages, against the readers of others; no damage is taken for data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tfrecords import MESSAGES, records

from harfeat.errors import InputError
from harfeat.importers import tfrecord
from harfeat.importers.example import FRAME, RecordError, VideoRecord
from harfeat.importers.tfrecord import Damage, Record, masked_crc, read_records

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from yt8m_records import frame_record, framed, video_record, write_records

RNG = np.random.default_rng(0)
RGB, AUDIO = RNG.integers(0, 256, (3, 4), np.uint8), RNG.integers(0, 256, (3, 2), np.uint8)
PAYLOADS = (b"first record", b"", bytes(range(40)), frame_record(b"ab12", [3, 300], RGB, AUDIO))
ONE_FILE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@ONE_FILE
@given(payloads=st.lists(st.binary(max_size=300), max_size=8))
def test_records_are_those_that_tensorboard_reads(payloads: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    write_records(path, payloads)
    found = [record for record in read_records(path) if isinstance(record, Record)]
    assert [record.payload for record in found] == list(records(path)) == payloads
    whole = path.read_bytes()
    assert b"".join(whole[record.start : record.end] for record in found) == whole
    assert [record.number for record in found] == list(range(len(payloads)))
    for record in found:  # from the middle on
        assert list(read_records(path, record.start, record.number)) == found[record.number :]


def written(folder: Path) -> tuple[Path, bytes, list[Record]]:
    """A file of PAYLOADS, its bytes, and where its records stand."""
    path = folder / "a.tfrecord"
    write_records(path, PAYLOADS)
    return path, path.read_bytes(), [record for record in read_records(path) if isinstance(record, Record)]


def test_a_flipped_bit_costs_its_record_or_in_a_length_the_rest_and_is_told(tmp_path: Path) -> None:
    """Every bit of the file."""
    path, whole, sound = written(tmp_path)
    for place in range(len(whole)):
        hit = next(record for record in sound if record.start <= place < record.end)
        in_length = place < hit.start + 12
        for bit in range(8):
            broken = bytearray(whole)
            broken[place] ^= 1 << bit
            path.write_bytes(broken)
            found = list(read_records(path))
            (damage,) = (one for one in found if isinstance(one, Damage))
            assert (damage.number, damage.start) == (hit.number, hit.start)
            assert damage.lost == (len(whole) - hit.start if in_length else 0)
            kept = sound[: hit.number] + ([] if in_length else sound[hit.number + 1 :])
            assert [one for one in found if isinstance(one, Record)] == kept


def test_a_file_that_is_cut_tells_how_much_is_lost(tmp_path: Path) -> None:
    path, whole, sound = written(tmp_path)
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        kept = [record for record in sound if record.end <= size]
        rest = size - (kept[-1].end if kept else 0)
        found = list(read_records(path))
        assert found[: len(kept)] == kept
        assert [one.lost for one in found[len(kept) :] if isinstance(one, Damage)] == ([rest] if rest else [])


def test_a_huge_record_is_passed_over_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tfrecord"
    write_records(path, [b"a", bytes(200), b"b"])
    monkeypatch.setattr(tfrecord, "LARGEST", 100)
    first, damage, last = read_records(path)
    assert isinstance(damage, Damage)
    assert (damage.lost, damage.start, damage.end) == (0, 17, 17 + 216)
    assert "200 bytes, more than the 100" in damage.reason
    assert isinstance(first, Record)
    assert isinstance(last, Record)
    assert (first.payload, last.payload) == (b"a", b"b")


def test_a_length_beyond_all_memory_is_refused_though_its_checksum_fits(tmp_path: Path) -> None:
    length = (2**63).to_bytes(8, "little")
    (tmp_path / "a").write_bytes(length + masked_crc(length).to_bytes(4, "little") + b"rest")
    (damage,) = read_records(tmp_path / "a")
    assert isinstance(damage, Damage)
    assert damage.lost == 16


def test_what_is_no_such_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(b"\x1f\x8b\x08 compressed")
    for name, match in (("a.gz", "gzip"), ("absent", "No such file"), (".", "cannot be read")):
        with pytest.raises(InputError, match=match):
            list(read_records(tmp_path / name))


def by_protobuf(payload: bytes, frame_level: bool) -> dict[str, Any]:
    """What google.protobuf finds in a record."""
    message = MESSAGES["SequenceExample" if frame_level else "Example"].FromString(payload)
    features = (message.context if frame_level else message.features).feature
    name = features["id" if "id" in features else "video_id"].bytes_list.value
    found: dict[str, Any] = {
        "name": name[0] if len(name) == 1 else None,
        "labels": tuple(sorted(set(features["labels"].int64_list.value))) if "labels" in features else (),
    }
    for stream in ("rgb", "audio"):
        if frame_level and stream in message.feature_lists.feature_list:
            rows = message.feature_lists.feature_list[stream].feature
            found[stream] = [list(row.bytes_list.value) for row in rows]
        elif not frame_level and f"mean_{stream}" in features:
            found[stream] = list(features[f"mean_{stream}"].float_list.value)
    return found


def by_us(payload: bytes) -> tuple[bool, dict[str, Any]]:
    """The same by harfeat. Raises RecordError."""
    record = VideoRecord(payload)
    found: dict[str, Any] = {"name": record.name.encode(), "labels": record.labels}
    for stream, rows in record.streams().items():
        found[stream] = [[row.tobytes()] for row in rows] if record.level == FRAME else rows[0].tolist()
    return record.level == FRAME, found


def test_messages_are_those_that_protobuf_reads() -> None:
    mean, loud = RNG.normal(size=5).astype(np.float32), RNG.normal(size=2).astype(np.float32)
    long = RNG.integers(0, 256, (300, 1024), np.uint8)
    for payload in (
        frame_record(b"ab12", [3861, 0, 300], RGB, AUDIO),
        frame_record("é".encode(), [], RGB, AUDIO, id_name="video_id"),
        frame_record(b"x", [5, 5, 2**62], long, long[:, :128]),
        video_record(b"ab12", [7, 1], mean, loud),
    ):
        frame_level, found = by_us(payload)
        assert found == by_protobuf(payload, frame_level)


def built(frame_level: bool) -> bytes:
    """A message as protobuf itself writes it, with what else it may hold: older fields, lists of one by one."""
    message = MESSAGES["SequenceExample" if frame_level else "Example"]()
    features = (message.context if frame_level else message.features).feature
    features["id"].bytes_list.value.append(b"ab12")
    features["labels"].int64_list.value.extend([9, 4, 9])
    features["segment_scores"].float_list.value.extend([0.5, 1])
    for stream, rows in (("rgb", RGB), ("audio", AUDIO)):
        if frame_level:
            for row in rows:
                message.feature_lists.feature_list[stream].feature.add().bytes_list.value.append(row.tobytes())
        else:
            features[f"mean_{stream}"].float_list.value.extend(rows[0].tolist())
    return bytes(message.SerializeToString())


@pytest.mark.parametrize("frame_level", [True, False])
def test_what_protobuf_writes_is_read(frame_level: bool) -> None:
    found = by_us(built(frame_level))
    assert found == (frame_level, by_protobuf(built(frame_level), frame_level))
    assert found[1]["labels"] == (4, 9)


def test_numbers_that_are_not_packed_are_read() -> None:
    """As proto2 writes them; and messages in two parts are one."""
    labels = b"".join(bytes([0x08, label]) for label in (5, 3))
    feature = bytes([0x1A, len(labels)]) + labels
    entry = b"\x0a\x06labels" + bytes([0x12, len(feature)]) + feature
    features = bytes([0x0A, len(entry)]) + entry
    payload = frame_record(b"ab12", [], RGB, AUDIO) + bytes([0x0A, len(features)]) + features
    frame_level, found = by_us(payload)
    assert found == by_protobuf(payload, frame_level)
    assert found["labels"] == (3, 5)


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """A sound message with bytes changed, put in, taken out, or another message behind it."""
    data = bytearray(built(draw(st.booleans())))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        match draw(st.sampled_from(("change", "insert", "remove", "append"))):
            case "change":
                data[at] = draw(st.integers(0, 255))
            case "insert":
                data[at:at] = draw(st.binary(max_size=4))
            case "remove":
                del data[at : at + draw(st.integers(1, 4))]
            case "append":
                data += built(draw(st.booleans()))
        if not data:
            break
    return bytes(data)


@settings(max_examples=400, deadline=None)
@given(payload=mutants() | st.binary(max_size=60))
@example(payload=b"")
def test_a_message_means_what_protobuf_says_or_is_refused(payload: bytes) -> None:
    try:
        frame_level, found = by_us(payload)
    except RecordError:
        return
    try:
        expected = by_protobuf(payload, frame_level)
    except DecodeError:
        return  # stricter on texts that nobody reads, as keys that are not utf-8
    assert str(found) == str(expected)  # NaN equals itself as text


@pytest.mark.parametrize(
    ("payload", "match"),
    [
        (b"\xff" * 11, "no Example"),
        (b"\x0b\x0c", "wire type 3"),
        (b"", "no id"),
        (frame_record(b"", [1], RGB, AUDIO), "no id"),
        (frame_record(b"a" * 300, [1], RGB, AUDIO), "no id"),
        (b"\n\x10\n\x0e\n\x02id\x12\x08\n\x00\n\x04ab12", "id cannot be read"),  # a text longer than its list
        (frame_record(b"\xff\xfe", [1], RGB, AUDIO), "id is not utf-8"),
        (frame_record(b"a\0b", [1], RGB, AUDIO), "zero byte"),
        (frame_record(b"a", range(20_000), RGB, AUDIO), "more than 10,000 numbers"),
        (video_record(b"a", [1], np.array([np.nan]), np.zeros(1)), "mean_rgb holds NaN"),
        (frame_record(b"a", [1], np.zeros((10_001, 1), np.uint8), AUDIO), "10,001 frames, more than 10,000"),
    ],
)
def test_what_makes_no_sense_is_refused(payload: bytes, match: str) -> None:
    with pytest.raises(RecordError, match=match):
        by_us(payload)


def test_the_encoder_frames_as_this_reader_checks() -> None:
    for payload in PAYLOADS:
        assert framed(payload)[-4:] == masked_crc(payload).to_bytes(4, "little")
