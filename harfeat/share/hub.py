"""A folder in a repository of the Hugging Face Hub.

    hf://datasets/ORG/NAME[/FOLDER][@REVISION]      in a data set
    hf://ORG/NAME[/FOLDER][@REVISION]               in a model repository, also written hf://models/...

A push is one commit, so readers see all of it or nothing, and the Hub itself keeps files by their SHA-256: what an
interrupted push had sent is not sent again. Files are pulled from their plain addresses. HF_ENDPOINT and the login
(`hf auth login` or HF_TOKEN) are those of huggingface_hub.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    get_token,
    hf_hub_url,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from harfeat.cache.manifest import MANIFEST
from harfeat.errors import InputError
from harfeat.share.fetch import Progress, Source, TransferError
from harfeat.share.http import HttpSource
from harfeat.share.remote import DATASET, MODEL, Entry, Publication

_PART, _KIND = r"[A-Za-z0-9_][A-Za-z0-9_.-]*", "(?:datasets|models|spaces|buckets)/"
_URL = re.compile(
    rf"hf://(?P<kind>{_KIND})?(?!{_KIND})(?P<repo>{_PART}/{_PART})(?:@(?P<early>[^@/]+))?"
    rf"(?P<folder>(?:/{_PART})*)/?(?:@(?P<late>[^@]+))?"
)
_KINDS = {DATASET: "datasets/", MODEL: ""}
_NAMES = {DATASET: "data set", MODEL: "model repository"}


@dataclass(frozen=True)
class HubRemote:
    """A folder ("" or "sub/folder/") of a repository, of `kind` DATASET or MODEL, at a branch, tag or commit."""

    url: str
    repo: str
    folder: str
    revision: str
    kind: str = DATASET

    @classmethod
    def of(cls, url: str, kind: str = DATASET) -> HubRemote:
        """Parse an address; InputError says how one looks, and how it is spelled where it is of another kind."""
        found = _URL.fullmatch(url)
        prefix = _KINDS[kind]
        expected = f"expected hf://{prefix}ORG/NAME, then optionally /FOLDER and @REVISION"
        if found is None or (found["early"] and found["late"]):
            raise InputError(f"{url}: {expected}")
        if (found["kind"] or "").removeprefix("models/") != prefix:
            rest = url.removeprefix(f"hf://{found['kind'] or ''}")
            raise InputError(f"{url}: names no {_NAMES[kind]}; {expected}: hf://{prefix}{rest}")
        folder = found["folder"].strip("/")
        revision = found["early"] or found["late"] or constants.DEFAULT_REVISION
        return cls(url, found["repo"], f"{folder}/" if folder else "", revision, kind)

    def source(self, name: str) -> Source:
        """A file of the folder."""
        url = hf_hub_url(self.repo, self.folder + name, repo_type=self.kind, revision=self.revision)
        return HttpSource(url, get_token())

    def present(self, entries: Iterable[Entry]) -> dict[str, tuple[int, str | None]]:
        """Size of the files that are there, and the SHA-256 of those the Hub keeps as large ones."""
        paths = [self.folder + entry.name for entry in entries]
        found: dict[str, tuple[int, str | None]] = {}
        try:
            with self._explained():
                for start in range(0, len(paths), 256):
                    infos = HfApi().get_paths_info(
                        self.repo, paths[start : start + 256], revision=self.revision, repo_type=self.kind
                    )
                    for info in infos:
                        if isinstance(info, RepoFile):
                            digest = info.lfs.sha256 if info.lfs else None
                            found[info.path.removeprefix(self.folder)] = (info.size, digest)
        except _AbsentError:
            return {}
        return found

    def publish(self, change: Publication, workers: int, progress: Progress, stop: threading.Event) -> None:
        """One commit; the repository and the branch are made where they are not there."""
        api = HfApi()
        texts = {**change.texts, MANIFEST: change.manifest}
        with self._explained():
            api.create_repo(self.repo, repo_type=self.kind, exist_ok=True, private=change.private or None)
            if self.revision != constants.DEFAULT_REVISION:
                api.create_branch(self.repo, branch=self.revision, repo_type=self.kind, exist_ok=True)
            # Large files go first, each kept by the Hub as soon as it is there; the commit then only names them.
            added = [CommitOperationAdd(self.folder + item.entry.name, str(item.path)) for item in change.files]
            sizes = iter(item.entry.bytes for item in change.files)
            for start in range(0, len(added), workers):
                batch = added[start : start + workers]
                api.preupload_lfs_files(
                    self.repo,
                    batch,
                    repo_type=self.kind,
                    revision=self.revision,
                    num_threads=workers,
                    free_memory=False,
                )
                progress(sum(next(sizes) for _ in batch))
            operations: list[CommitOperationAdd | CommitOperationDelete] = [
                *added,
                *(CommitOperationAdd(self.folder + name, text) for name, text in texts.items()),
                *(CommitOperationDelete(self.folder + name) for name in change.remove),
            ]
            api.create_commit(
                self.repo,
                operations,
                commit_message=change.message,
                repo_type=self.kind,
                revision=self.revision,
                num_threads=workers,
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            raise _AbsentError(
                f"{self.url}: no such {_NAMES[self.kind]} or revision, or no access to it; check the name and "
                "`hf auth login`"
            ) from error
        except HfHubHTTPError as error:
            raise TransferError(f"{self.url}: {_first_line(error)}; check `hf auth login`") from error
        except HFValidationError as error:
            raise InputError(f"{self.url}: {_first_line(error)}") from error
        # HTTPError: a Hub out of reach. The library wraps what breaks an upload in RuntimeError, and tells
        # malformed answers by ValueError or KeyError.
        except (HTTPError, OSError, RuntimeError, ValueError, LookupError) as error:
            cause = error.__cause__ or error
            raise TransferError(f"{self.url}: {_first_line(cause)}") from error


class _AbsentError(TransferError):
    """The repository or the revision is not there."""


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
