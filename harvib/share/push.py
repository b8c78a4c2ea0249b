"""Push: the final model of a finished run to a folder in any store, with its model card."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from harfeat.share import WORKERS, Entry, Offer, Outgoing, Pushed, publish
from harfeat.share import InputError as ShareError
from harvib.errors import InputError
from harvib.share.card import UNKNOWN, model_card
from harvib.share.check import check_run, damage_told
from harvib.share.manifest import MODELS, ModelFile, ModelManifest, dump, parse
from harvib.share.names import REPORT
from harvib.share.staging import Tell, manifest_of, stage


def push(
    run: Path,
    url: str,
    *,
    everything: bool = False,
    licence: str = UNKNOWN,
    workers: int = WORKERS,
    replace: bool = False,
    private: bool = False,
    show: bool = False,
    tell: Tell = lambda note: None,
) -> Pushed:
    """Send the final model of a finished run to `url`; the same call resumes one that broke off.

    What a store holds already is not sent again. `everything` adds the plain and the masked model. `licence` is an
    identifier of the Hub. `replace` allows another model to take the place of the one that is there; its files are
    removed last. `private` is for hf:// only: a repository that is made by this push is seen by its owners alone.
    `show` draws a progress bar over the bytes; `tell` hears of each file that is left out though it looks as if it
    belonged there.

    Raises:
        InputError: the run is not finished or not whole, the remote side holds another model, or does not take it.
    """
    with ours(), tempfile.TemporaryDirectory() as scratch:
        remote = MODELS.open(url, private)
        if Path(remote.url).resolve() == run.resolve():
            raise InputError(f"{run}: is the run folder itself: push to another address")
        folder = Path(scratch) / "model"
        stage(run, folder, everything, tell)
        manifest = manifest_of(folder)
        text = dump(manifest)
        with told_of(folder, run):
            parse(text, str(folder))  # what is pushed can be pulled
            check_run(folder, manifest)
            with damage_told(folder / REPORT):
                card = model_card(folder, manifest, licence)
        offer = Offer(
            [Outgoing(folder / file.name, file) for file in manifest.files],
            text,
            manifest.content,
            lambda: {"README.md": card.encode()},
            "Model pushed by harvib",
            lambda there: dump(draft(manifest, there), manifest.content),
        )
        return publish(MODELS, remote, offer, workers=workers, replace=replace, private=private, show=show)


def draft(manifest: ModelManifest, there: Sequence[Entry]) -> ModelManifest:
    """The manifest while only some files are there."""
    files = tuple(ModelFile(entry.name, entry.bytes, entry.sha256) for entry in there)
    return replace(manifest, files=files, complete=False)


@contextmanager
def ours() -> Iterator[None]:
    """What harfeat raises for a user, as harvib's error."""
    try:
        yield
    except ShareError as error:
        raise InputError(str(error)) from error


@contextmanager
def told_of(folder: Path, where: Path | str) -> Iterator[None]:
    """Errors of a folder that the user does not know, as of where it is from."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(str(folder), str(where))) from error
