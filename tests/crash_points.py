"""Ends a work folder's life at every single step it takes on disk, and lets the next run take it up.

Run as a script by test_kill.py, because what listens to the disk cannot be taken off again.

    python crash_points.py FOLDER    prints {scenario: {"points": tried, "bad": [what went wrong, ...]}} as JSON

Three kinds of end before each system call that changes the disk: `kill` leaves the disk as it is; after a power
cut only what was synced is there for sure: either of names and contents alike (`lazy`), or of the contents alone,
under names that came through (`eager`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from harfeat.cache import CacheHead, ClipFeatures, ClipRow, Failure, open_cache
from harfeat.cache.folder import WorkFolder
from harfeat.cache.hashed_files import write_shard
from harfeat.cache.manifest import Manifest
from harfeat.cache.packing import pack
from harfeat.errors import InputError

RECIPE: dict[str, Any] = {"kind": "video"}
CLASSES = ("a", "b")
NAMES = tuple(f"c{number}.avi" for number in range(5))
_STEPS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate")


def run(out: Path, version: int, good: Iterable[str], retry: bool, saved: Callable[[set[str]], None]) -> None:
    """What `harfeat extract` does with a folder: `version` 2 has another c1.avi; clips not in `good` fail."""
    wanted = {name: f"{name}-{version if name == 'c1.avi' else 1}" for name in NAMES}
    folder = WorkFolder(out, Manifest(RECIPE, len(NAMES)))
    try:
        folder.open()
        changed = {name for name, row in folder.done.items() if row.sha256 != wanted[name]}
        saved(set(folder.done) - changed)
        folder.forget(changed)
        folder.retry((set(folder.failures) if retry else set()) | changed)
        todo = [name for name in NAMES if name not in folder.done and name not in folder.failures]
        for first in range(0, len(todo), 2):
            names = [name for name in todo[first : first + 2] if name in good]
            rows = [ClipRow(name, NAMES.index(name) % 2, sha256=wanted[name]) for name in names]
            values = [{"rgb": _features(wanted[name])} for name in names]
            entries = [write_shard(folder.path, RECIPE, CLASSES, rows, values)] if names else []
            folder.add(entries, [Failure(name, "bad") for name in todo[first : first + 2] if name not in good])
            saved(set(folder.done))
        rows = [ClipRow(name, NAMES.index(name) % 2) for name in NAMES if name not in folder.failures]
        folder.finish(CacheHead(RECIPE, CLASSES, rows, (), tuple(folder.failures.values()), {"by": "test"}))
    finally:
        folder.close()


def _features(seed: str) -> ClipFeatures:
    rng = np.random.default_rng(list(seed.encode()))
    return ClipFeatures(rng.normal(size=(3, 4)).astype(np.float16), np.arange(3))


def state_of(root: Path) -> frozenset[tuple[str, bytes]]:
    """What stands in a folder; temporary files are called alike."""
    return frozenset(
        (
            re.sub(r"\.[0-9a-z_-]+\.part", ".part", str(path.relative_to(root))),
            b"" if path.is_dir() else path.read_bytes(),
        )
        for path in root.rglob("*")
    )


def content_of(out: Path) -> str:
    with open_cache(out) as cache:
        cache.read_all()
        return cache.content


Step = Callable[[tuple[str, str]], None]


def nothing(_: object) -> None:
    """What listens where nobody does."""


class Watch:
    """Calls `step` before everything that changes the disk below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.step: Step = nothing
        sys.addaudithook(self._heard)
        plain: Any = os.fsync

        def fsync(handle: Any) -> None:
            path = os.readlink(f"/proc/self/fd/{handle}")
            if path.startswith(self.root):
                # No real one: neither end that is played here needs it, and it takes most of the time.
                self.step(("sync", path))
                self.step(("synced", path))
            else:
                plain(handle)

        setattr(os, "fsync", fsync)  # noqa: B010  mypy would have it the type's way

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and flags & os.O_CREAT
            if not writes or not isinstance(path, str | os.PathLike):
                return
            arguments = (os.fspath(path),)
        elif event not in _STEPS:
            return
        if str(arguments[0]).startswith(self.root):
            self.step((event, str(arguments[0])))


