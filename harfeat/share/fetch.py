"""One file from anywhere to the local disk: resumed where it broke, checked before it gets its name.

Bytes gather in `.NAME.<...>.part` beside the target. What a killed process left there is continued: the SHA-256
that is expected stands in the part's name, so a part never belongs to another file. Where no hash is known
beforehand, a note beside the part holds the size and the validator (ETag or date) that the server gave, and the
part is continued only where both are unchanged.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from harfeat.errors import InputError

ATTEMPTS = 6
"""Connections in a row that bring next to nothing before a transfer is given up."""

_WORTH = 64 << 10
"""Bytes after which a connection counts as one that brought something."""

_BLOCK = 1 << 20
_LONGEST_PAUSE = 20.0

Progress = Callable[[int], None]
"""Called with the number of bytes that came in; a negative number where a part was thrown away."""


class TransferError(InputError):
    """A remote side that does not give what is asked: not there, not allowed, out of reach."""


class MissingError(TransferError):
    """The remote side answers, and says that there is no such file."""


class ContentError(InputError):
    """Bytes that came, but are not those that were promised."""


class BrokenError(Exception):
    """A transfer that broke off and may be tried again; the text says how."""


class StoppedError(Exception):
    """The transfer was told to stop, since another one failed or the user interrupted."""


@dataclass(frozen=True)
class Answer:
    """What a source sends: `blocks` from byte `start` on, of a file of `total` bytes (None: not told).

    `validator` names this version of the file, so that a later request can ask for the rest of the same one.
    """

    start: int
    total: int | None
    validator: str | None
    blocks: Iterator[bytes]


class Source(Protocol):
    """A remote file. `open` raises TransferError where it is final, BrokenError where another attempt may help."""

    @property
    def name(self) -> str:
        """The address, as errors show it."""

    def open(self, start: int, validator: str | None) -> Answer:
        """Ask for the bytes from `start` on, or for all if the version is no longer `validator`."""


@dataclass(frozen=True)
class Expected:
    """What is known of a file before it comes."""

    bytes: int | None = None
    sha256: str | None = None


def fetch(
    source: Source,
    target: Path,
    expected: Expected,
    *,
    limit: int,
    progress: Progress = lambda count: None,
    stop: threading.Event | None = None,
    pause: float = 0.5,
) -> str:
    """Bring a file to `target`, whole and checked, and return its SHA-256.

    At most `limit` bytes are taken. After a broken connection the rest is asked for, `pause` seconds later at
    first and twice as long each time, until `ATTEMPTS` in a row brought nothing.

    Raises:
        TransferError: the remote side does not give it.
        ContentError: it is larger than promised, or its hash is wrong; the part is removed.
        InputError: the disk does not take it.
        StoppedError: `stop` was set; the part stays.
    """
    part = target.with_name(f".{target.name}.{(expected.sha256 or 'unknown')[:16]}.part")
    note = part.with_name(f"{part.name}.json")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("a+b") as stream:
            digest = _Transfer(source, stream, note, expected, limit, progress, stop).run(pause)
            stream.flush()
            os.fsync(stream.fileno())
        if expected.sha256 not in (None, digest):
            part.unlink()
            raise ContentError(
                f"{source.name}: SHA-256 is {digest[:16]}..., promised was {str(expected.sha256)[:16]}...: "
                "what came is removed; try again, and if it repeats, tell whoever published it"
            )
        part.replace(target)
        note.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror or error})") from error
    except ContentError:
        part.unlink(missing_ok=True)
        note.unlink(missing_ok=True)
        raise
    return digest


def read_small(source: Source, limit: int) -> bytes:
    """A whole remote file in memory; errors as of `fetch`."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "file"
        fetch(source, target, Expected(), limit=limit)
        return target.read_bytes()


@dataclass
class _Transfer:
    source: Source
    stream: IO[bytes]
    note: Path
    expected: Expected
    limit: int
    progress: Progress
    stop: threading.Event | None

    def run(self, pause: float) -> str:
        """Fill the part until the file is whole; returns its SHA-256."""
        self.total = self.expected.bytes
        self.validator: str | None = None
        self._take_up()
        failures = 0
        while self.total is None or self.have < self.total:
            before = self.have
            try:
                self._receive()
                if self.total is None or self.have >= self.total:
                    break
                raise BrokenError(f"the connection ended after {self.have:,} of {self.total:,} bytes")
            except BrokenError as error:
                failures = 0 if self.have - before >= _WORTH else failures + 1
                if failures >= ATTEMPTS:
                    raise TransferError(
                        f"{self.source.name}: {error}; given up after {failures} attempts"
                    ) from error
                self._wait(min(pause * 2 ** max(failures - 1, 0), _LONGEST_PAUSE))
        return self.digest.hexdigest()

    def _take_up(self) -> None:
        """Go on from what an earlier process left, where it is certain to belong to the same file."""
        if self.expected.sha256 is None:
            known = _read_note(self.note)
            self.validator = known.get("validator")
            if self.expected.bytes is None:
                self.total = known.get("total")
            if self.validator is None:
                self.total = self.expected.bytes
                self.stream.truncate(0)
        self.digest = hashlib.sha256()
        self.have = 0
        self.stream.seek(0)
        while block := self.stream.read(_BLOCK):
            self.digest.update(block)
            self.have += len(block)
        if self.total is not None and self.have > self.total:
            self._start_over()
        else:
            self.progress(self.have)

    def _receive(self) -> None:
        answer = self.source.open(self.have, self.validator)
        if self.have and (answer.start != self.have or answer.total not in (None, self.total)):
            self._start_over()
            if answer.start:
                raise BrokenError("the file changed while it was fetched")
            if self.expected.bytes is None:
                self.total = None
        if self.total is None:
            self.total = answer.total
        elif answer.total not in (None, self.total):
            raise ContentError(f"{self.source.name}: is of {answer.total:,} bytes, promised were {self.total:,}")
        self.validator = answer.validator
        self._check_size(self.total or 0)
        if self.expected.sha256 is None:
            self.note.write_text(json.dumps({"total": self.total, "validator": self.validator}))
        with closing(_closable(answer.blocks)) as blocks:
            for block in blocks:
                self._check_size(self.have + len(block))
                self.stream.write(block)
                self.digest.update(block)
                self.have += len(block)
                self.progress(len(block))
                self._check_stop()

    def _start_over(self) -> None:
        self.progress(-self.have)
        self.stream.truncate(0)
        self.digest, self.have = hashlib.sha256(), 0

    def _check_size(self, size: int) -> None:
        bound = self.limit if self.total is None else min(self.limit, self.total)
        if size > bound:
            raise ContentError(f"{self.source.name}: larger than the {bound:,} bytes it may have: not fetched")

    def _check_stop(self) -> None:
        if self.stop is not None and self.stop.is_set():
            raise StoppedError

    def _wait(self, seconds: float) -> None:
        if self.stop is None:
            time.sleep(seconds)
        elif self.stop.wait(seconds):
            raise StoppedError


def _closable(blocks: Iterator[bytes]) -> Any:
    """The blocks as a generator, which closes the connection when it is closed."""
    yield from blocks


def _read_note(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(fields, dict) or not isinstance(fields.get("validator"), str):
        return {}
    return fields if isinstance(fields.get("total"), int) else {}
