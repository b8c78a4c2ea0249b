"""Pull: a shared folder into the local cache, every file checked against the manifest before it gets its name."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock
import platformdirs

from harfeat.cache import open_cache
from harfeat.cache.folder import is_packed
from harfeat.cache.manifest import MANIFEST, FileEntry, Manifest, parse_manifest
from harfeat.cache.writer import atomic_path
from harfeat.errors import InputError
from harfeat.hashing import sha256_of_file
from harfeat.share.fetch import Expected, MissingError, Progress, fetch, read_small
from harfeat.share.push import MANIFEST_LIMIT, WORKERS, progress_bar
from harfeat.share.remote import Remote, address, in_parallel, open_remote

_ORIGIN = ".harfeat-pull"
_LOCK = ".harfeat-pull.lock"
_TEXTS = ("README.md", "croissant.json")
_TEXT_LIMIT = 16 << 20
_SPARE = 64 << 20
"""Bytes that are left free on the disk."""


@dataclass(frozen=True)
class Pulled:
    """What a pull did. `path` is what to give to harvib: the packed file, or the folder of shards."""

    path: Path
    files: int
    bytes: int
    fetched_files: int
    fetched_bytes: int


def cache_folder() -> Path:
    """Where pulled caches go, a folder each: HARFEAT_CACHE, or `harfeat` in the user's cache folder."""
    named = os.environ.get("HARFEAT_CACHE")
    return Path(named) if named else platformdirs.user_cache_path("harfeat", appauthor=False)


def folder_of(url: str) -> Path:
    """The folder in the local cache that belongs to an address: its last word and a hash of the whole."""
    url = address(url)
    words = re.findall(r"[A-Za-z0-9_.-]*[A-Za-z0-9]", re.split("[?@]", url)[0])
    return cache_folder() / f"{words[-1] if words else 'cache'}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"


def pull(url: str, to: Path | None = None, *, workers: int = WORKERS, show: bool = False) -> Pulled:
    """Bring a folder that `push` wrote to `to`, or to its place in the local cache; the same call resumes.

    Files that are there with the right hash are not fetched again. `show` draws a progress bar over the bytes.

    Raises:
        InputError: there is no whole cache at `url`, it is out of reach, a file is not what the manifest promises,
            the disk has no room, or `to` holds something else.
    """
    url = address(url)
    remote = open_remote(url)
    text, manifest = _manifest(remote, url)
    folder = folder_of(url) if to is None else to
    with _held(folder):
        _check_place(folder, url, text)
        missing = [entry for entry in manifest.files if not _is_there(folder / entry.name, entry)]
        _check_room(folder, missing)
        if missing:
            # While a file is replaced under its name, the old manifest would not be true.
            (folder / MANIFEST).unlink(missing_ok=True)
        stop = threading.Event()
        with progress_bar("pull", sum(entry.bytes for entry in missing), show) as progress:
            in_parallel(
                [_job(remote, folder, entry, progress, stop) for entry in missing],
                workers,
                stop,
            )
        if missing or _bytes_of(folder / MANIFEST) != text:
            for name in _TEXTS:
                _fetch_text(remote, folder, name)
            with atomic_path(folder / MANIFEST) as temporary:
                temporary.write_bytes(text)
        for leftover in folder.glob(".*.part"):
            leftover.unlink()  # of files that the publisher has replaced since
        packed = manifest.of_kind("cache")
        path = folder / packed[0].name if packed else folder
        with open_cache(path) as cache:
            if cache.fingerprint != manifest.fingerprint:
                raise InputError(f"{url}: the manifest is of another cache than its files: tell who published it")
    return Pulled(
        path,
        len(manifest.files),
        sum(entry.bytes for entry in manifest.files),
        len(missing),
        sum(entry.bytes for entry in missing),
    )


def _manifest(remote: Remote, url: str) -> tuple[bytes, Manifest]:
    if url.partition("?")[0].endswith(".h5"):
        raise InputError(
            f"{url}: a single file, whose content nothing vouches for: give the address of the folder that "
            "`harfeat push` wrote, or fetch the file with another tool and run `harfeat info` on it"
        )
    source = remote.source(MANIFEST)
    try:
        text = read_small(source, MANIFEST_LIMIT)
    except MissingError as error:
        raise InputError(
            f"{url}: no {MANIFEST} there: give a folder that `harfeat push` wrote, or wait for the push to end"
        ) from error
    manifest = parse_manifest(text, source.name)
    if not manifest.complete:
        raise InputError(f"{url}: the cache there is not complete: ask whoever published it to finish it")
    # Any other name could take the place of the manifest, the card or a hidden file; Windows does not tell cases.
    names = [entry.name.lower() for entry in manifest.files]
    if len(set(names)) != len(names) or not all(is_packed(Path(name)) for name in names):
        raise InputError(f"{source.name}: lists files that are no part of a cache: do not trust it")
    if not names or len(manifest.of_kind("cache")) > 1 or (manifest.of_kind("cache") and len(names) > 1):
        raise InputError(f"{source.name}: lists neither one packed cache nor shards: file altered")
    return text, manifest


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The folder for this process alone; the system gives it back when the process dies."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / _LOCK, timeout=0):
            yield
    except filelock.Timeout as error:
        raise InputError(f"{folder}: another pull is at work there; wait for it") from error
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror or error})") from error


def _check_place(folder: Path, url: str, text: bytes) -> None:
    """Refuse to pull over a cache that did not come from this address; then note where it comes from."""
    origin, manifest = folder / _ORIGIN, folder / MANIFEST
    ours = _bytes_of(origin) == url.encode()
    if not ours and _bytes_of(manifest) not in (None, text):
        raise InputError(f"{folder}: holds a cache from elsewhere: name another folder with --to")
    if not ours:
        origin.write_bytes(url.encode())


def _bytes_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _is_there(path: Path, entry: FileEntry) -> bool:
    return path.is_file() and path.stat().st_size == entry.bytes and sha256_of_file(path) == entry.sha256


def _check_room(folder: Path, missing: list[FileEntry]) -> None:
    parts = sum(part.stat().st_size for part in folder.glob(".*.part"))
    needed, free = sum(entry.bytes for entry in missing) - parts + _SPARE, shutil.disk_usage(folder).free
    if missing and needed > free:
        raise InputError(
            f"{folder}: needs {needed:,} bytes, {free:,} are free: make room, or name another with --to"
        )


def _job(
    remote: Remote, folder: Path, entry: FileEntry, progress: Progress, stop: threading.Event
) -> Callable[[], None]:
    def run() -> None:
        fetch(
            remote.source(entry.name),
            folder / entry.name,
            Expected(entry.bytes, entry.sha256),
            limit=entry.bytes,
            progress=progress,
            stop=stop,
        )

    return run


def _fetch_text(remote: Remote, folder: Path, name: str) -> None:
    """The card and the metadata, for people; nothing relies on them, so a folder may lack them."""
    try:
        text = read_small(remote.source(name), _TEXT_LIMIT)
    except MissingError:
        return
    with atomic_path(folder / name) as temporary:
        temporary.write_bytes(text)