class Scenario:
    """A first state, a piece of work to be ended anywhere, and what must be there once it is repeated."""

    def __init__(self, folder: Path, name: str) -> None:
        self.root, self.name = folder / name.replace(" ", "-"), name
        self.out = self.root / "deep" / "er" / ("x" if "folder" in name else "x.h5")
        self.late = "resumed" in name
        self.root.mkdir()
        if self.late:
            run(self.out, 1, NAMES[:4], False, nothing)
        if name == "pack":
            run(self.root / "source", 1, NAMES, False, nothing)
        before = folder / f"{self.root.name}-before"
        shutil.copytree(self.root, before)
        self.work(nothing)
        self.expected = content_of(self.out)
        shutil.rmtree(self.root)
        before.rename(self.root)

    def work(self, saved: Callable[[set[str]], None]) -> None:
        if (self.root / "source").is_dir():
            if not self.out.exists():
                pack(self.root / "source", self.out)
        elif self.late:
            run(self.out, 2, NAMES, True, saved)
        else:
            run(self.out, 1, NAMES[:4], False, saved)

    def try_all(self) -> dict[str, Any]:
        """End the work everywhere, take it up, and tell what went wrong."""
        disk, watch = Disk(self.root), Watch(self.root)
        ends: list[tuple[str, set[str], Path]] = []
        sure: set[str] = set()
        seen: set[Any] = set()

        def step(event: tuple[str, str]) -> None:
            watch.step = nothing
            if event[0] == "synced":
                disk.synced(Path(event[1]))
            for kind in ("kill", "lazy", "eager"):
                state = self.root.with_name(f"{self.root.name}-{len(ends)}")
                disk.build(state, kind)
                kept = frozenset(() if kind == "eager" else sure)
                if (state_of(state), kept) in seen:
                    shutil.rmtree(state)
                    continue
                seen.add((state_of(state), kept))
                ends.append((f"{kind} before {event[0]} {Path(event[1]).name}", set(kept), state))
            watch.step = step

        def saved(names: set[str]) -> None:
            sure.clear()
            sure.update(names)

        watch.step = step
        self.work(saved)
        watch.step = nothing
        bad = []
        for told, kept, state in ends:
            shutil.rmtree(self.root)
            state.rename(self.root)
            bad += [f"{told}: {what}" for what in self.wrong(kept)]
        return {"points": len(ends), "bad": bad}

    def wrong(self, kept: set[str]) -> list[str]:
        """Take up what is there; what went wrong, where `kept` clips had been saved."""
        first: list[set[str]] = []
        try:
            if self.late:
                # Not everybody says --retry-failed twice; the cache must hold all the same.
                run(self.out, 2, NAMES, False, first.append)
                content_of(self.out)
            self.work(first.append)
            found = content_of(self.out)
        except (InputError, OSError, LookupError, ValueError) as error:
            return [f"{type(error).__name__}: {error}"]
        bad = [] if found == self.expected else ["other content"]
        if lost := kept - set().union(*first[:1]):
            bad.append(f"lost {sorted(lost)}")
        left = {path.name for path in self.out.parent.iterdir()} - {self.out.name}
        if self.out.is_dir():
            listed = {entry["name"] for entry in json.loads((self.out / "manifest.json").read_text())["files"]}
            left |= {path.name for path in self.out.iterdir()} ^ (listed | {"manifest.json"})
        if self.name != "pack" and left:  # beside a packed file there is no folder that could be swept
            bad.append(f"left {sorted(left)}")
        return bad


class Disk:
    """What of a folder is sure to be there after a power cut."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.contents: dict[int, bytes] = {}
        self.names: dict[int, dict[str, int]] = {}
        self._held: list[int] = []  # so that no number of a file is given to another
        for path in (root, *root.rglob("*")):
            self.synced(path)

    def synced(self, path: Path) -> None:
        handle = os.open(path, os.O_RDONLY)
        self._held.append(handle)
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            self.names[status.st_ino] = {item.name: item.stat().st_ino for item in path.iterdir()}
        else:
            self.contents[status.st_ino] = os.pread(handle, status.st_size, 0)

    def build(self, target: Path, kind: str) -> None:
        """Make the folder anew as it is found after such an end."""
        if kind == "lazy":
            self._build(target, self.root.stat().st_ino)
            return
        shutil.copytree(self.root, target)
        for path in target.rglob("*") if kind == "eager" else ():
            if path.is_file():
                origin = self.root / path.relative_to(target)
                path.write_bytes(self.contents.get(origin.stat().st_ino, b""))

    def _build(self, target: Path, folder: int) -> None:
        target.mkdir(parents=True)
        for name, number in self.names.get(folder, {}).items():
            if number in self.contents:
                (target / name).write_bytes(self.contents[number])
            elif number in self.names or number in self._folders():
                self._build(target / name, number)
            else:
                (target / name).touch()

    def _folders(self) -> set[int]:
        return {path.stat().st_ino for path in self.root.rglob("*") if path.is_dir()}


def main(folder: Path) -> None:
    names = ("folder", "packed", "folder resumed", "packed resumed", "pack")
    json.dump({name: Scenario(folder.resolve(), name).try_all() for name in names}, sys.stdout, indent=1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
