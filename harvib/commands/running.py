"""What the commands that train have in common: processes, Ctrl-C, and what they print at the end."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import torch

from harvib.devices import device_of
from harvib.distributed import joined
from harvib.interrupt import Stop, interruption
from harvib.manner import Manner
from harvib.report.table import report_table


@contextmanager
def carried_out(device: str, run_dir: Path, tensorboard: bool) -> Iterator[tuple[torch.device, Path, Manner]]:
    """Device, folder and manner of a run: Ctrl-C ends the epoch, and torchrun's processes work together."""
    where = device_of(device)
    with joined(where) as team, team.folder(run_dir) as folder:
        yield team.device or where, folder, Manner(Stop(says=team.first), team, tensorboard)


def tell(report: Mapping[str, Any], run_dir: Path, manner: Manner) -> None:
    """Print a run's report; exit code 130 and one line where it was interrupted."""
    if manner.team.first:
        click.echo(report_table(report))
        click.echo(f"run folder: {run_dir}")
    line = interruption(report)
    if line is not None:
        if manner.team.first:
            click.echo(f"harvib: {line}", err=True)
        sys.exit(130)
