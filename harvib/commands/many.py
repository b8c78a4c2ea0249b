"""Options of the commands that do many runs, and what they make of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from harvib.commands import common
from harvib.sweep import Sweep
from harvib.workers import PACKAGES

_OPTIONS = (
    common.one_cache,
    common.split_to_train_on,
    click.option("--out", required=True, type=common.PATH, help="Folder of all runs and figures."),
    click.option("--jobs", default=0, show_default=True, help="Runs at once, a thread each; 0: one a core."),
    click.option(
        "--backend", default="loky", show_default=True, type=click.Choice(list(PACKAGES)), help="Who runs."
    ),
    click.option("--scheduler", default="", help="Address of a running Dask or Ray cluster."),
    click.option("--bench", is_flag=True, help="Measure the latency of the models at the end."),
    common.device,
    common.allow_missing,
)


def of_many_runs(command: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that adds the options of a `Sweep`; the command gets it as its first argument."""

    def with_sweep(**fields: Any) -> Any:
        names = Sweep.__dataclass_fields__.keys()
        return command(Sweep(**{name: fields.pop(name) for name in names}), **fields)

    with_sweep.__name__, with_sweep.__doc__ = command.__name__, command.__doc__
    # Options that stand nearer to the function than this decorator come after these in --help.
    with_sweep.__click_params__ = [*getattr(command, "__click_params__", [])]  # type: ignore[attr-defined]
    for option in reversed(_OPTIONS):
        option(with_sweep)
    return with_sweep


def tell(result: Mapping[str, Any], table: str, notes: Sequence[str], page: Path) -> None:
    """Print the table, notes on it, which runs failed and why, and the page; exit code 1 where some failed."""
    for text in (table, *notes):
        click.echo(text)
    for row in result["runs"]:
        if row["error"] is not None:
            click.echo(f"failed: {row['run']}: {row['error']}", err=True)
    click.echo(f"page: {page}")
    if result["failed"]:
        sys.exit(1)
