"""Which processes run, for tests that none is left behind."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Until it is true; an error where it is not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def running() -> Iterator[tuple[int, int, int]]:
    """Number, parent and session of each process that has not ended."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, _, rest = stat.read_text().rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, parent, _, session = rest.split()[:4]
        if state != "Z":
            yield int(stat.parent.name), int(parent), int(session)


def grandchildren() -> list[int]:
    """Of this process: the children of its fork server."""
    parents: dict[int, list[int]] = {}
    for pid, parent, _ in running():
        parents.setdefault(parent, []).append(pid)
    return [pid for child in parents.get(os.getpid(), []) for pid in parents.get(child, [])]
