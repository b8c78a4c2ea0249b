"""Whatever moment an extraction ends at, the same command completes it, with the content of an unbroken run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

POINTS = Path(__file__).with_name("crash_points.py")


def test_an_end_before_any_step_on_disk_loses_nothing_that_was_saved(tmp_path: Path) -> None:
    """Every rename, removal, sync and creation of a file; killed there, or the power cut."""
    done = subprocess.run(
        [sys.executable, POINTS, tmp_path], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [bad for entry in found.values() for bad in entry["bad"]] == []
    assert set(found) == {"folder", "packed", "folder resumed", "packed resumed", "pack"}
    # A watch that hears nothing would find nothing wrong.
    assert {name for name, entry in found.items() if entry["points"] < (5 if name == "pack" else 40)} == set()


def test_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    """Real commands, into a file, into a folder, and packing; every signal, alone or to all processes."""
    script, to = POINTS.parents[1] / "scripts" / "soak.py", tmp_path / "tally.json"
    done = subprocess.run(
        [sys.executable, script, "--kills", "12", "--clips", "24", "--seed", "5", "--json", to],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tally = json.loads(to.read_text())
    assert tally["wrong"] == []
    assert tally["kills"] >= 12
    # Each round takes one to its end and compares it; the first two are of both kinds.
    assert {"packed", "folder"} <= set(tally["completed"])


EARLY = """
import os, signal, time
from multiprocessing import forkserver
from harfeat.decode.worker import worker_context

if __name__ == "__main__":
    context = worker_context()
    server = forkserver._forkserver._forkserver_pid
    for _ in range(3):
        os.kill(server, signal.SIGINT)
        time.sleep(0.2)
    with context.Pool(1) as pool:
        print(pool.apply(max, (3, 4)), forkserver._forkserver._forkserver_pid == server)
"""


def test_ctrl_c_while_the_fork_server_still_imports_leaves_no_traceback(tmp_path: Path) -> None:
    """It goes to every process of the terminal; importing torch takes the server seconds."""
    (tmp_path / "early.py").write_text(EARLY)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "early.py")], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "4 True\n", "")


STARTING = """
import os, signal, sys, threading
from pathlib import Path
from harfeat.decode.pool import prepared_clips
from harfeat.preprocess import TransformConfig
from harfeat.sampling import SamplingSettings

if __name__ == "__main__":
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    transform = TransformConfig((8, 8), "bilinear", 1.0, "center")
    try:
        next(prepared_clips([Path(sys.argv[0])], SamplingSettings(), transform, 1, 60))
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_ctrl_c_while_the_decoding_processes_start_leaves_no_traceback(tmp_path: Path) -> None:
    """One that is asked for and not yet there would begin when nobody is left, and complain."""
    (tmp_path / "starting.py").write_text(STARTING)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "starting.py")], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")


LATE = """
import signal, sys, time
from pathlib import Path

if __name__ != "__main__":
    # One worker starts at once and does all the work; the other is still starting, and for longer than the usual
    # end of a worker takes.
    try:
        Path(sys.argv[1]).touch(exist_ok=False)
    except FileExistsError:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1.5)

from harfeat.decode.pool import each_of

if __name__ == "__main__":
    print(list(each_of(int, [("1",), ("2",)], 2, 60.0)), flush=True)
"""


def test_a_worker_that_is_not_needed_any_more_ends_without_a_traceback(tmp_path: Path) -> None:
    script = tmp_path / "late.py"
    script.write_text(LATE)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "first")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[1, 2]\n", "")
