"""Status: what a folder of extractions is told to be is what it is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from harfeat.cache import CacheHead, ClipFeatures, ClipRow, Failure
from harfeat.cache.folder import WorkFolder, write_shard
from harfeat.cache.manifest import Manifest
from harfeat.cli import main
from harfeat.errors import InputError
from harfeat.status import duration, is_running, rate_of, survey

RECIPE = {"kind": "video"}


@contextmanager
def extraction(
    out: Path,
    planned: int,
    part: tuple[int, int] | None = None,
    shards: tuple[int, ...] = (),
    failures: int = 0,
    every: float = 30.0,
    finish: bool = False,
) -> Iterator[WorkFolder]:
    """Open at the time, with shards of so many clips written `every` seconds, the last of them a minute ago."""
    work = WorkFolder(out, Manifest(RECIPE, planned, slice=part))
    work.open()
    now = time.time()
    first = sum(row.name.startswith("c") for row in work.done.values())
    for number, count in enumerate(shards):
        rows = [ClipRow(f"c{first + i}", 0) for i in range(count)]
        first += count
        values = {"rgb": ClipFeatures(np.ones((1, 2), np.float16), np.zeros(1, np.int32))}
        entry = write_shard(work.path, RECIPE, ("a",), rows, [values] * count)
        work.add([entry])
        at = now - 60 - every * (len(shards) - 1 - number)
        os.utime(work.path / entry.name, (at, at))
    work.add(failures=[Failure(f"f{i}", "broken") for i in range(failures)])
    if finish:
        work.finish(CacheHead(RECIPE, ("a",), list(work.done.values()), failures=tuple(work.failures.values())))
    try:
        yield work
    finally:
        work.close()


def test_slices_in_all_their_states(tmp_path: Path) -> None:
    with extraction(tmp_path / "slice-1-of-5", 6, (0, 5), (3, 2), failures=1, finish=True):
        pass
    with extraction(tmp_path / "slice-3-of-5", 9, (2, 5), (2, 1), failures=2):
        pass
    with extraction(tmp_path / "slice-4-of-5", 5, (3, 5), (1,)):
        pass
    (tmp_path / "slice-4-of-5" / "manifest.json").write_text("{")
    with extraction(tmp_path / "slice-5-of-5", 100, (4, 5), (1, 10, 10)):
        found = survey(tmp_path)
        run = CliRunner().invoke(main, ["status", str(tmp_path)])
    by_name = {one.path: one for one in found.extractions}
    assert {name: one.state for name, one in by_name.items()} == {
        "slice-1-of-5": "complete",
        "slice-2-of-5": "not begun",
        "slice-3-of-5": "stopped",
        "slice-4-of-5": "unreadable",
        "slice-5-of-5": "running",
    }
    one = by_name["slice-1-of-5"]
    assert (one.planned, one.done, one.failures, one.slice) == (6, 5, 1, (0, 5))
    running = by_name["slice-5-of-5"]
    # 10 clips every 30 s are 1200 an hour; 79 are left.
    assert running.rate == pytest.approx(1200, rel=0.01)
    assert running.left == pytest.approx(79 / 1200 * 3600, rel=0.01)
    assert running.idle == pytest.approx(60, abs=30)
    assert not found.complete
    total = found.total()
    assert (total["done"], total["failures"], total["planned"]) == (5 + 3 + 21, 3, None)
    assert (total["complete"], total["running"], total["left"]) == (1, 1, None)
    assert run.exit_code == 0
    lines = run.output.splitlines()
    assert any("slice-1-of-5" in line and "5 of 6 clips, 1 FAILED, complete" in line for line in lines)
    assert any("slice-2-of-5" in line and "NOT BEGUN" in line for line in lines)
    assert any("slice-3-of-5" in line and "STOPPED: the same command resumes" in line for line in lines)
    assert any("slice-4-of-5" in line and "manifest.json: is not JSON" in line for line in lines)
    assert any("slice-5-of-5" in line and "running, 1,200 clips/h" in line for line in lines)
    assert lines[-1].startswith("total")
    assert "29 of ? clips, 3 FAILED, 1 of 5 complete" in lines[-1]


def test_check_is_for_scripts(tmp_path: Path) -> None:
    with extraction(tmp_path / "one", 2, shards=(2,), finish=True):
        pass
    run = CliRunner().invoke(main, ["status", str(tmp_path), "--check"])
    assert (run.exit_code, "2 of 2 clips, complete" in run.output) == (0, True)
    with extraction(tmp_path / "two", 2, shards=(1,)):
        pass
    assert CliRunner().invoke(main, ["status", str(tmp_path), "--check"]).exit_code == 1
    told = CliRunner().invoke(main, ["status", str(tmp_path), "--check", "--json"])
    assert told.exit_code == 1
    values = json.loads(told.output)
    assert values["complete"] is False
    assert [one["state"] for one in values["extractions"]] == ["complete", "stopped"]
    assert values["total"]["planned"] == 4
    none = CliRunner().invoke(main, ["status", str(tmp_path / "nowhere")])
    assert none.exit_code == 2
    assert "holds no manifest.json and no cache" in none.output


@pytest.mark.parametrize(("asked", "name"), [("x.h5", "x.h5"), (".", "x.h5"), (".", "x.hdf5")])
def test_a_packed_cache_and_what_gathers_for_it(asked: str, name: str, tmp_path: Path) -> None:
    out = tmp_path / name
    with extraction(out, 5, shards=(2,)):
        (one,) = survey(tmp_path / asked).extractions
        assert (one.path, one.state, one.done, one.planned) == (f"{name}.parts", "running", 2, 5)
    (one,) = survey(tmp_path / asked).extractions
    assert one.state == "stopped"
    with extraction(out, 5, shards=(1,), failures=2, finish=True):
        pass
    (one,) = survey(tmp_path / asked).extractions
    assert (one.path, one.state, one.done, one.failures) == (name, "complete", 3, 2)
    with extraction(out, 9, shards=(4,)):  # more of it: what is packed counts
        (one,) = survey(tmp_path / asked).extractions
    assert (one.state, one.done, one.planned) == ("running", 7, 9)


def test_a_folder_of_shards_itself(tmp_path: Path) -> None:
    with extraction(tmp_path / "out", 3, shards=(3,), finish=True):
        pass
    (one,) = survey(tmp_path / "out").extractions
    assert (one.path, one.state) == ("out", "complete")
    with pytest.raises(InputError, match="holds no manifest"):
        survey(tmp_path / "out.h5")


def test_looking_changes_nothing_and_hinders_nobody(tmp_path: Path) -> None:
    with extraction(tmp_path / "out", 3, shards=(1,)) as work:
        before = {path: path.stat() for path in tmp_path.rglob("*")}
        survey(tmp_path)
        assert {path: path.stat() for path in tmp_path.rglob("*")} == before
        work.add(failures=[Failure("x", "y")])
    with extraction(tmp_path / "out", 3, shards=(1,)):
        assert survey(tmp_path).extractions[0].done == 2


def test_a_killed_process_runs_no_more(tmp_path: Path) -> None:
    """SIGKILL leaves the lock file, but not the lock."""
    hold = (
        "import sys, time; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire(); "
        "print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path / "lock")], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    assert is_running(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert (tmp_path / "lock").exists()
    assert not is_running(tmp_path)


@given(
    clips=st.lists(st.integers(1, 50), min_size=2, max_size=10),
    seconds=st.floats(1, 500),
    pause=st.floats(601, 1e6),
    order=st.randoms(use_true_random=False),
)
def test_the_rate_leaves_out_pauses(clips: list[int], seconds: float, pause: float, order: object) -> None:
    before = [(number * seconds, count) for number, count in enumerate(clips)]
    start = before[-1][0] + pause
    both = before + [(start + at, count) for at, count in before]
    expected = 3600 * sum(clips[1:]) / (seconds * (len(clips) - 1))
    order.shuffle(both)  # type: ignore[attr-defined]
    assert rate_of(both) == pytest.approx(expected)


def test_no_rate_without_two_shards_in_turn() -> None:
    assert (
        rate_of([]) is rate_of([(5.0, 3)]) is rate_of([(0.0, 3), (9999.0, 3)]) is rate_of([(1.0, 1)] * 2) is None
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2.0 h"), (9000, "2.5 h"), (200_000, "2.3 days")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
