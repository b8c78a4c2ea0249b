"""A folder behind a web server: to be read only."""

from __future__ import annotations

import threading
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass

from harfeat.errors import InputError
from harfeat.share.fetch import Progress, Source
from harfeat.share.http import HttpSource
from harfeat.share.remote import Entry, Publication


@dataclass(frozen=True)
class WebRemote:
    """The folder at an http(s) address."""

    url: str

    def source(self, name: str) -> Source:
        """A file of the folder; a query of the folder's address (a signature) goes with it."""
        address, mark, query = self.url.partition("?")
        return HttpSource(f"{address.rstrip('/')}/{urllib.parse.quote(name)}{mark}{query}")

    def present(self, entries: Iterable[Entry]) -> dict[str, tuple[int, str | None]]:
        """Not asked of a web server."""
        raise self._refusal()

    def publish(self, change: Publication, workers: int, progress: Progress, stop: threading.Event) -> None:
        """Refused."""
        raise self._refusal()

    def _refusal(self) -> InputError:
        return InputError(
            f"{self.url}: a web address can only be pulled from; push to a folder that the web server serves, "
            "or to s3://, gcs:// or hf://"
        )
