"""Access to an HDF5 file that somebody else may have written: whatever is wrong with it becomes a CacheError.

Nothing is read before its type is known, and nothing is allocated that the file does not hold.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from harfeat.cache import guard, plain
from harfeat.cache.fingerprint import canonical_json
from harfeat.cache.schema import CacheError

_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)
"""What h5py raises on bytes that make no sense."""

_UNREADABLE = "{}: not a readable HDF5 file (damaged, cut short or foreign)"

_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}
"""Those that h5py always has; HDF5 would look for plugins of others, which are programs."""

_DEFLATE_LIMIT = 1100
"""No built-in filter of HDF5 packs tighter than this."""


class UntrustedFile:
    """An open HDF5 file whose parts are fetched by key and checked; `path` is what errors name.

    A file in another form than caches are written in is tried in a process of its own first, unless `guarded` is
    False.
    """

    def __init__(self, path: Path, guarded: bool = True) -> None:
        self.path = path
        self._descriptor, self._bytes, self._file = _open(path, guarded)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def read_into(self, values: np.ndarray, place: int) -> None:
        """Fill `values` with the bytes at `place`, without HDF5."""
        if values.nbytes and os.preadv(self._descriptor, [values.data], place) != values.nbytes:
            raise CacheError(f"{self.path}: ends too early: it was cut short while it was open")

    def place(self, key: str) -> int | None:
        """Where a data set's values lie in the file, if they do so in one piece and unpacked."""
        with self.blaming(key):
            item = self.dataset(key)
            if item.id.get_create_plist().get_layout() != h5py.h5d.CONTIGUOUS:
                return None
            place = item.id.get_offset()
            if item.nbytes == 0:
                return 0
            return int(place) if place is not None and 0 <= place <= self._bytes - item.nbytes else None

    @contextmanager
    def blaming(self, key: str) -> Iterator[None]:
        """Whatever h5py raises in this block becomes a CacheError that names `key`."""
        try:
            yield
        except CacheError:
            raise
        except _DAMAGE as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CacheError(f"{self.path}: {key} cannot be read, the file is damaged ({reason})") from error

    def refuse_links(self) -> None:
        """Raise CacheError for anything that shows data from elsewhere, or a group that holds itself.

        External links, soft links, virtual and external datasets can show other files of the reader.
        """
        with self.blaming("the table of contents"):
            self._refuse_links(self._file, {h5py.h5o.get_info(self._file.id).addr})

    def text_attribute(self, key: str, owner: str = "/", default: str | None = None) -> str:
        """An attribute that is one utf-8 text."""
        value = self._attribute(key, owner, default)
        if isinstance(value, bytes):
            with self.blaming(_at(owner, key)):
                value = value.decode()
        if not isinstance(value, str):
            raise CacheError(f"{self.path}: attribute {_at(owner, key)} is missing or no text")
        with self.blaming(_at(owner, key)):
            value.encode()  # h5py lets broken utf-8 through as surrogates
        return str(value)

    def int_attribute(self, key: str, owner: str = "/", default: int | None = None) -> int:
        """An attribute that is one integer."""
        value = self._attribute(key, owner, default)
        if not isinstance(value, (int, np.integer)):
            raise CacheError(f"{self.path}: attribute {_at(owner, key)} is missing or no integer")
        return int(value)

    def has_attribute(self, key: str, owner: str) -> bool:
        """Whether there is such an attribute."""
        with self.blaming(_at(owner, key)):
            return key in self._file[owner].attrs

    def json_attribute(self, key: str) -> dict[str, Any]:
        """An attribute that is a JSON object, without NaN and infinity."""
        text = self.text_attribute(key)
        try:
            value = json.loads(text)
            canonical_json(value)
        except (ValueError, RecursionError) as error:
            raise CacheError(f"{self.path}: attribute {key} is not JSON") from error
        if not isinstance(value, dict):
            raise CacheError(f"{self.path}: attribute {key} is not a JSON object")
        return value

    def dataset(self, key: str) -> h5py.Dataset:
        """A dataset by key, all of whose values are in the file."""
        with self.blaming(key):
            group = self._group_of(key)
            item = group.get(key.rpartition("/")[2]) if group is not None else None
            if not isinstance(item, h5py.Dataset):
                raise CacheError(f"{self.path}: {key} is missing: file damaged or not a complete cache")
            stored = item.id.get_storage_size()
            plist = item.id.get_create_plist()
            filters = [plist.get_filter(number)[0] for number in range(plist.get_nfilters())]
            if foreign := set(filters) - _FILTERS:
                raise CacheError(f"{self.path}: {key} is packed by filter {min(foreign)}, which only plugins have")
            if stored > self._bytes or item.nbytes > stored * (_DEFLATE_LIMIT if filters else 1):
                raise CacheError(f"{self.path}: {key} {item.shape} claims more values than the file holds")
        return item

    def has(self, key: str) -> bool:
        """Whether something stands at `key`."""
        with self.blaming(key):
            group = self._group_of(key)
            return group is not None and key.rpartition("/")[2] in group

    def array(self, key: str, kind: str, shape: tuple[int, ...]) -> np.ndarray:
        """A dataset of this kind of numbers (`i`, `u`, `f`) and shape, read whole."""
        item = self.dataset(key)
        with self.blaming(key):
            if item.dtype.kind != kind or item.shape != shape:
                raise CacheError(
                    f"{self.path}: {key} is {item.dtype} {item.shape}, expected {shape} of kind {kind!r}"
                )
            return np.asarray(item[...])

    def text(self, key: str, count: int | None = None) -> tuple[str, ...]:
        """A column of utf-8 text of fixed width, `count` rows where given."""
        item = self.dataset(key)
        with self.blaming(key):
            kind = h5py.check_string_dtype(item.dtype)
            # HDF5 can hang in a damaged heap of variable texts.
            if kind is None or kind.length is None or item.ndim != 1:
                raise CacheError(f"{self.path}: {key} is {item.dtype}, expected a column of text of fixed width")
            if count is not None and len(item) != count:
                raise CacheError(f"{self.path}: {key} has {len(item)} rows, expected {count}")
            try:
                return tuple(str(value) for value in item.asstr()[...].tolist())
            except UnicodeDecodeError as error:
                raise CacheError(f"{self.path}: {key} is not utf-8") from error

    def children(self, key: str) -> tuple[str, ...]:
        """Names of what a group holds."""
        with self.blaming(key):
            item = self._file.get(key)
            if not isinstance(item, h5py.Group):
                raise CacheError(f"{self.path}: group {key} is missing: file damaged or not a complete cache")
            names = tuple(item.keys())
            if not all(isinstance(name, str) for name in names):
                raise CacheError(f"{self.path}: a name in group {key} is not utf-8")
            for name in names:
                name.encode()
            return names

    def _group_of(self, key: str) -> h5py.Group | None:
        """The group that holds `key`; None where there is none, or something else in its place."""
        item: Any = self._file
        for step in key.split("/")[:-1]:
            item = item.get(step) if isinstance(item, h5py.Group) else None
        return item if isinstance(item, h5py.Group) else None

    def _attribute(self, key: str, owner: str, default: object) -> Any:
        with self.blaming(_at(owner, key)):
            attributes = self._file[owner].attrs
            if key not in attributes:
                return default
            identity = attributes.get_id(key)
            text = h5py.check_string_dtype(identity.dtype)
            # An array could claim any size; every attribute of a cache is one value, text of fixed width.
            plain = identity.dtype.kind in "iu" or (text is not None and text.length is not None)
            return attributes[key] if identity.shape == () and plain else None

    def _refuse_links(self, group: h5py.Group, seen: set[Any]) -> None:
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                where = f"{group.name.rstrip('/')}/{name}"
                raise CacheError(f"{self.path}: {where} is a link, which no cache holds: do not trust it")
            item = group[name]
            if isinstance(item, h5py.Group):
                address = h5py.h5o.get_info(item.id).addr
                if address in seen:
                    raise CacheError(f"{self.path}: group {item.name} stands in two places: do not trust it")
                seen.add(address)
                self._refuse_links(item, seen)
            elif not isinstance(item, h5py.Dataset) or item.is_virtual or item.external:
                raise CacheError(f"{self.path}: {item.name} stores its data outside of the file: do not trust it")


