"""The manifest of a folder of cache files: which files belong to it, and their hashes.

A folder is what extraction fills, what `harfeat push` writes and `harfeat pull` fetches:

    manifest.json                       this
    head-<hash>.h5                      classes, clips, splits, failures; no features (once extraction is complete)
    shard-<hash>.h5, ...                a few clips each, with their features
    NAME.h5                             or one packed cache in place of head and shards

A file stands under its name only when it is complete, synced and hashed; <hash> is the start of its SHA-256, so
that a file which a killed run wrote but no longer listed can be told from a damaged one. Shards never change.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harfeat.cache.fingerprint import canonical_json, fingerprint
from harfeat.cache.schema import CacheError, Failure
from harfeat.cache.writer import atomic_path

MANIFEST = "manifest.json"
_FORMAT, _VERSION = "harfeat-manifest", 1
_LIMIT = 256 << 20
"""Bytes of a manifest; a million shards take less."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=,@ -]{0,200}")
KINDS = ("shard", "head", "cache")


@dataclass(frozen=True)
class FileEntry:
    """One file of the folder: its plain name, size in bytes, SHA-256 in hex, kind (`KINDS`), number of clips."""

    name: str
    bytes: int
    sha256: str
    kind: str
    clips: int


@dataclass(frozen=True)
class Manifest:
    """What a folder holds.

    `recipe` is what the fingerprint covers. `planned` clips are to be extracted, None where nobody can know before
    the end; `failures` are those that could not be. `complete` says that every planned clip is in a file or among
    the failures and that the head is there. `slice` is (i, n) where this is the i-th of n independent parts of a
    data set, counted from 0.
    """

    recipe: Mapping[str, Any]
    planned: int | None
    files: tuple[FileEntry, ...] = ()
    failures: tuple[Failure, ...] = ()
    complete: bool = False
    slice: tuple[int, int] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the recipe."""
        return fingerprint(self.recipe)

    @property
    def done(self) -> int:
        """Clips whose features are in a file."""
        return sum(entry.clips for entry in self.files if entry.kind != "head")

    @property
    def told(self) -> str:
        """As in '5 of 12 clips'."""
        return f"{self.done} clips" if self.planned is None else f"{self.done} of {self.planned} clips"

    def of_kind(self, kind: str) -> tuple[FileEntry, ...]:
        """The files of one kind, in their order."""
        return tuple(entry for entry in self.files if entry.kind == kind)


def dump_manifest(manifest: Manifest) -> str:
    """The JSON text of a manifest."""
    return json.dumps(
        {"format": _FORMAT, "version": _VERSION, "fingerprint": manifest.fingerprint, **asdict(manifest)},
        indent=1,
        sort_keys=True,
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the folder's manifest atomically."""
    with atomic_path(folder / MANIFEST) as temporary:
        temporary.write_text(dump_manifest(manifest))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder; CacheError where there is none, or one that cannot be trusted."""
    path = folder / MANIFEST
    try:
        if path.stat().st_size > _LIMIT:
            raise CacheError(f"{path}: larger than any manifest: file altered")
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise CacheError(f"{folder}: holds no {MANIFEST}, so it is no folder of a cache") from error
    except OSError as error:
        raise CacheError(f"{path}: cannot be read ({error.strerror})") from error
    return parse_manifest(text, str(path))


def parse_manifest(text: bytes, where: str) -> Manifest:
    """A manifest that somebody else may have written; `where` is what errors name."""
    try:
        fields = json.loads(text)
        canonical_json(fields)
    except (ValueError, RecursionError) as error:
        raise CacheError(f"{where}: is not JSON: file damaged") from error
    if not isinstance(fields, dict) or fields.get("format") != _FORMAT:
        raise CacheError(f"{where}: not a manifest of harfeat (by its field format)")
    version = _integer(fields, "version", where)
    if version > _VERSION:
        raise CacheError(f"{where}: version {version}, this program reads up to {_VERSION}: update it")
    part = fields.get("slice")
    if part is not None:
        i, n = (_integer({"slice": value}, "slice", where) for value in _list(fields, "slice", where, 2))
        if i >= n:
            raise CacheError(f"{where}: slice {part} is none: file altered")
    manifest = Manifest(
        _mapping(fields, "recipe", where),
        None if fields.get("planned", 0) is None else _integer(fields, "planned", where),
        tuple(_file_entry(entry, where) for entry in _list(fields, "files", where)),
        tuple(
            Failure(_text(entry, "name", where), _text(entry, "reason", where))
            for entry in _list(fields, "failures", where)
        ),
        fields.get("complete") is True,
        None if part is None else (i, n),
        _mapping(fields, "provenance", where),
    )
    if manifest.fingerprint != fields.get("fingerprint"):
        raise CacheError(f"{where}: fingerprint does not match the recipe: file altered")
    names = [entry.name for entry in manifest.files]
    if len(set(names)) != len(names):
        raise CacheError(f"{where}: lists a file twice: file altered")
    return manifest


def _file_entry(fields: Any, where: str) -> FileEntry:
    name, digest, kind = (_text(fields, key, where) for key in ("name", "sha256", "kind"))
    # A name with a slash or a leading dot could reach files beside the folder.
    if not _NAME.fullmatch(name):
        raise CacheError(f"{where}: {name!r} is no plain file name: do not trust it")
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise CacheError(f"{where}: sha256 of {name} is no hash: file altered")
    if kind not in KINDS:
        raise CacheError(f"{where}: {name} is of the unknown kind {kind!r}: file altered")
    return FileEntry(name, _integer(fields, "bytes", where), digest, kind, _integer(fields, "clips", where))


def _integer(fields: Any, key: str, where: str) -> int:
    value = fields.get(key) if isinstance(fields, dict) else None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
        raise CacheError(f"{where}: {key} is missing or no whole number: file altered")
    return value


def _text(fields: Any, key: str, where: str) -> str:
    value = fields.get(key) if isinstance(fields, dict) else None
    if not isinstance(value, str):
        raise CacheError(f"{where}: {key} is missing or no text: file altered")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise CacheError(f"{where}: {key} is not utf-8: file altered") from error
    return value


def _list(fields: Any, key: str, where: str, length: int | None = None) -> Sequence[Any]:
    value = fields.get(key)
    if not isinstance(value, list) or length not in (None, len(value)):
        raise CacheError(f"{where}: {key} is missing or no list: file altered")
    return value


def _mapping(fields: Any, key: str, where: str) -> dict[str, Any]:
    value = fields.get(key)
    if not isinstance(value, dict):
        raise CacheError(f"{where}: {key} is missing or no object: file altered")
    return value
