"""The figures of metrics.csv as event files for TensorBoard, a folder a stage, the epoch as step.

They are made again from metrics.csv whenever a stage begins, so that a resumed run has no step twice, and a run
that is told only later to write them has them from its first epoch on.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harvib.errors import InputError

FOLDER = "tensorboard"
_NO_FIGURES = ("stage", "epoch")

Write = Callable[[Mapping[str, str | int | float]], None]


def needs_tensorboard() -> None:
    """Raise InputError where TensorBoard is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise InputError("--tensorboard: needs TensorBoard: pip install 'harfeat[tensorboard]'") from error


@contextmanager
def events(run: Path, rows: Iterable[Mapping[str, str | int | float]]) -> Iterator[Write]:
    """A function that adds a row of metrics.csv to the events in `run`, which hold `rows` and nothing else."""
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - an extra

    shutil.rmtree(run / FOLDER, ignore_errors=True)
    writers: dict[str, Any] = {}

    def write(row: Mapping[str, str | int | float]) -> None:
        stage = str(row["stage"])
        if stage not in writers:
            writers[stage] = SummaryWriter(str(run / FOLDER / stage))
        for name, value in row.items():
            if name not in _NO_FIGURES and value != "":
                writers[stage].add_scalar(name, float(value), int(row["epoch"]))
        writers[stage].flush()

    try:
        for row in rows:
            write(row)
        yield write
    finally:
        for writer in writers.values():
            writer.close()
