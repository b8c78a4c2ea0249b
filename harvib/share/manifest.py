"""The manifest of a shared model, manifest.json: its files with their hashes, and what the model is.

format, version     "harvib-model", 1
complete            false while a push is under way
content             hash over the files that make predictions, and the weights of a fusion: equal models, equal
                    content, whatever else was pushed with them
fingerprint         of the features that it reads; "" of a fused run
streams             of a fused run, in order: name, fingerprint, weight in the fusion
files               name (in the folder of a stream: stream/name), bytes, sha256
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harfeat.cache import fingerprint_of
from harfeat.share import MODEL as REPOSITORY
from harfeat.share import Kind, Listing
from harvib.errors import InputError
from harvib.share.names import BACKBONE, CONFIG, MODEL, REPORT, divided, is_page, is_stream, limit_of, travels

FORMAT, VERSION = "harvib-model", 1
_HASH = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class ModelFile:
    """One file: its name, size in bytes and SHA-256 in hex."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class StreamEntry:
    """A stream of a fused run: the fingerprint of its features, and its weight in the fusion."""

    name: str
    fingerprint: str
    weight: float


@dataclass(frozen=True)
class ModelManifest:
    """See the module. `fingerprint` is "" where there are `streams`."""

    files: tuple[ModelFile, ...]
    fingerprint: str
    streams: tuple[StreamEntry, ...] = ()
    complete: bool = True

    @property
    def content(self) -> str:
        """SHA-256 (hex) over what makes predictions."""
        makes = {file.name: file.sha256 for file in self.files if divided(file.name)[1] in (MODEL, BACKBONE)}
        return fingerprint_of({"files": makes, "streams": [asdict(stream) for stream in self.streams]})

    @property
    def folders(self) -> tuple[str, ...]:
        """The streams that have a model each; ("",) where the run has one."""
        return tuple(stream.name for stream in self.streams) or ("",)


def dump(manifest: ModelManifest, content: str = "") -> bytes:
    """The JSON text of a manifest; that of one that is not complete is given the `content` it will have."""
    fields = {"format": FORMAT, "version": VERSION, "content": content or manifest.content, **asdict(manifest)}
    return (json.dumps(fields, indent=1, sort_keys=True) + "\n").encode()


def parse(text: bytes, where: str) -> ModelManifest:
    """A manifest that a stranger may have written; `where` is what errors name. Raises InputError."""
    fields = _object(text, where)
    streams = tuple(_stream(item, where) for item in _list(fields, "streams", where))
    if len({stream.name.lower() for stream in streams}) != len(streams):
        raise InputError(f"{where}: names a stream twice: do not trust it")
    fingerprint = fields.get("fingerprint")
    if fingerprint != "" if streams else not _is_hash(fingerprint):
        raise InputError(f"{where}: its fingerprint is none: file altered")
    files = tuple(_file(item, where) for item in _list(fields, "files", where))
    manifest = ModelManifest(files, str(fingerprint), streams, fields.get("complete") is True)
    # One that is not complete may still list what the model that is replaced had.
    if manifest.complete:
        _check_names(manifest, where)
    if not _is_hash(fields.get("content")) or (manifest.complete and fields["content"] != manifest.content):
        raise InputError(f"{where}: its content is not that of its files: file altered")
    return manifest


def listing_of(text: bytes, where: str) -> Listing:
    """What publishing and receiving need of a manifest. Raises InputError."""
    manifest = parse(text, where)
    return Listing(manifest.files, str(json.loads(text)["content"]), manifest.complete)


MODELS = Kind(
    FORMAT,
    listing_of,
    REPOSITORY,
    "content",
    ("README.md",),
    takes=lambda name: not is_page(name),
    owns=travels,
    staged=True,
    limit=4 << 20,
)


def _object(text: bytes, where: str) -> Mapping[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is not JSON: file damaged") from error
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise InputError(f"{where}: not the manifest of a model (by its field format)")
    version = fields.get("version")
    if type(version) is not int or version < 1:
        raise InputError(f"{where}: version {version!r} is no number: file altered")
    if version > VERSION:
        raise InputError(f"{where}: version {version}, this program reads up to {VERSION}: update it")
    return fields


def _check_names(manifest: ModelManifest, where: str) -> None:
    names = [file.name for file in manifest.files]
    # Windows and macOS do not tell cases.
    if len({name.lower() for name in names}) != len(names):
        raise InputError(f"{where}: lists a file twice: do not trust it")
    streams = {stream.name for stream in manifest.streams}
    if any(stream and stream not in streams for stream, _ in map(divided, names)):
        raise InputError(f"{where}: lists files of a stream that it does not name: file altered")
    needed = {CONFIG, REPORT} | {
        f"{folder}/{name}" if folder else name for folder in manifest.folders for name in (CONFIG, REPORT, MODEL)
    }
    if lacking := sorted(needed - set(names)):
        raise InputError(f"{where}: lists no whole model, {lacking[0]} is missing: file altered")


def _file(item: Any, where: str) -> ModelFile:
    name, size, digest = (item.get(key) if isinstance(item, dict) else None for key in ("name", "bytes", "sha256"))
    if not isinstance(name, str) or not travels(name):
        raise InputError(f"{where}: {name!r:.200} is no file of a model that harvib takes: do not trust it")
    if type(size) is not int or not 0 <= size <= limit_of(name):
        raise InputError(f"{where}: {size!r:.40} bytes of {name}, from 0 to {limit_of(name):,} may be: not taken")
    if not _is_hash(digest):
        raise InputError(f"{where}: sha256 of {name} is no hash: file altered")
    return ModelFile(name, size, str(digest))


def _stream(item: Any, where: str) -> StreamEntry:
    name, fingerprint, weight = (
        item.get(key) if isinstance(item, dict) else None for key in ("name", "fingerprint", "weight")
    )
    if not isinstance(name, str) or not is_stream(name):
        raise InputError(f"{where}: {name!r:.200} is no name of a stream: do not trust it")
    if not _is_hash(fingerprint) or type(weight) is not float or not math.isfinite(weight):
        raise InputError(f"{where}: stream {name} has no fingerprint or no weight: file altered")
    return StreamEntry(name, str(fingerprint), weight)


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def _list(fields: Mapping[str, Any], key: str, where: str) -> Sequence[Any]:
    value = fields.get(key)
    if not isinstance(value, list):
        raise InputError(f"{where}: {key} is missing or no list: file altered")
    return value
