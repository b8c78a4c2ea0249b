"""Push: a finished cache to a folder in any store, with its card and Croissant metadata."""

from __future__ import annotations

from pathlib import Path

from harfeat.cache import CacheError, open_cache
from harfeat.cache.folder import is_packed
from harfeat.cache.manifest import FileEntry, Manifest, dump_manifest, parse_manifest, read_manifest
from harfeat.errors import InputError
from harfeat.hashing import sha256_of_file
from harfeat.share.card import card
from harfeat.share.croissant import croissant
from harfeat.share.kinds import Kind, Listing
from harfeat.share.publish import WORKERS, Offer, Pushed, publish
from harfeat.share.remote import DATASET, Outgoing


def listing_of(text: bytes, where: str) -> Listing:
    """The files of a cache's manifest; raises InputError."""
    manifest = parse_manifest(text, where)
    return Listing(manifest.files, manifest.fingerprint, manifest.complete)


CACHES = Kind("harfeat-manifest", listing_of, DATASET, "fingerprint", ("README.md", "croissant.json"))


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
    remote = CACHES.open(url, private)
    manifest, files = gather(path)
    offer = Offer(
        files,
        dump_manifest(manifest).encode(),
        manifest.fingerprint,
        lambda: _texts(path, manifest),
        "Feature cache pushed by harfeat",
    )
    return publish(CACHES, remote, offer, workers=workers, replace=replace, private=private, show=show)


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


def _texts(path: Path, manifest: Manifest) -> dict[str, bytes]:
    with open_cache(path) as cache:
        return {
            "README.md": card(cache, manifest).encode(),
            "croissant.json": croissant(cache, manifest).encode(),
        }
