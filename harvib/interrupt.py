"""Ctrl-C while a model is trained: the first ends the epoch and the run, with a result; the second ends at once.

The run then writes what it has, for a look at it: models and a report.json that says "interrupted". Of a finished
run these files would tell that stages are over, so `Provisional` lists them before they are written, and the same
command takes them away before it goes on from its checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harvib.classifier import Classifier
    from harvib.settings import TrainSettings

_NOTE = b"\nharvib: Ctrl-C: ends after this epoch, and writes what there is; again: ends at once\n"


class Stop:
    """Whether the user asked to stop; a context in which the first SIGINT asks, and the second raises.

    Python delivers signals to the main thread: elsewhere the context changes nothing, and `ask` is what is left.
    Where several processes hear the same signal, one of them `says` what follows.
    """

    def __init__(self, says: bool = True) -> None:
        self.asked, self._says = False, says
        self._before: Any = None
        self._listens = False

    def ask(self) -> None:
        """Ask to stop after the running epoch."""
        self.asked = True

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._before, self._listens = signal.signal(signal.SIGINT, self._heard), True
        return self

    def __exit__(self, *reason: object) -> None:
        if self._listens:
            signal.signal(signal.SIGINT, self._before)
            self._listens = False

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        if self._says:
            # Not through sys.stderr: the signal may have come in the middle of a write to it.
            with contextlib.suppress(OSError):
                os.write(2, _NOTE)


class Stopped(Exception):  # noqa: N818 - no error: the user wanted it
    """A stage ended early because the user asked, after `epoch` epochs of `of`.

    `model` is what there is, its best epoch where the stage selects; `settings` are those it was trained with, and
    `masked` is what a compact model came from. A search that had found a model already puts it, with its masked
    one, into `masked` and `model`, and tells it in `found`. `rank` is how the stage ranks groups of weights, where
    not by their norms.
    """

    def __init__(self, stage: str, epoch: int, of: int, model: Classifier, settings: TrainSettings) -> None:
        super().__init__(f"{stage} {epoch}")
        self.stage, self.epoch, self.of, self.model, self.settings = stage, epoch, of, model, settings
        self.masked: Classifier | None = None
        self.found: dict[str, Any] = {}
        self.rank: Callable[[Classifier], None] | None = None

    @property
    def told(self) -> dict[str, Any]:
        """As in report.json: the stage, its epochs that were run, and those that it has."""
        return {"stage": self.stage, "epoch": self.epoch, "of": self.of} | self.found


def interruption(report: Mapping[str, Any]) -> str | None:
    """One line on where the run of a report was interrupted; None for a finished run."""
    found = report.get("interrupted")
    if found is None:
        return None
    return (
        f"interrupted after epoch {found['epoch']} of {found['of']} of the {found['stage']} stage; the figures "
        "are of what there was; the same command goes on"
    )


class Provisional:
    """The list of the files of an interrupted run that its continuation must take away; `path` is its place."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> list[str]:
        """Names of the files in the run folder; none without an interruption."""
        return self._path.read_text().split() if self._path.is_file() else []

    def begin(self, files: Sequence[Path]) -> None:
        """Note files that are about to be written."""
        self._path.parent.mkdir(exist_ok=True)
        temporary = self._path.with_name(f".{self._path.name}.part")
        temporary.write_text("".join(f"{file.name}\n" for file in files))
        temporary.replace(self._path)

    def undo(self) -> None:
        """Take the files away, and the list last: an interruption here repeats it."""
        for name in self.names():
            (self._path.parents[1] / name).unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)
