"""Pull: a shared cache into the local cache folder, whole and opened once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harfeat.cache import open_cache
from harfeat.cache.folder import is_packed
from harfeat.cache.manifest import parse_manifest, read_manifest
from harfeat.errors import InputError
from harfeat.share.kinds import Listing
from harfeat.share.publish import WORKERS
from harfeat.share.push import CACHES, listing_of
from harfeat.share.receive import Pulled, folder_of, receive

__all__ = ["Pulled", "folder_of", "pull"]


def pull(url: str, to: Path | None = None, *, workers: int = WORKERS, show: bool = False) -> Pulled:
    """Bring a folder that `push` wrote to `to`, or to its place in the local cache; the same call resumes.

    Files that are there with the right hash are not fetched again. `show` draws a progress bar over the bytes.

    Raises:
        InputError: there is no whole cache at `url`, it is out of reach, a file is not what the manifest promises,
            the disk has no room, or `to` holds something else.
    """
    if url.partition("?")[0].endswith(".h5"):
        raise InputError(
            f"{url}: a single file, whose content nothing vouches for: give the address of the folder that "
            "`harfeat push` wrote, or fetch the file with another tool and run `harfeat info` on it"
        )

    def check(folder: Path) -> Path:
        manifest = read_manifest(folder)
        packed = manifest.of_kind("cache")
        path = Path(packed[0].name) if packed else Path()
        with open_cache(folder / path) as cache:
            if cache.fingerprint != manifest.fingerprint:
                raise InputError(f"{url}: the manifest is of another cache than its files: tell who published it")
        return path

    return receive(replace(CACHES, parse=_parse), url, to, check, workers=workers, show=show)


def _parse(text: bytes, where: str) -> Listing:
    """As a push reads it, and nothing but a cache that can be opened."""
    manifest = parse_manifest(text, where)
    # Any other name could take the place of the manifest, the card or a hidden file.
    if not all(is_packed(Path(entry.name.lower())) for entry in manifest.files):
        raise InputError(f"{where}: lists files that are no part of a cache: do not trust it")
    packed = manifest.of_kind("cache")
    if manifest.complete and (not manifest.files or len(packed) > 1 or (packed and len(manifest.files) > 1)):
        raise InputError(f"{where}: lists neither one packed cache nor shards: file altered")
    return listing_of(text, where)
