"""Publish: a folder of files to any store, the manifest last; what is there already is not sent again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harfeat.cache.manifest import MANIFEST
from harfeat.errors import InputError
from harfeat.share.kinds import Kind
from harfeat.share.remote import Entry, Outgoing, Publication, Remote, progress_bar, require_workers

WORKERS = 4


@dataclass(frozen=True)
class Pushed:
    """What a push did: files that were shared and their bytes, and how many of each had to be sent."""

    url: str
    files: int
    bytes: int
    sent_files: int
    sent_bytes: int


@dataclass(frozen=True)
class Offer:
    """What is to be shared: files, the manifest that lists them, and its identity.

    `texts` makes what is for people alone; it is asked once nothing stands in the way. `draft` makes a manifest
    that lists some files and says that it is not complete: a push that breaks off leaves it, so that the next one
    knows what is there. Without it, that is known of files that the store itself hashes, or whose name has their
    hash. `message` is for stores that keep a history.
    """

    files: Sequence[Outgoing]
    manifest: bytes
    identity: str
    texts: Callable[[], Mapping[str, bytes]]
    message: str
    draft: Callable[[Sequence[Entry]], bytes] | None = None


def publish(
    kind: Kind,
    remote: Remote,
    offer: Offer,
    *,
    workers: int = WORKERS,
    replace: bool = False,
    private: bool = False,
    show: bool = False,
) -> Pushed:
    """Send an offer to a folder that `kind.open` gave; the same call resumes one that broke off.

    `replace` allows another content to take the place of the one that is there; its files are removed last.
    `private` is for hf:// only: a repository that is made by this push is seen by its owners alone. `show` draws a
    progress bar over the bytes. Raises InputError.
    """
    require_workers(workers)
    present = remote.present([item.entry for item in offer.files])
    found = kind.listing(remote)
    there = None if found is None else found[1]
    if there is not None and there.identity != offer.identity and not replace:
        raise InputError(
            f"{remote.url}: holds another {kind.noun} ({kind.identity} {there.identity[:16]}..., this one is "
            f"{offer.identity[:16]}...): push to another address, or give --replace"
        )
    if there is None and present and offer.draft is not None and not replace:
        # A push of this kind begins with a manifest, so these are somebody else's.
        raise InputError(
            f"{remote.url}: holds a {sorted(present)[0]} and no {MANIFEST}, so it is no {kind.noun} that "
            f"{kind.program} pushed: push to another address, or give --replace"
        )
    old = {} if there is None else {entry.name: entry for entry in there.files}
    missing = [item for item in offer.files if not _is_there(item.entry, present.get(item.entry.name), old)]
    new, sent = ({item.entry.name: item.entry for item in items} for items in (offer.files, missing))
    change = Publication(
        missing,
        offer.texts(),
        offer.manifest,
        withdraw=offer.draft is None and any(name in old for name in sent),
        remove=[name for name in old if name not in new],
        private=private,
        # Those that are to be removed are there, too, until the end: another push must know of them.
        kept=[entry for name, entry in (old | new).items() if name not in sent],
        draft=offer.draft,
        message=offer.message,
    )
    with progress_bar("push", sum(item.entry.bytes for item in missing), show) as progress:
        remote.publish(change, workers, progress, threading.Event())
    return Pushed(
        remote.url,
        len(offer.files),
        sum(item.entry.bytes for item in offer.files),
        len(missing),
        sum(item.entry.bytes for item in missing),
    )


def holds_own_hash(entry: Entry) -> bool:
    """Whether a file's name carries the start of its SHA-256, so that no other content stands under it."""
    return f"-{entry.sha256[:16]}." in entry.name


def _is_there(entry: Entry, found: tuple[int, str | None] | None, old: Mapping[str, Entry]) -> bool:
    if found is None or found[0] != entry.bytes:
        return False
    return old.get(entry.name) == entry or found[1] == entry.sha256 or holds_own_hash(entry)
