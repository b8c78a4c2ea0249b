"""Pull: a shared model into the local cache folder, every file known by name and read before it is announced."""

from __future__ import annotations

from pathlib import Path

from harfeat.share import WORKERS, Pulled, receive
from harvib.errors import InputError
from harvib.share.check import check_run
from harvib.share.manifest import MODELS, parse
from harvib.share.push import ours, told_of

_SINGLE = (".safetensors", ".onnx", ".pt")


def pull(url: str, to: Path | None = None, *, workers: int = WORKERS, show: bool = False) -> Pulled:
    """Bring a model that `push` sent to `to`, or to its place in the local cache; the same call resumes.

    `path` of the result is a run folder. Files that are there with the right hash are not fetched again. `show`
    draws a progress bar over the bytes.

    Raises:
        InputError: there is no whole model at `url`, it is out of reach, a file is not what the manifest promises,
            or not one of a model, the disk has no room, or `to` holds something else.
    """
    if url.partition("?")[0].endswith(_SINGLE):
        raise InputError(
            f"{url}: a single file, whose content nothing vouches for: give the address of the folder that "
            "`harvib push` wrote"
        )

    def check(folder: Path) -> Path:
        manifest = folder / "manifest.json"
        with told_of(folder, url):
            check_run(folder, parse(manifest.read_bytes(), str(manifest)))
        return Path()

    with ours():
        return receive(MODELS, url, to, check, workers=workers, show=show)
