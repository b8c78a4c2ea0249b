"""Kills real extractions at random moments, resumes them, and compares what comes out with an unbroken run.

    python scripts/soak.py --kills 100

Extractions into a packed file and into a folder, with and without decoding processes, and packings, are ended
by SIGKILL (of the process alone, or of all its processes), SIGTERM, SIGINT, or two SIGINTs in a row. Prints a
tally as JSON: kills by kind and signal, completed runs, and what went wrong. Exit code 1 where anything did.

Runs are forked from this process, which has imported everything and has no threads; from there on each is the
real command in a session of its own. Shards are written every 0.2 s, not every 30 s: there is more to break.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
from small_clips import make_clips

import harfeat.commands.extract as command
from harfeat.cache import CacheError, open_cache
from harfeat.cli import main as harfeat
from harfeat.provenance import versions
from harvib.devices import machine

OPTIONS = "--dataset folder --model test_vit --weights none --frames 3 --batch 8 --device cpu --precision float32"
ENDS = ("KILL", "KILL all", "TERM", "INT", "INT INT")
INTERRUPTED = "harfeat: interrupted"
RESUMES = f"{INTERRUPTED}; the same command resumes"


class Run:
    """One run of the `harfeat` command in a session of its own."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self.log = log
        # Until the command runs, a signal would end the fork in the middle of this script, which would clean up.
        ready, begins = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(ready)
            os.setsid()
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            os.environ["OMP_NUM_THREADS"] = "1"
            self._become(arguments, begins)
        os.close(begins)
        os.read(ready, 1)
        os.close(ready)
        self.started = time.monotonic()

    @staticmethod
    def _become(arguments: Sequence[str], begins: int) -> NoReturn:
        """The command, up to the end of the process, and nothing of what called it."""
        code: Any = 1
        try:
            os.close(begins)
            harfeat(list(arguments))
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)

    def wait(self, seconds: float) -> int | None:
        """The exit code, negative for a signal; None where it still runs after so long."""
        end = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > end:
                return None
            time.sleep(0.002)

    def end(self, how: str) -> None:
        """Send what `ENDS` names."""
        if how == "KILL all":
            os.killpg(self.pid, signal.SIGKILL)
            return
        for name in how.split():
            os.kill(self.pid, signal.Signals[f"SIG{name}"])
            time.sleep(random.uniform(0, 0.05))

    def left(self, seconds: float = 120) -> list[int]:
        """Processes of its session that outlive it by so long; one that still imports PyTorch ends after that."""
        end = time.monotonic() + seconds
        while (found := _session(self.pid)) and time.monotonic() < end:
            time.sleep(0.05)
        return found


