"""Receive: a shared folder into the local one, every file checked against the manifest before it gets its name."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock
import platformdirs

from harfeat.cache.manifest import MANIFEST
from harfeat.cache.writer import atomic_path
from harfeat.errors import InputError
from harfeat.hashing import sha256_of_file
from harfeat.share.fetch import Expected, MissingError, Progress, fetch, read_small
from harfeat.share.kinds import Kind, Listing
from harfeat.share.publish import WORKERS
from harfeat.share.remote import Entry, Remote, address, in_parallel, progress_bar

_ORIGIN = ".harfeat-pull"
_LOCK = ".harfeat-pull.lock"
_STAGE = ".harfeat-pull.new"
_TEXT_LIMIT = 16 << 20
_SPARE = 64 << 20
"""Bytes that are left free on the disk."""

Check = Callable[[Path], Path]
"""Looks at a folder whose files are all there: is it what its manifest says? Returns the path, within the folder,
to give to the user; raises InputError."""


@dataclass(frozen=True)
class Pulled:
    """What a pull did. `path` is what to give to harvib: a packed file, a folder of shards, or that of a model."""

    path: Path
    files: int
    bytes: int
    fetched_files: int
    fetched_bytes: int


def cache_folder() -> Path:
    """Where what is pulled goes, a folder each: HARFEAT_CACHE, or `harfeat` in the user's cache folder."""
    named = os.environ.get("HARFEAT_CACHE")
    return Path(named) if named else platformdirs.user_cache_path("harfeat", appauthor=False)


def folder_of(url: str) -> Path:
    """The folder in the local cache that belongs to an address: its last word and a hash of the whole."""
    url = address(url)
    words = re.findall(r"[A-Za-z0-9_.-]*[A-Za-z0-9]", re.split("[?@]", url)[0])
    return cache_folder() / f"{words[-1] if words else 'cache'}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"


def receive(
    kind: Kind, url: str, to: Path | None, check: Check, *, workers: int = WORKERS, show: bool = False
) -> Pulled:
    """Bring a folder that was pushed to `to`, or to its place in the local cache; the same call resumes.

    Files that are there with the right hash are not fetched again. `show` draws a progress bar over the bytes.
    Raises InputError: there is no whole folder of this kind at `url`, it is out of reach, a file is not what the
    manifest promises, the disk has no room, `to` holds something else, or `check` refuses what came.
    """
    url = address(url)
    remote = kind.open(url)
    text, listing = _listing(kind, remote)
    files = [entry for entry in listing.files if kind.takes(entry.name)]
    folder = folder_of(url) if to is None else to
    with _held(folder):
        here = {entry.name for entry in files if _is_there(folder / entry.name, entry)}
        before = _bytes_of(folder / MANIFEST)
        old = _parsed(kind, before)
        strays = _strays(kind, folder, (*files, *(old.files if old else ())), files)
        _check_place(kind, folder, url, text, [*(e.name for e in files if e.name not in here), *strays])
        fresh = len(here) < len(files) or before != text
        place = folder / _STAGE if kind.staged and fresh else folder
        there = {e.name for e in files if place != folder and _is_there(place / e.name, e)}
        missing = [entry for entry in files if entry.name not in here | there]
        _check_room(place, missing)
        if missing and place == folder:
            # While a file is replaced under its name, the old manifest would not be true.
            (folder / MANIFEST).unlink(missing_ok=True)
        stop = threading.Event()
        with progress_bar("pull", sum(entry.bytes for entry in missing), show) as progress:
            in_parallel([_job(remote, place, entry, progress, stop) for entry in missing], workers, stop)
        for leftover in _leftovers(place, folder, files):
            leftover.unlink()  # of files that the publisher has replaced since
        if fresh:
            _link(folder, place, here)
            _write_texts(kind, remote, place, text)
        try:
            path = check(place)
        except ValueError:
            if place != folder:
                shutil.rmtree(place)
            for name in (MANIFEST, *kind.texts) if fresh and place == folder else ():
                (folder / name).unlink(missing_ok=True)
            raise
        if place != folder:
            _install(place, folder, strays if old is None or old.identity != listing.identity else ())
    return Pulled(
        folder / path,
        len(files),
        sum(entry.bytes for entry in files),
        len(missing),
        sum(entry.bytes for entry in missing),
    )


