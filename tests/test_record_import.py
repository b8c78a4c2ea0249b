"""YouTube-8M files become caches: what was written comes in, what is damaged is told, however the import went."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from harfeat import stretches
from harfeat.cache import Cache, open_cache
from harfeat.cli import main
from harfeat.errors import InputError
from harfeat.record_import import RecordResult, RecordSettings, import_records

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from yt8m_records import frame_record, framed, video_record, write_records


@dataclass(frozen=True)
class Video:
    """A record as it was made up."""

    name: str
    labels: tuple[int, ...]
    rgb: np.ndarray
    audio: np.ndarray

    @property
    def payload(self) -> bytes:
        """At frame level where it has bytes."""
        encode = frame_record if self.rgb.dtype == np.uint8 else video_record
        return encode(self.name.encode(), self.labels, self.rgb, self.audio)


def videos(prefix: str, count: int, labels: Callable[[int], Sequence[int]], seed: int = 0) -> list[Video]:
    rng = np.random.default_rng([seed, count])
    lengths = [1, 300, *rng.integers(2, 9, count).tolist()][:count]
    return [
        Video(
            f"{prefix}{index}",
            tuple(labels(index)),
            rng.integers(0, 256, (length, 16), np.uint8),
            rng.integers(0, 256, (length, 4), np.uint8),
        )
        for index, length in enumerate(lengths)
    ]


PARTS = {
    "train00.tfrecord": videos("a", 7, lambda i: [i % 3, 5] if i % 2 else [i % 3]),
    "train01.tfrecord": videos("b", 5, lambda i: [4, 1, 1], 1),
    "validate00.tfrecord": videos("c", 4, lambda i: [i], 2),
    "test00.tfrecord": videos("d", 3, lambda i: [], 3),
}
IN_ORDER = [video for name in sorted(PARTS) for video in PARTS[name]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    for name, part in PARTS.items():
        write_records(folder / name, [video.payload for video in part])
    return folder


def run(folder: Path, out: Path, pattern: str = "*.tfrecord", **settings: Any) -> RecordResult:
    return import_records(
        RecordSettings((str(folder / pattern),), out, **{"workers": 1, **settings}), progress=False
    )


def content(out: Path) -> str:
    with open_cache(out) as cache:
        return cache.content


def expect(cache: Cache, wanted: Sequence[Video], classes: Sequence[int] | None = None) -> None:
    """The cache holds just these, with labels as indices into `classes`."""
    assert [clip.name for clip in cache.clips] == [video.name for video in wanted]
    offsets, index = cache.label_sets
    for number, video in enumerate(wanted):
        found = index[offsets[number] : offsets[number + 1]].tolist()
        kept = set(video.labels) if classes is None else set(video.labels) & set(classes)
        assert [found[i] if classes is None else classes[found[i]] for i in range(len(found))] == sorted(kept)
        for stream, rows in (("rgb", video.rgb), ("audio", video.audio)):
            got = cache.read(number, stream)
            np.testing.assert_array_equal(got.features, np.atleast_2d(rows))
            assert got.features.dtype == rows.dtype
            assert set(got.frame_index.tolist()) == {-1}


def test_frame_level_records_become_a_cache(folder: Path, tmp_path: Path) -> None:
    result = run(folder, tmp_path / "x.h5")
    assert (result.clips, result.records, result.failures, result.lost_bytes) == (19, 19, (), 0)
    with open_cache(tmp_path / "x.h5") as cache:
        expect(cache, IN_ORDER)
        assert cache.streams == ("audio", "rgb")
        assert cache.main_stream == "rgb"
        assert cache.classes == tuple(f"class{i}" for i in range(6))
        assert cache.has_several
        (split,) = cache.splits.values()
        assert (split.name, split.seed) == ("yt8m", None)
        assert split.roles.tolist() == [0] * 3 + [1] * 12 + [2] * 4
        assert "train* train, validate* test" in split.rule
        assert cache.provenance["source"]["by_file"]["train00.tfrecord"]["clips"] == 7
        assert str(folder) not in str(cache.provenance)
    assert not (tmp_path / "x.h5.parts").exists()


def test_bytes_stand_for_the_numbers_of_youtube_8m(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "x.h5", "train00.tfrecord")
    with open_cache(tmp_path / "x.h5") as cache:
        for stream, rows in (
            ("rgb", PARTS["train00.tfrecord"][1].rgb),
            ("audio", PARTS["train00.tfrecord"][1].audio),
        ):
            scale, shift = cache.quantisation(stream)
            # As in youtube-8m's utils.py: a range of 4, from -2, and half a step.
            expected = rows.astype(float) * (4.0 / 255.0) + (4.0 / 512.0) - 2.0
            np.testing.assert_allclose(
                cache.read(1, stream).features * scale + shift, expected, rtol=0, atol=1e-12
            )
        assert set(cache.splits) == {"random"}


def test_video_level_records_are_one_row_a_clip(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    means = [
        Video(f"v{i}", (i % 3, 3), rng.normal(size=8).astype(np.float32), rng.normal(size=2).astype(np.float32))
        for i in range(5)
    ]
    write_records(tmp_path / "train00.tfrecord", [video.payload for video in means])
    run(tmp_path, tmp_path / "x.h5")
    with open_cache(tmp_path / "x.h5") as cache:
        expect(cache, means)
        assert cache.quantisation("audio") == (1.0, 0.0)
        assert cache.recipe["level"] == "video"
        assert "quantisation" not in cache.recipe


@pytest.mark.parametrize(
    "settings",
    [{"workers": 2}, {"part_seconds": 0}, {"workers": 3, "part_seconds": 0}],
    ids=["2 workers", "a shard a record", "both"],
)
def test_who_reads_and_in_which_pieces_does_not_matter(
    folder: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    run(folder, tmp_path / "x.h5")
    run(folder, tmp_path / "y.h5", **settings)
    run(folder, tmp_path / "z", **settings)
    assert content(tmp_path / "x.h5") == content(tmp_path / "y.h5") == content(tmp_path / "z")
    # Whole, the second time: nothing is read again.
    again = run(folder, tmp_path / "z", **settings)
    assert (again.resumed, again.clips) == (19, 19)
    assert run(folder, tmp_path / "y.h5", **settings).resumed == 19
    assert content(tmp_path / "z") == content(tmp_path / "x.h5")


@pytest.mark.parametrize("to", ["x.h5", "x"])
def test_an_interrupted_import_goes_on_where_it_was(
    folder: Path, tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(folder, tmp_path / "whole.h5", max_clips=17)
    out, calls, real = tmp_path / to, 0, stretches.add_file

    def interrupted(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 4 == 0:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(stretches, "add_file", interrupted)
    rounds = 0
    while True:
        rounds += 1
        try:
            result = run(folder, out, part_seconds=0, max_clips=17)
            break
        except KeyboardInterrupt:
            assert not list(tmp_path.glob("**/.*.part"))
    assert rounds == 6
    assert (result.clips, result.resumed) == (17, 15)
    assert content(out) == content(tmp_path / "whole.h5")


KILLED = """
import sys
from pathlib import Path
from harfeat.record_import import RecordSettings, import_records
if __name__ == "__main__":
    import_records(RecordSettings((sys.argv[1],), Path(sys.argv[2]), workers=2, part_seconds=0))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_import_goes_on_where_it_was(folder: Path, tmp_path: Path, number: int) -> None:
    (tmp_path / "killed.py").write_text(KILLED)
    out, parts = tmp_path / "x.h5", tmp_path / "x.h5.parts"
    command = [sys.executable, str(tmp_path / "killed.py"), str(folder / "*.tfrecord"), str(out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    for _ in range(6000):
        if len(list(parts.glob("shard-*.h5"))) >= 3 or process.poll() is not None:
            break
        time.sleep(0.005)
    os.killpg(process.pid, number)
    process.wait(60)
    run(folder, tmp_path / "whole.h5")
    result = run(folder, out, part_seconds=0, workers=2)
    assert result.resumed >= 3
    assert content(out) == content(tmp_path / "whole.h5")
    assert not parts.exists()


def damaged(tmp_path: Path) -> Path:
    """Of each kind of damage one, in two files."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    first, second, third, fourth, fifth, sixth = videos("a", 6, lambda i: [i])
    flipped = bytearray(framed(second.payload))
    flipped[200] ^= 4
    empty = replace(third, rgb=third.rgb[:0], audio=third.audio[:0])
    uneven = replace(fourth, audio=fourth.audio[:-1])
    narrow = replace(fifth, rgb=fifth.rgb[:, :-1])
    data = [
        framed(first.payload),
        bytes(flipped),
        *(framed(one.payload) for one in (empty, uneven, narrow, sixth)),
    ]
    (folder / "train00.tfrecord").write_bytes(b"".join([*data, framed(first.payload), framed(b"\xff")]))
    lost = bytearray(b"".join(framed(video.payload) for video in videos("b", 4, lambda i: [i])))
    start = len(framed(videos("b", 4, lambda i: [i])[0].payload))
    lost[start + 2] ^= 1
    (folder / "train01.tfrecord").write_bytes(lost)
    return folder


@pytest.mark.parametrize("settings", [{}, {"workers": 2, "part_seconds": 0}], ids=["whole", "in pieces"])
def test_what_is_damaged_is_passed_over_and_told_with_its_place(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = damaged(tmp_path)
    result = run(folder, tmp_path / "x.h5", classes=6, **settings)
    lost = (folder / "train01.tfrecord").stat().st_size - len(framed(videos("b", 4, lambda i: [i])[0].payload))
    with open_cache(tmp_path / "x.h5") as cache:
        assert [clip.name for clip in cache.clips] == ["a0", "a5", "b0"]
        told = {failure.name: failure.reason for failure in cache.failures}
        assert cache.provenance["source"]["failures"] == 7
        assert cache.provenance["source"]["lost_bytes"] == result.lost_bytes == lost
        assert set(cache.provenance["source"]["failures_by_place"]) == set(told.values())
    size = len(framed(videos("a", 6, lambda i: [i])[0].payload))
    assert told[f"train00.tfrecord@{size}"] == (
        f"train00.tfrecord, record 1, byte {size}: its bytes do not match their checksum"
    )
    assert told["a2"].endswith("it holds no features")
    assert "frames of rgb and" in told["a3"]
    assert "rgb (15), audio (4), the first of all records of frame level with rgb (16), audio (4)" in told["a4"]
    again, broken = (
        name for name in told if name.startswith("train00.tfrecord@") and not name.endswith(f"@{size}")
    )
    assert "the video a0 stands in train00.tfrecord already" in told[again] + told[broken]
    assert "no Example or SequenceExample" in told[again] + told[broken]
    (gone,) = (name for name in told if name.startswith("train01.tfrecord@"))
    assert told[gone].endswith(f"its length is damaged, so nothing behind it can be found: {lost:,} bytes lost")


def test_a_video_of_two_files_is_kept_once_and_counted(folder: Path, tmp_path: Path) -> None:
    """In the file that comes first, also where it is read last."""
    for name in ("train00.tfrecord", "train01.tfrecord"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    twice = PARTS["train00.tfrecord"][5]
    write_records(tmp_path / "train02.tfrecord", [PARTS["train01.tfrecord"][0].payload, twice.payload])
    contents = set()
    ways: list[dict[str, Any]] = [{}, {"workers": 3, "part_seconds": 0}, {"workers": 3}]
    for number, settings in enumerate(ways):
        result = run(tmp_path, tmp_path / f"{number}.h5", "*.tfrecord", **settings)
        assert len(result.failures) == 2
        assert "the video a5 stands in train00.tfrecord already" in str(result.failures)
        contents.add(content(tmp_path / f"{number}.h5"))
    assert len(contents) == 1


@pytest.mark.parametrize("settings", [{}, {"workers": 3, "part_seconds": 0}], ids=["whole", "in pieces"])
@pytest.mark.parametrize("most", [0, 3, 100])
def test_a_subset_by_labels_and_count(folder: Path, tmp_path: Path, settings: dict[str, Any], most: int) -> None:
    run(folder, tmp_path / "x.h5", only_labels="1-2,5", max_clips=most, **settings)
    wanted = [video for video in IN_ORDER if set(video.labels) & {1, 2, 5}]
    with open_cache(tmp_path / "x.h5") as cache:
        assert cache.classes == ("class1", "class2", "class5")
        expect(cache, wanted[: most or None], (1, 2, 5))


def test_a_count_takes_no_failure_behind_its_last_clip(tmp_path: Path) -> None:
    folder = damaged(tmp_path)
    found = set()
    ways: list[dict[str, Any]] = [{}, {"workers": 2}, {"workers": 2, "part_seconds": 0}]
    for number, settings in enumerate(ways):
        result = run(folder, tmp_path / f"{number}.h5", max_clips=1, **settings)
        assert result.failures == ()
        found.add(content(tmp_path / f"{number}.h5"))
    assert len(found) == 1


def test_classes_are_named_by_the_vocabulary(folder: Path, tmp_path: Path) -> None:
    rows = ["0,9,/m/1,Game,u", '1,8,/m/2,"Car, red",u', "2,7,/m/3,,u", "4,6,/m/4,Car,u", "5,5,/m/5,Car,u"]
    (tmp_path / "vocabulary.csv").write_text(
        "Index,TrainVideoCount,KnowledgeGraphId,Name,WikiUrl\n" + "\n".join(rows) + "\n"
    )
    names = ("Game", "Car, red", "class2", "class3", "Car (4)", "Car (5)")
    run(folder, tmp_path / "x.h5", vocabulary=tmp_path / "vocabulary.csv")
    run(folder, tmp_path / "y.h5", vocabulary=tmp_path / "vocabulary.csv", only_labels="1,4")
    run(folder, tmp_path / "z.h5", classes=3862)
    with (
        open_cache(tmp_path / "x.h5") as x,
        open_cache(tmp_path / "y.h5") as y,
        open_cache(tmp_path / "z.h5") as z,
    ):
        assert x.classes == names
        assert y.classes == ("Car, red", "Car (4)")
        assert (len(z.classes), z.classes[-1]) == (3862, "class3861")
        assert x.fingerprint == y.fingerprint == z.fingerprint


def test_labels_beyond_the_classes_fail(folder: Path, tmp_path: Path) -> None:
    result = run(folder, tmp_path / "x.h5", "train00*", classes=5)
    assert [failure.name for failure in result.failures] == ["a1", "a3", "a5"]
    assert "it has the label 5, there are 5 classes" in result.failures[0].reason


def test_unlabelled_clips_are_in_no_split(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "x.h5", "t*.tfrecord")
    run(folder, tmp_path / "y.h5", "test*")
    with open_cache(tmp_path / "x.h5") as cache:
        roles = cache.split("random").roles
        assert [bool(role) for role in roles] == [bool(clip.all_labels) for clip in cache.clips]
        assert set(roles[3:].tolist()) == {1, 2}
    with open_cache(tmp_path / "y.h5") as cache:
        assert dict(cache.splits) == {}
        assert cache.classes == ()


def test_a_file_that_was_replaced_is_read_again(folder: Path, tmp_path: Path) -> None:
    for name in ("train00.tfrecord", "train01.tfrecord"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    run(tmp_path, tmp_path / "x", part_seconds=0)
    write_records(tmp_path / "train00.tfrecord", [video.payload for video in videos("n", 3, lambda i: [0])])
    result = run(tmp_path, tmp_path / "x")
    assert result.notes == ("train00.tfrecord has changed since it was read; it is read again",)
    assert result.resumed == 5
    run(tmp_path, tmp_path / "y.h5")
    assert content(tmp_path / "x") == content(tmp_path / "y.h5")


def test_more_files_go_into_a_folder_and_other_settings_do_not(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "x", "train00*")
    assert run(folder, tmp_path / "x", "train*").resumed == 7
    run(folder, tmp_path / "y.h5", "train*")
    assert content(tmp_path / "x") == content(tmp_path / "y.h5")
    for pattern, settings, match in (
        ("train*", {"only_labels": "1"}, "other settings .*only"),
        ("train00*", {}, "holds clips of train01.tfrecord, which is not among"),
        ("train*", {"features_id": "mine"}, "features_id: 'youtube-8m' against 'mine'"),
    ):
        with pytest.raises(InputError, match=match):
            run(folder, tmp_path / "x", pattern, **settings)
    with pytest.raises(InputError, match="exists, of other files or settings"):
        run(folder, tmp_path / "y.h5", "train00*")


def test_a_finished_file_of_other_names_or_splits_is_refused(folder: Path, tmp_path: Path) -> None:
    """It would be told of as if it were what was asked for."""
    one, other = tmp_path / "one.csv", tmp_path / "other.csv"
    for path, first in ((one, "zero"), (other, "nought")):
        path.write_text(f"Index,Name\n0,{first}\n5,five\n")
    x = tmp_path / "x.h5"
    run(folder, x, "train*", vocabulary=one)
    assert run(folder, x, "train*", vocabulary=one).resumed == 12
    with pytest.raises(InputError, match="with other names of classes"):
        run(folder, x, "train*", vocabulary=other)
    with pytest.raises(InputError, match="with splits by --split-seed 0: `harfeat split`"):
        run(folder, x, "train*", vocabulary=one, split_seed=1)
    run(folder, tmp_path / "y.h5", "train*")
    assert run(folder, tmp_path / "y.h5", "train*").resumed == 12


def test_clips_without_a_label_are_unused_whatever_their_file(tmp_path: Path) -> None:
    for name, first in (("train.tfrecord", "a"), ("validate.tfrecord", "b")):
        part = videos(first, 4, lambda index: [index] if index else [])
        write_records(tmp_path / name, [video.payload for video in part])
    run(tmp_path, tmp_path / "x.h5")
    with open_cache(tmp_path / "x.h5") as cache:
        split = cache.splits["yt8m"]
    assert split.roles.tolist() == [0, 1, 1, 1, 0, 2, 2, 2]
    assert split.rule.endswith("; 2 of these clips, which have no label, are unused too")


def test_clips_without_labels_have_no_splits(folder: Path, tmp_path: Path) -> None:
    told = harfeat("import", folder / "test*", "--from", "yt8m", "--workers", 1, "--out", tmp_path / "x.h5")
    assert "no splits: no clip has a label" in told.output


def test_files_that_do_not_fit_together_are_refused(folder: Path, tmp_path: Path) -> None:
    mean = np.zeros(8, np.float32)
    write_records(tmp_path / "a", [video_record(b"v", [1], mean, mean)])
    (tmp_path / "b").write_bytes((folder / "train00.tfrecord").read_bytes())
    (tmp_path / "c.gz").write_bytes(b"\x1f\x8b")
    (tmp_path / "d").write_bytes(b"nonsense, but long enough")
    (tmp_path / "e").touch()
    (tmp_path / "cut").write_bytes((folder / "train00.tfrecord").read_bytes()[:100])
    write_records(tmp_path / "other", [b""])
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "b").write_bytes(b"")
    cases: list[tuple[tuple[str, ...], str]] = [
        (
            ("a", "b"),
            "a is of video level with rgb .8., audio .8., .*b of frame level with rgb .16., audio .4.: import",
        ),
        (("c.gz",), "gzip"),
        (("d",), "none of 1 files has a record of YouTube-8M's form; .*d, at byte 0: its length is damaged"),
        (("e",), "none of 1 files has a record of YouTube-8M's form; .*e is empty"),
        (("cut",), "cut, at byte 0: the file ends within it: 100 bytes lost"),
        (("other",), "other, at byte 0: it holds no features"),
        (("f",), "is a folder: say which files"),
        (("absent*",), "no such file"),
        (("b", "f/b"), "have one name"),
    ]
    for sources, match in cases:
        with pytest.raises(InputError, match=match) as caught:
            import_records(
                RecordSettings(tuple(str(tmp_path / name) for name in sources), tmp_path / "x.h5"), False
            )
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="and others: none has any of the classes asked for"):
        run(folder, tmp_path / "x.h5", only_labels="77")
    for settings, match in (
        ({"only_labels": "a-b"}, "say numbers and ranges"),
        ({"only_labels": "5-1"}, "--only-labels 5-1: say numbers and ranges"),
        ({"only_labels": "5", "classes": 5}, "there are 5 classes"),
        ({"classes": 0}, "from 1 to"),
        ({"max_clips": -1}, "at least 0"),
        ({"vocabulary": tmp_path / "d"}, "no table with columns Index"),
        ({"vocabulary": tmp_path / "absent"}, "cannot be read"),
    ):
        with pytest.raises(InputError, match=match):
            run(folder, tmp_path / "x.h5", **settings)
    assert not list(tmp_path.glob("x.h5*"))


def harfeat(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_imports_and_tells_failures(folder: Path, tmp_path: Path) -> None:
    yt8m = ("--from", "yt8m", "--workers", 1)
    result = harfeat("import", folder / "train*.tfrecord", folder / "validate00.tfrecord", *yt8m,
                     "--out", tmp_path / "x.h5", "--only-labels", "0-3", "--max-clips", 9)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "x.h5: 9 clips of" in result.stdout
    assert "split yt8m" in result.stdout or "split random" in result.stdout
    arguments = ("import", damaged(tmp_path) / "*", *yt8m, "--out", tmp_path / "y.h5")
    result = harfeat(*arguments)
    assert result.exit_code == 1
    assert "failed: a2: train00.tfrecord, record 2, byte" in result.stderr
    assert "7 records failed; " in result.stderr
    assert "bytes behind damaged lengths are lost" in result.stderr
    assert harfeat(*arguments, "--max-failures", 7).exit_code == 0


def test_options_of_the_other_formats_are_refused(folder: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "x.h5")
    for arguments, match in (
        (("--from", "yt8m", "--labels", "labels"), "--labels does not go with --from yt8m"),
        (("--from", "yt8m", "--test-groups", "1"), "--test-groups does not go with --from yt8m"),
        (("--from", "yt8m", "--classes", "names"), "--classes names: with --from yt8m, say how many"),
        (("--from", "npz"), "--from npz needs --features KEY and --labels KEY"),
        (("--from", "npz", "--max-clips", "3"), "--max-clips does not go with --from npz"),
        ((folder / "b", "--from", "h5", "--features", "f", "--labels", "l"), "--from h5 reads one file, not 2"),
    ):
        result = harfeat("import", folder / "train00.tfrecord", *arguments, *out)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
        assert match in result.stderr


@examples(max_examples=25, deadline=None)
@given(flips=st.lists(st.tuples(st.sampled_from([0, 1]), st.integers(0, 10**6), st.integers(0, 7)), max_size=3))
def test_no_flipped_bit_is_taken_for_a_feature(
    flips: list[tuple[int, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Clips are those that were written, or they are missing and something is told of them."""
    folder, out = tmp_path_factory.mktemp("flipped"), tmp_path_factory.mktemp("out") / "x.h5"
    parts = [videos("a", 5, lambda i: [i])[2:], videos("b", 5, lambda i: [i, 7])[2:]]
    for number, part in enumerate(parts):
        data = bytearray(b"".join(framed(video.payload) for video in part))
        # One record stays, or there would be nothing to import.
        safe = 0 if number else len(framed(part[0].payload))
        for file, place, bit in flips:
            if file == number:
                data[safe + place % (len(data) - safe)] ^= 1 << bit
        (folder / f"train{number:02d}.tfrecord").write_bytes(data)
    result = run(folder, out)
    with open_cache(out) as cache:
        names = {clip.name for clip in cache.clips}
        expect(cache, [video for part in parts for video in part if video.name in names])
    assert bool(result.failures) == (len(names) < 6)
