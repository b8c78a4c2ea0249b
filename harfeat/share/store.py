"""A folder in any store that fsspec knows: a local path, file://, s3://, gcs://, memory://, and so on."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.callbacks import Callback
from fsspec.implementations.local import LocalFileSystem

from harfeat.cache.manifest import MANIFEST
from harfeat.errors import InputError
from harfeat.share.fetch import Answer, BrokenError, MissingError, Progress, Source, StoppedError, TransferError
from harfeat.share.remote import Entry, Outgoing, Publication, in_parallel

_EXTRAS = {"s3": "s3", "s3a": "s3", "gcs": "gcs", "gs": "gcs"}
_FLAT = {*_EXTRAS, "abfs", "az"}
_BLOCK = 8 << 20

_FOREIGN_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
)
"""What the stores' libraries raise beside OSError; they are installed with the extras only."""


def store_errors() -> tuple[type[BaseException], ...]:
    """What a store that is out of reach or refuses may raise, of the libraries that are loaded by now."""
    found = [getattr(sys.modules[module], name) for module, name in _FOREIGN_ERRORS if module in sys.modules]
    return (OSError, asyncio.TimeoutError, *found)


def reason(error: BaseException) -> str:
    """An error of a store in one line."""
    text = (getattr(error, "strerror", None) or str(error)).strip()
    return text.splitlines()[0] if text else type(error).__name__


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn the errors of a store into one line of ours."""
    try:
        yield
    except FileNotFoundError as error:
        raise MissingError(f"{url}: not there") from error
    except PermissionError as error:
        raise TransferError(f"{url}: access refused ({reason(error)})") from error
    except store_errors() as error:
        raise TransferError(f"{url}: {reason(error)}") from error


@dataclass(frozen=True)
class StoreSource:
    """A file in a store, read by ranges."""

    fs: Any
    path: str
    name: str

    def open(self, start: int, validator: str | None) -> Answer:
        """Read from byte `start` on; the size is the store's, its ETag or date the validator."""
        try:
            info = self.fs.info(self.path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise MissingError(f"{self.name}: not there") from error
        except PermissionError as error:
            raise TransferError(f"{self.name}: access refused ({reason(error)})") from error
        except store_errors() as error:
            raise BrokenError(reason(error)) from error
        if info.get("type") != "file" or not isinstance(info.get("size"), int):
            raise TransferError(f"{self.name}: is no file")
        version = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified")
        current = None if version is None else str(version)
        begin = start if validator in (None, current) and start <= info["size"] else 0
        return Answer(begin, info["size"], current, self._blocks(begin, info["size"]))

    def _blocks(self, start: int, size: int) -> Iterator[bytes]:
        for begin in range(start, size, _BLOCK):
            end = min(begin + _BLOCK, size)
            try:
                block = self.fs.cat_file(self.path, start=begin, end=end)
            except store_errors() as error:
                raise BrokenError(reason(error)) from error
            yield block
            if len(block) != end - begin:
                raise BrokenError("the store gave less than was asked for")


@dataclass(frozen=True)
class StoreRemote:
    """A folder in a store."""

    url: str
    scheme: str
    fs: Any
    root: str

    @classmethod
    def of(cls, url: str) -> StoreRemote:
        """The folder at `url`; InputError where fsspec does not know its kind or lacks the package for it."""
        scheme = url.partition("://")[0] if "://" in url else "file"
        try:
            # Without a cache of listings: another process may write, and so do we.
            fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            extra = _EXTRAS.get(scheme)
            need = f"pip install 'harfeat[{extra}]'" if extra else str(error)
            raise InputError(f"{url}: needs a package that is not installed: {need}") from error
        except (ValueError, TypeError) as error:
            raise InputError(f"{url}: no address that can be opened ({reason(error)})") from error
        return cls(url.rstrip("/"), scheme, fs, root.rstrip("/"))

    def source(self, name: str) -> Source:
        """A file of the folder."""
        return StoreSource(self.fs, self._path(name), f"{self.url}/{name}")

    def present(self, entries: Iterable[Entry]) -> dict[str, tuple[int, str | None]]:
        """Sizes of the files that are there; stores of this kind know no SHA-256."""
        names = [entry.name for entry in entries]
        sizes: dict[str, int | None] = {}
        for folder in sorted(set(map(_folder_of, names))):
            with explained(self.url):
                try:
                    listing = self.fs.ls(self._path(folder).rstrip("/"), detail=True)
                except (FileNotFoundError, NotADirectoryError):
                    continue
            for info in listing:
                sizes[folder + info["name"].rstrip("/").rpartition("/")[2]] = info.get("size")
        return {name: (size, None) for name in names if (size := sizes.get(name)) is not None}

    def publish(self, change: Publication, workers: int, progress: Progress, stop: threading.Event) -> None:
        """Send the files side by side, each under its name only when it is whole; then the rest, in order."""
        with explained(self.url):
            # Object stores have no folders, and s3fs would make a bucket of a mistyped name.
            if self.scheme not in _FLAT:
                for folder in {"", *(_folder_of(item.entry.name) for item in change.files)}:
                    self.fs.makedirs(self._path(folder).rstrip("/"), exist_ok=True)
            if change.withdraw:
                self._remove(MANIFEST)
            log = _Log(change, self._write)
            log.begin()

        def job(item: Outgoing) -> Callable[[], None]:
            def run() -> None:
                self._send(item, progress, stop)
                with explained(f"{self.url}/{MANIFEST}"):
                    log.add(item.entry)

            return run

        in_parallel([job(item) for item in change.files], workers, stop)
        for item in change.files:
            with explained(f"{self.url}/{item.entry.name}"):
                size = self.fs.info(self._path(item.entry.name))["size"]
            if size != item.entry.bytes:
                raise TransferError(
                    f"{self.url}/{item.entry.name}: {size:,} of {item.entry.bytes:,} bytes arrived"
                )
        for name, text in (*change.texts.items(), (MANIFEST, change.manifest)):
            with explained(f"{self.url}/{name}"):
                self._write(name, text)
        for name in change.remove:
            with explained(f"{self.url}/{name}"):
                self._remove(name)

    def _send(self, item: Outgoing, progress: Progress, stop: threading.Event) -> None:
        if stop.is_set():
            raise StoppedError
        target = self._path(item.entry.name)
        with explained(f"{self.url}/{item.entry.name}"):
            if isinstance(self.fs, LocalFileSystem):
                with item.path.open("rb") as source:
                    _write_whole(Path(target), _metered(source, progress, stop))
            else:
                self.fs.put_file(str(item.path), target, callback=_Meter(progress, stop))

    def _write(self, name: str, text: bytes) -> None:
        if isinstance(self.fs, LocalFileSystem):
            _write_whole(Path(self._path(name)), iter([text]))
        else:
            self.fs.pipe_file(self._path(name), text)

    def _remove(self, name: str) -> None:
        if self.fs.exists(self._path(name)):
            self.fs.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"


class _Log:
    """Tells in the draft of a manifest, where the push has one, which files are there so far."""

    def __init__(self, change: Publication, write: Callable[[str, bytes], None]) -> None:
        self._draft, self._write = change.draft if change.files else None, write
        self._there, self._lock = list(change.kept), threading.Lock()

    def begin(self) -> None:
        """Before the first file is sent."""
        if self._draft is not None:
            self._write(MANIFEST, self._draft(self._there))

    def add(self, entry: Entry) -> None:
        """A file is there, whole; from any thread."""
        if self._draft is not None:
            with self._lock:
                self._there.append(entry)
                self._write(MANIFEST, self._draft(self._there))


def _folder_of(name: str) -> str:
    """The folder within the address that a file belongs to, as a prefix of its name."""
    head, slash, _ = name.rpartition("/")
    return head + slash


def _write_whole(path: Path, blocks: Iterator[bytes]) -> None:
    """A file on a file system, which would show it from its first byte on; object stores show whole objects."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as stream:
        for block in blocks:
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)


def _metered(source: IO[bytes], progress: Progress, stop: threading.Event) -> Iterator[bytes]:
    while block := source.read(_BLOCK):
        yield block
        progress(len(block))
        if stop.is_set():
            raise StoppedError


class _Meter(Callback):
    """Tells our progress what fsspec has sent, and breaks off where the push is to stop."""

    def __init__(self, progress: Progress, stop: threading.Event) -> None:
        super().__init__()
        self._progress, self._stop = progress, stop

    def relative_update(self, inc: int = 1) -> None:
        """`inc` more bytes are sent."""
        super().relative_update(inc)
        self._progress(inc)
        if self._stop.is_set():
            raise StoppedError

    def absolute_update(self, value: int) -> None:
        """`value` bytes are sent by now."""
        self._progress(value - self.value)
        super().absolute_update(value)
