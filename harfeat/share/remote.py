"""Where folders are shared: the few things that push and pull ask of any store, whatever the files are."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from harfeat.errors import InputError
from harfeat.share.fetch import Progress, Source

DATASET, MODEL = "dataset", "model"
"""The kinds of repositories on the Hub, as it calls them."""

_MODELS = "hf://models/"


class Entry(Protocol):
    """What a manifest says of a file: its name, also `folder/name`, its size in bytes and its SHA-256 in hex."""

    @property
    def name(self) -> str: ...
    @property
    def bytes(self) -> int: ...
    @property
    def sha256(self) -> str: ...


@dataclass(frozen=True)
class Outgoing:
    """A local file that is to be sent, and what the manifest says of it."""

    path: Path
    entry: Entry


@dataclass(frozen=True)
class Publication:
    """What one push changes: files first, then texts (card, Croissant), then the manifest, then removals.

    `withdraw` says that a file is replaced under its name: the old manifest has to go before, so that no reader
    sees one whose files are not there. `draft`, where given, makes a manifest that says it is not complete of the
    files that are there so far, `kept` and those that were sent since: it stands in the manifest's place until the
    end, so that another push need not send them again. `private` is for the Hub: who may see a repository that is
    made by this push; `message` tells the commit.
    """

    files: Sequence[Outgoing]
    texts: Mapping[str, bytes]
    manifest: bytes
    withdraw: bool = False
    remove: Sequence[str] = ()
    private: bool = False
    kept: Sequence[Entry] = ()
    draft: Callable[[Sequence[Entry]], bytes] | None = None
    message: str = ""


class Remote(Protocol):
    """A folder in some store."""

    @property
    def url(self) -> str:
        """The address, as errors show it."""

    def source(self, name: str) -> Source:
        """A file of the folder, to be fetched."""

    def present(self, entries: Iterable[Entry]) -> dict[str, tuple[int, str | None]]:
        """Those of the files that are there: name to size, and SHA-256 where the store itself knows it."""

    def publish(self, change: Publication, workers: int, progress: Progress, stop: threading.Event) -> None:
        """Carry out a push; raises InputError."""


def address(url: str) -> str:
    """One name for a place, from wherever it is named: a path, also as file://, made absolute; hf://, not hf://models/.

    Raises InputError where there is none.
    """
    if not url.strip():
        raise InputError("the address is empty: name a path, s3://, gcs://, hf:// or another")
    if url.startswith(_MODELS):
        url = "hf://" + url[len(_MODELS) :]
    path = url.removeprefix("file://")
    return url.rstrip("/") if "://" in path else os.path.abspath(os.path.expanduser(path))


def open_remote(url: str, repository: str = DATASET) -> Remote:
    """The folder at an address: hf://, http(s)://, or any other that fsspec knows, also a path.

    On the Hub it is in a `repository` of that kind, DATASET or MODEL.

    Raises:
        InputError: no such kind of address, or the package for it is not installed.
    """
    # Each store's library takes its time to import; only the one that is asked for is.
    if url.startswith("hf://"):
        from harfeat.share.hub import HubRemote  # noqa: PLC0415

        return HubRemote.of(url, repository)
    if url.startswith(("http://", "https://")):
        from harfeat.share.web import WebRemote  # noqa: PLC0415

        return WebRemote(url.rstrip("/"))
    from harfeat.share.store import StoreRemote  # noqa: PLC0415

    return StoreRemote.of(url)


@contextmanager
def progress_bar(label: str, total: int, show: bool) -> Iterator[Progress]:
    """A bar over bytes on standard error, where `show`; yields what advances it, from any thread."""
    with tqdm(desc=label, total=total, unit="B", unit_scale=True, unit_divisor=1024, disable=not show) as bar:
        lock = threading.Lock()

        def advance(count: int) -> None:
            with lock:
                bar.update(count)

        yield advance


def require_workers(workers: int) -> None:
    """Raise InputError where nobody would work."""
    if workers < 1:
        raise InputError(f"--workers {workers}: at least one is needed")


def in_parallel(jobs: Sequence[Callable[[], None]], workers: int, stop: threading.Event) -> None:
    """Run jobs in threads; the first error, or Ctrl-C, sets `stop`, which jobs are to heed, and is raised."""
    require_workers(workers)
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
