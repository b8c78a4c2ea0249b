"""Push: a finished cache to a folder in any store, with its card and Croissant metadata, manifest last."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from harfeat.cache import CacheError, open_cache
from harfeat.cache.folder import is_packed
from harfeat.cache.manifest import MANIFEST, FileEntry, Manifest, dump_manifest, parse_manifest, read_manifest
from harfeat.errors import InputError
from harfeat.hashing import sha256_of_file
from harfeat.share.card import card
from harfeat.share.croissant import croissant
from harfeat.share.fetch import MissingError, Progress, read_small
from harfeat.share.remote import Outgoing, Publication, Remote, address, open_remote

MANIFEST_LIMIT = 256 << 20
WORKERS = 4


@dataclass(frozen=True)
class Pushed:
    """What a push did: files of the cache and their bytes, and how many of each had to be sent."""

    url: str
    files: int
    bytes: int
    sent_files: int
    sent_bytes: int


def push(
    path: Path,
    url: str,
    *,
    workers: int = WORKERS,
    replace: bool = False,
    private: bool = False,
    show: bool = False,
) -> Pushed:
    """Send a packed cache or a complete folder of shards to `url`; the same call resumes one that broke off.

    What stands there already is not sent again: a file that the remote manifest lists with the same hash, one
    whose store knows its SHA-256, or one whose name holds it. `replace` allows another cache to take the place of
    the one that is there; its files are removed last. `private` is for hf:// only: a data set that is made by this
    push is seen by its owners alone. `show` draws a progress bar over the bytes.

    Raises:
        InputError: the cache is not whole or not intact, the remote side holds another one, or does not take it.
    """
    if private and not url.startswith("hf://"):
        raise InputError(f"{url}: --private is for hf:// only; who may read elsewhere is set at the store itself")
    url = address(url)
    manifest, files = gather(path)
    remote = open_remote(url)
    present = remote.present([item.entry for item in files])
    there = _remote_manifest(remote)
    if there is not None and there.fingerprint != manifest.fingerprint and not replace:
        raise InputError(
            f"{url}: holds another cache (fingerprint {there.fingerprint[:16]}..., this one is "
            f"{manifest.fingerprint[:16]}...): push to another address, or give --replace"
        )
    old = {} if there is None else {entry.name: entry for entry in there.files}
    missing = [item for item in files if not _is_there(item.entry, present.get(item.entry.name), old)]
    new = {item.entry.name for item in files}
    change = Publication(
        missing,
        _texts(path, manifest),
        dump_manifest(manifest).encode(),
        withdraw=any(item.entry.name in old for item in missing),
        remove=[name for name in old if name not in new],
        private=private,
    )
    with progress_bar("push", sum(item.entry.bytes for item in missing), show) as progress:
        remote.publish(change, workers, progress, threading.Event())
    return Pushed(
        url,
        len(files),
        sum(item.entry.bytes for item in files),
        len(missing),
        sum(item.entry.bytes for item in missing),
    )


def gather(path: Path) -> tuple[Manifest, list[Outgoing]]:
    """The manifest of what is to be shared, and its files; raises InputError where it is not whole and intact."""
    if not path.is_dir():
        with open_cache(path) as cache:
            entry = FileEntry(path.name, path.stat().st_size, sha256_of_file(path), "cache", len(cache.clips))
            provenance = {key: value for key, value in cache.provenance.items() if key != "recipe"}
            manifest = Manifest(
                cache.recipe,
                len(cache.clips) + len(cache.failures),
                (entry,),
                cache.failures,
                complete=True,
                provenance=provenance,
            )
        unfit = f"{path}: cannot be shared under this name: use letters, digits and -_. and the suffix .h5"
        if not is_packed(path):
            raise InputError(unfit)
        try:
            parse_manifest(dump_manifest(manifest).encode(), str(path))
        except CacheError as error:
            raise InputError(unfit) from error
        return manifest, [Outgoing(path, entry)]
    manifest = read_manifest(path)
    if not manifest.complete:
        raise InputError(
            f"{path}: incomplete, {manifest.told} are done: "
            "finish the extraction (the same command resumes) before it is shared"
        )
    files = [Outgoing(path / entry.name, entry) for entry in manifest.files]
    for item in files:
        try:
            intact = item.path.stat().st_size == item.entry.bytes and (
                sha256_of_file(item.path) == item.entry.sha256
            )
        except OSError as error:
            raise InputError(f"{item.path}: cannot be read ({error.strerror})") from error
        if not intact:
            raise InputError(f"{item.path}: is not what the manifest lists: file damaged; nothing was sent")
    return manifest, files


def holds_own_hash(entry: FileEntry) -> bool:
    """Whether a file's name carries the start of its SHA-256, so that no other content stands under it."""
    return f"-{entry.sha256[:16]}." in entry.name


@contextmanager
def progress_bar(label: str, total: int, show: bool) -> Iterator[Progress]:
    """A bar over bytes on standard error, where `show`; yields what advances it, from any thread."""
    with tqdm(desc=label, total=total, unit="B", unit_scale=True, unit_divisor=1024, disable=not show) as bar:
        lock = threading.Lock()

        def advance(count: int) -> None:
            with lock:
                bar.update(count)

        yield advance


def _remote_manifest(remote: Remote) -> Manifest | None:
    source = remote.source(MANIFEST)
    try:
        return parse_manifest(read_small(source, MANIFEST_LIMIT), source.name)
    except MissingError:
        return None


def _is_there(entry: FileEntry, found: tuple[int, str | None] | None, old: Mapping[str, FileEntry]) -> bool:
    if found is None or found[0] != entry.bytes:
        return False
    return old.get(entry.name) == entry or found[1] == entry.sha256 or holds_own_hash(entry)


def _texts(path: Path, manifest: Manifest) -> dict[str, bytes]:
    with open_cache(path) as cache:
        return {
            "README.md": card(cache, manifest).encode(),
            "croissant.json": croissant(cache, manifest).encode(),
        }
