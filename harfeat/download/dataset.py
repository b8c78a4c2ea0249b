"""Download a data set: fetch its official archives, unpack them, and check that extraction can read the result.

In DIR stand `archives/` (the archives, and state.json: what was fetched and unpacked) and a folder an archive.
Unpacking happens in a hidden folder that is renamed when it is complete, so whatever moment the command is killed
at, the same command goes on. An archive that a user puts into `archives/` by hand is taken like a fetched one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock

from harfeat.cache.writer import atomic_path
from harfeat.datasets import DatasetOptions, load_dataset
from harfeat.download.archives import ARCHIVES, Archive, DatasetArchives
from harfeat.download.rar_program import rar_command
from harfeat.download.unpack import unpack
from harfeat.errors import InputError
from harfeat.hashing import sha256_of_file
from harfeat.share.fetch import Expected, TransferError, fetch
from harfeat.share.http import HttpSource
from harfeat.share.remote import progress_bar


@dataclass(frozen=True)
class Downloaded:
    """What is there now: `root` and `splits` for `harfeat extract`, `hashes` of the archives this run used."""

    root: Path
    splits: Path | None
    clips: int
    notes: tuple[str, ...]
    hashes: dict[str, str]


@dataclass(frozen=True)
class _Record:
    """What state.json says of an archive that is unpacked."""

    bytes: int
    sha256: str
    files: int


def download(dataset: str, to: Path, base_url: str | None = None, *, show: bool = False) -> Downloaded:
    """Fetch and unpack the official archives of `dataset` into the folder `to`; the same call resumes.

    `base_url` names a mirror, a folder with the archives under their official names. `show` draws progress bars.

    Raises:
        InputError: an unknown data set, no program to unpack its archives, or an archive that is out of reach (the
            text says what to fetch by hand and where to put it), damaged or hostile; a disk that takes no more.
    """
    if dataset not in ARCHIVES:
        raise InputError(f"no archives are known of {dataset!r}; choose from {', '.join(ARCHIVES)}")
    known = ARCHIVES[dataset]
    hashes: dict[str, str] = {}
    with _held(to):
        state = _State(to / "archives" / "state.json")
        todo = [archive for archive in known.all if not state.is_done(archive, to)]
        if any(archive.name.endswith(".rar") for archive in todo):
            rar_command()
        for archive in todo:
            _refuse_foreign(to / archive.folder)
        for archive in todo:
            path = _bring(archive, known, to / "archives", base_url, show)
            hashes[archive.name] = sha256_of_file(path)
            _check_known(archive, path, hashes[archive.name])
            files = _unpack_into_place(archive, path, to)
            state.add(archive, _Record(path.stat().st_size, hashes[archive.name], files))
    splits = to / known.lists.folder if known.lists else None
    loaded = load_dataset(dataset, to / known.videos.folder, DatasetOptions(splits_dir=splits))
    return Downloaded(to / known.videos.folder, splits, len(loaded.clips), loaded.notes, hashes)


def _bring(archive: Archive, known: DatasetArchives, folder: Path, base_url: str | None, show: bool) -> Path:
    """The archive on the local disk: the one that is there, or fetched."""
    path = folder / archive.name
    if path.exists():
        return path
    url = archive.url if base_url is None else f"{base_url.rstrip('/')}/{archive.name}"
    try:
        with progress_bar(archive.name, archive.bytes or 0, show) as progress:
            expected = Expected(archive.bytes, archive.sha256)
            fetch(HttpSource(url), path, expected, limit=archive.limit, progress=progress)
    except TransferError as error:
        raise InputError(
            f"{error}; fetch {archive.name} by hand (the authors' page is {known.page}), "
            f"put it into {folder}, and repeat this command"
        ) from error
    return path


def _check_known(archive: Archive, path: Path, digest: str) -> None:
    """Refuse what is not the official archive, where its hash is known; what a user put there may be another."""
    if archive.sha256 not in (None, digest):
        raise InputError(
            f"{path}: SHA-256 is {digest[:16]}..., the official archive's is {str(archive.sha256)[:16]}...: "
            "remove it, or read what it unpacks to with `harfeat extract`"
        )


def _unpack_into_place(archive: Archive, path: Path, to: Path) -> int:
    """Unpack, and rename the result to its folder when it is complete; returns the number of files."""
    work = to / ".unpacking"
    shutil.rmtree(work, ignore_errors=True)
    try:
        unpacked = work / "outer"
        files = unpack(path, unpacked, archive.limit)
        if archive.nested:
            unpacked, files = _unpack_nested(path, unpacked, work, archive.limit)
        inner = unpacked / archive.folder
        (inner if inner.is_dir() else unpacked).replace(to / archive.folder)
    except OSError as error:
        raise InputError(f"{to}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return files


def _unpack_nested(path: Path, outer: Path, work: Path, limit: int) -> tuple[Path, int]:
    inner = sorted(outer.rglob("*.rar"))
    if not inner:
        raise InputError(f"{path}: holds no archive a class, as it should: not the official one")
    joined, files = work / "joined", 0
    joined.mkdir()
    for number, archive in enumerate(inner):
        single = work / f"class-{number}"
        files += unpack(archive, single, limit)
        for item in single.iterdir():
            if (joined / item.name).exists():
                raise InputError(f"{path}: two of its archives hold {item.name!a}: not the official one")
            item.replace(joined / item.name)
        archive.unlink()
    return joined, files


def _refuse_foreign(folder: Path) -> None:
    if folder.exists():
        raise InputError(
            f"{folder}: is there, but this command did not make it: `harfeat extract --root` reads it as it is; "
            "move it away to have it made anew"
        )


class _State:
    """Which archives are unpacked, in a small JSON file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records: dict[str, Any] = {}
        if path.exists():
            try:
                self._records = dict(json.loads(path.read_text()))
            except (OSError, ValueError, TypeError) as error:
                raise InputError(f"{path}: cannot be read ({error}): remove it") from error

    def is_done(self, archive: Archive, to: Path) -> bool:
        return archive.name in self._records and (to / archive.folder).is_dir()

    def add(self, archive: Archive, record: _Record) -> None:
        self._records[archive.name] = asdict(record)
        with atomic_path(self._path) as temporary:
            temporary.write_text(json.dumps(self._records, indent=1, sort_keys=True) + "\n")


@contextmanager
def _held(to: Path) -> Iterator[None]:
    try:
        (to / "archives").mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(to / "archives" / ".lock", timeout=0):
            yield
    except filelock.Timeout as error:
        raise InputError(f"{to}: another download is at work there; wait for it") from error
    except OSError as error:
        raise InputError(f"{to}: cannot be written ({error.strerror or error})") from error