class Soak:
    """The tally, and the folders."""

    def __init__(self, work: Path, clips: int) -> None:
        self.work, self.root = work, work / "videos"
        make_clips(self.root, clips)
        self.kills: Counter[str] = Counter()
        self.completed: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.seconds: dict[str, float] = {}
        self.content = ""
        for kind, workers in (("folder", 1), ("packed", 1), ("packed", 0), ("folder", 0), ("pack", 0)):
            shutil.rmtree(self.out(kind), ignore_errors=True)
            self.out(kind).unlink(missing_ok=True)
            run = Run(self.arguments(kind, workers), work / "log")
            if run.wait(300) != 0:
                raise SystemExit(f"an unbroken run failed:\n{run.log.read_text()}")
            self.seconds[f"{kind} {workers}"] = time.monotonic() - run.started
            with open_cache(self.out(kind)) as cache:
                self.content = self.content or cache.content
                if cache.content != self.content:
                    raise SystemExit(f"the unbroken runs differ at {kind}")
        self.out("folder").rename(work / "source")

    def out(self, kind: str) -> Path:
        """Where a run of this kind writes."""
        return self.work / "out" / {"folder": "x", "packed": "x.h5", "pack": "y.h5"}[kind]

    def arguments(self, kind: str, workers: int) -> list[str]:
        """The command line."""
        if kind == "pack":
            source = self.work / "source"
            return ["pack", str(source if source.exists() else self.out("folder")), "--out", str(self.out(kind))]
        return ["extract", *OPTIONS.split(), "--root", str(self.root), "--out", str(self.out(kind)),
                "--workers", str(workers)]  # fmt: skip

    def one(self, kind: str) -> None:
        """Kill one piece of work until it gets done, and compare."""
        shutil.rmtree(self.work / "out", ignore_errors=True)
        if kind == "pack":
            (self.work / "out").mkdir()
        while not (kind == "pack" and self.out(kind).exists()):
            how, workers = random.choice(ENDS), random.choice((0, 0, 1)) if kind != "pack" else 0
            run = Run(self.arguments(kind, workers), self.work / "log")
            code = run.wait(random.uniform(0, 1.1 * self.seconds[f"{kind} {workers}"]))
            if code is None:
                run.end(how)
                code = run.wait(60)
                self.kills[f"{kind}: {how}"] += 1
                self.check_end(kind, how, code, run)
            elif code != 0:
                self.wrong.append(f"{kind}: exit code {code}: {run.log.read_text()[-500:]}")
                return
            if code == 0:
                break
        self.check_content(kind)

    def check_end(self, kind: str, how: str, code: int | None, run: Run) -> None:
        """Whether a run ended as it should: at once, without a word too many, leaving no process."""
        text = run.log.read_text()
        # Done just before the signal came, or ended by it before the command took it in hand.
        expected = {0, -signal.SIGKILL} if "KILL" in how else {0, 130, -signal.SIGTERM}
        if code not in expected:
            self.wrong.append(f"{kind}: {how}: exit code {code}: {text[-500:]}")
        said = INTERRUPTED if kind == "pack" else RESUMES  # a packing starts over
        if code == 130 and (said not in text or "Traceback" in text):
            self.wrong.append(f"{kind}: {how}: said {text[-1500:]}")
        if left := run.left():
            lines = [Path(f"/proc/{one}/cmdline").read_text().replace("\0", " ")[:200] for one in left]
            self.wrong.append(f"{kind}: {how}: left processes {lines}")

    def check_content(self, kind: str) -> None:
        """Whether the cache is the same as from an unbroken run, and stands alone."""
        try:
            with open_cache(self.out(kind)) as cache:
                cache.read_all()
                if cache.content != self.content:
                    self.wrong.append(f"{kind}: other content")
        except CacheError as error:
            self.wrong.append(f"{kind}: {error}")
        beside = {path.name for path in (self.work / "out").iterdir()} - {self.out(kind).name}
        if kind != "pack" and beside:
            self.wrong.append(f"{kind}: left {sorted(beside)}")
        self.completed[kind] += 1


def _session(session: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(its_session) == session and state != "Z":
            found.append(int(path.parent.name))
    return found


@click.command()
@click.option("--kills", default=100, show_default=True, help="Stop after so many.")
@click.option("--clips", default=60, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of the moments and signals.")
@click.option("--json", "to", type=click.Path(path_type=Path), help="Also write the tally here.")
def main(kills: int, clips: int, seed: int, to: Path | None) -> None:
    """Kill extractions and packings at random moments, resume, compare."""
    started = time.monotonic()
    random.seed(seed)
    often = functools.partial(command.ExtractSettings, part_seconds=0.2)
    command.ExtractSettings = often  # type: ignore[assignment,misc]
    work = Path(tempfile.mkdtemp(prefix="harfeat-soak-"))
    try:
        soak = Soak(work, clips)
        kinds = ("packed", "folder", "packed", "folder", "pack")
        turn = 0
        while sum(soak.kills.values()) < kills and len(soak.wrong) < 10:
            soak.one(kinds[turn % len(kinds)])
            turn += 1
    finally:
        shutil.rmtree(work)
    tally: dict[str, Any] = {
        "kills": sum(soak.kills.values()),
        "by_kind_and_signal": dict(sorted(soak.kills.items())),
        "completed": dict(soak.completed),
        "wrong": soak.wrong,
        "unbroken_seconds": {kind: round(value, 2) for kind, value in soak.seconds.items()},
        "seconds": round(time.monotonic() - started, 1),
        "seed": seed,
        "command": " ".join(["python", *sys.argv]),
        "machine": machine(),
        "versions": versions(),
    }
    text = json.dumps(tally, indent=1)
    click.echo(text)
    if to is not None:
        to.write_text(text)
    sys.exit(1 if soak.wrong else 0)


if __name__ == "__main__":
    main()
