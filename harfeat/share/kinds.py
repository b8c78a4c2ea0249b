"""What a shared folder may hold: caches, or the models of harvib. Publishing and receiving know no more of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from harfeat.cache.manifest import MANIFEST
from harfeat.errors import InputError
from harfeat.share.fetch import MissingError, read_small
from harfeat.share.remote import Entry, Remote, address, open_remote

FORMATS = {"harfeat-manifest": ("harfeat", "cache"), "harvib-model": ("harvib", "model")}
"""By the format of its manifest: the program that pushes and pulls such a folder, and what is in it."""


@dataclass(frozen=True)
class Listing:
    """What a manifest says: the files, whether they are all there, and what tells the content from another's.

    `identity` is a hash in hex: what is pushed to an address must have that of what is there.
    """

    files: tuple[Entry, ...]
    identity: str
    complete: bool


@dataclass(frozen=True)
class Kind:
    """One kind of content, by the `format` of its manifest, one of FORMATS.

    `parse` reads a manifest that a stranger may have written, `where` is what its errors name; it refuses any name
    of a file that the kind does not know. `repository` is DATASET or MODEL, where it lives on the Hub. `identity`
    says what an identity is the hash of. `texts` are for people, and come along where they are there. `takes` says
    of a listed file whether a pull brings it, `owns` of any file in a local folder whether it would be taken for
    one of the content, though the manifest does not list it. `staged`: files get their names once all have come
    and the whole was found good, so that what is there before stays as it is until then. `limit` is the most bytes
    of a manifest.
    """

    format: str
    parse: Callable[[bytes, str], Listing]
    repository: str
    identity: str
    texts: tuple[str, ...]
    takes: Callable[[str], bool] = lambda name: True
    owns: Callable[[str], bool] = lambda name: False
    staged: bool = False
    limit: int = 256 << 20

    @property
    def program(self) -> str:
        """Whose push and pull are for it."""
        return FORMATS[self.format][0]

    @property
    def noun(self) -> str:
        """What it is, in a word."""
        return FORMATS[self.format][1]

    def open(self, url: str, private: bool = False) -> Remote:
        """The folder at an address; `private` as of `publish`. Raises InputError."""
        if private and not url.startswith("hf://"):
            raise InputError(
                f"{url}: --private is for hf:// only; who may read elsewhere is set at the store itself"
            )
        return open_remote(address(url), self.repository)

    def listing(self, remote: Remote) -> tuple[bytes, Listing] | None:
        """The manifest of a folder, as it is and read; None where there is none. Raises InputError."""
        source = remote.source(MANIFEST)
        try:
            text = read_small(source, self.limit)
        except MissingError:
            return None
        try:
            return text, self.parse(text, source.name)
        except ValueError:
            if (other := _format_of(text)) in FORMATS and other != self.format:
                program, noun = FORMATS[other]
                raise InputError(
                    f"{remote.url}: holds a {noun}, no {self.noun}: use `{program} pull {remote.url}`, or push to "
                    "another address"
                ) from None
            raise


def _format_of(text: bytes) -> str:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    return str(fields.get("format")) if isinstance(fields, dict) else ""