def _listing(kind: Kind, remote: Remote) -> tuple[bytes, Listing]:
    found, pushed = kind.listing(remote), f"`{kind.program} push`"
    if found is None:
        raise InputError(
            f"{remote.url}: no {MANIFEST} there: give a folder that {pushed} wrote, or wait for the push to end"
        )
    if not found[1].complete:
        raise InputError(
            f"{remote.url}: the {kind.noun} there is not complete: ask whoever published it to finish it"
        )
    # Windows and macOS do not tell cases.
    names = [entry.name.lower() for entry in found[1].files]
    if len(set(names)) != len(names):
        raise InputError(f"{remote.source(MANIFEST).name}: lists a file twice: do not trust it")
    return found


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


def _check_place(kind: Kind, folder: Path, url: str, text: bytes, replaced: Sequence[str]) -> None:
    """Refuse to pull over what did not come from this address; then note where it comes from.

    `replaced` are the names of files that would be written or removed.
    """
    origin, manifest = folder / _ORIGIN, folder / MANIFEST
    if _bytes_of(origin) == url.encode():
        return
    if _bytes_of(manifest) not in (None, text):
        raise InputError(f"{folder}: holds a {kind.noun} from elsewhere: name another folder with --to")
    for name in replaced:
        if (folder / name).exists():
            raise InputError(f"{folder}: holds a {name} that is not from there: name another folder with --to")
    origin.write_bytes(url.encode())


def _folders(folder: Path, files: Iterable[Entry]) -> set[Path]:
    """The folders that hold these files."""
    return {folder, *((folder / entry.name).parent for entry in files)}


def _strays(kind: Kind, folder: Path, known: Iterable[Entry], files: Sequence[Entry]) -> list[str]:
    """Files that would be taken for the content's and are not of it, in the folders that it has and had."""
    listed = {entry.name for entry in files}
    found = (path for place in _folders(folder, known) for path in place.glob("*") if not path.is_dir())
    names = (path.relative_to(folder).as_posix() for path in found)
    return sorted(name for name in names if name not in listed and kind.owns(name))


def _parsed(kind: Kind, text: bytes | None) -> Listing | None:
    """What the manifest says that was here before; None where there was none, or not of this kind."""
    try:
        return None if text is None else kind.parse(text, MANIFEST)
    except ValueError:
        return None


def _parts(folder: Path, files: Iterable[Entry]) -> list[Path]:
    return [part for place in _folders(folder, files) for part in place.glob(".*.part")]


def _leftovers(place: Path, folder: Path, files: Sequence[Entry]) -> list[Path]:
    """What is left of earlier attempts; in a place that is nobody else's, all that is not listed."""
    if place == folder:
        return _parts(folder, files)
    listed = {place / entry.name for entry in files}
    return [path for path in place.rglob("*") if path.is_file() and path not in listed]


def _bytes_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _is_there(path: Path, entry: Entry) -> bool:
    return path.is_file() and path.stat().st_size == entry.bytes and sha256_of_file(path) == entry.sha256


def _check_room(folder: Path, missing: Sequence[Entry]) -> None:
    folder.mkdir(exist_ok=True)
    parts = sum(part.stat().st_size for part in _parts(folder, missing))
    needed, free = sum(entry.bytes for entry in missing) - parts + _SPARE, shutil.disk_usage(folder).free
    if missing and needed > free:
        raise InputError(
            f"{folder}: needs {needed:,} bytes, {free:,} are free: make room, or name another with --to"
        )


def _job(
    remote: Remote, folder: Path, entry: Entry, progress: Progress, stop: threading.Event
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


def _write_texts(kind: Kind, remote: Remote, folder: Path, manifest: bytes) -> None:
    """The texts for people, and the manifest last."""
    for name in kind.texts:
        try:
            text = read_small(remote.source(name), _TEXT_LIMIT)
        except MissingError:
            continue  # nothing relies on them, so a folder may lack them
        with atomic_path(folder / name) as temporary:
            temporary.write_bytes(text)
    with atomic_path(folder / MANIFEST) as temporary:
        temporary.write_bytes(manifest)


def _link(folder: Path, place: Path, names: Iterable[str]) -> None:
    """Let files of the folder stand in another place too."""
    for name in names if place != folder else ():
        target = place / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(folder / name, target)
        except OSError:  # not on every file system
            shutil.copyfile(folder / name, target)


def _install(place: Path, folder: Path, strays: Iterable[str]) -> None:
    """Give the files of `place` their names in the folder, the manifest last."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for name in strays:
        (folder / name).unlink()
    found = [path for path in place.rglob("*") if path.is_file() and path.name != MANIFEST]
    for path in (*found, place / MANIFEST):
        target = folder / path.relative_to(place)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    shutil.rmtree(place)