def _at(owner: str, key: str) -> str:
    return key if owner == "/" else f"{owner}@{key}"


def _open(path: Path, guarded: bool) -> tuple[int, int, h5py.File]:
    """File descriptor, size in bytes, and the open file."""
    if path.is_dir():
        raise CacheError(f"{path}: is a folder, not a cache file")
    if not path.is_file():
        raise CacheError(f"{path}: no such file")
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise CacheError(f"{path}: cannot be opened ({error.strerror})") from error
    try:
        _require_signature(path, descriptor)
        if guarded and not _is_plain(path, descriptor):
            guard.require_harmless(path)
        return descriptor, os.fstat(descriptor).st_size, h5py.File(path, "r", locking=False)
    except CacheError:
        os.close(descriptor)
        raise
    except _DAMAGE as error:
        os.close(descriptor)
        raise CacheError(_UNREADABLE.format(path)) from error


def _require_signature(path: Path, descriptor: int) -> None:
    # HDF5 would look for it further on too; no cache begins with something else.
    if _bytes_at(descriptor, 0, len(plain.SIGNATURE)) != plain.SIGNATURE:
        raise CacheError(_UNREADABLE.format(path))


def _is_plain(path: Path, descriptor: int) -> bool:
    try:
        return plain.is_plain(lambda address, count: _bytes_at(descriptor, address, count))
    except plain.DamagedError as error:
        if str(error):
            raise CacheError(f"{path}: {error} cannot be read, the file is damaged (checksum)") from error
        raise CacheError(_UNREADABLE.format(path)) from error


def _bytes_at(descriptor: int, address: int, count: int) -> bytes:
    """The bytes at an address; none where there can be no such address."""
    if not 0 <= address < 1 << 62:
        return b""
    os.lseek(descriptor, address, os.SEEK_SET)
    return os.read(descriptor, count)
