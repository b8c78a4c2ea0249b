"""Where folders are shared: the few things that push and pull ask of any store."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harfeat.cache.manifest import FileEntry
from harfeat.errors import InputError
from harfeat.share.fetch import Progress, Source


@dataclass(frozen=True)
class Outgoing:
    """A local file that is to be sent, and what the manifest says of it."""

    path: Path
    entry: FileEntry


@dataclass(frozen=True)
class Publication:
    """What one push changes: files first, then texts (card, Croissant), then the manifest, then removals.

    `withdraw` says that a file is replaced under its name: the old manifest has to go before, so that no reader
    sees one whose files are not there. `private` is for the Hub: who may see a data set that is made by this push.
    """

    files: Sequence[Outgoing]
    texts: Mapping[str, bytes]
    manifest: bytes
    withdraw: bool = False
    remove: Sequence[str] = ()
    private: bool = False


class Remote(Protocol):
    """A folder in some store."""

    @property
    def url(self) -> str:
        """The address, as errors show it."""

    def source(self, name: str) -> Source:
        """A file of the folder, to be fetched."""

    def present(self, entries: Iterable[FileEntry]) -> dict[str, tuple[int, str | None]]:
        """Those of the files that are there: name to size, and SHA-256 where the store itself knows it."""

    def publish(self, change: Publication, workers: int, progress: Progress, stop: threading.Event) -> None:
        """Carry out a push; raises InputError."""


def address(url: str) -> str:
    """One name for a place, from wherever it is named: a path, also as file://, made absolute.

    Raises InputError where there is none.
    """
    if not url.strip():
        raise InputError("the address is empty: name a path, s3://, gcs://, hf:// or another")
    path = url.removeprefix("file://")
    return url.rstrip("/") if "://" in path else os.path.abspath(os.path.expanduser(path))


def open_remote(url: str) -> Remote:
    """The folder at an address: `hf://datasets/...`, http(s)://, or any other that fsspec knows, also a path.

    Raises:
        InputError: no such kind of address, or the package for it is not installed.
    """
    # Each store's library takes its time to import; only the one that is asked for is.
    if url.startswith("hf://"):
        from harfeat.share.hub import HubRemote  # noqa: PLC0415

        return HubRemote.of(url)
    if url.startswith(("http://", "https://")):
        from harfeat.share.web import WebRemote  # noqa: PLC0415

        return WebRemote(url.rstrip("/"))
    from harfeat.share.store import StoreRemote  # noqa: PLC0415

    return StoreRemote.of(url)


def in_parallel(jobs: Sequence[Callable[[], None]], workers: int, stop: threading.Event) -> None:
    """Run jobs in threads; the first error, or Ctrl-C, sets `stop`, which jobs are to heed, and is raised."""
    if workers < 1:
        raise InputError(f"--workers {workers}: at least one is needed")
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            if not all(future.done() and future.exception() is None for future in futures):
                stop.set()
            for future in futures:
                future.cancel()
    failed = [error for future in futures if not future.cancelled() and (error := future.exception())]
    # Those that were told to stop raise, too; the one that made them stop is of interest.
    first = next((error for error in failed if isinstance(error, InputError)), next(iter(failed), None))
    if first is not None:
        raise first
