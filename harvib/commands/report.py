"""`harvib report`."""

from __future__ import annotations

from pathlib import Path

import click

from harvib.bench import measured, medians
from harvib.errors import InputError
from harvib.interrupt import interruption
from harvib.report.page import write_page
from harvib.report.table import report_table
from harvib.rundir import RunFolder


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="HTML file to write; default: report.html in the run."
)
def report(run: Path, out: Path | None) -> None:
    """Print the table of a finished run, and write its page: one HTML file with plots that needs nothing else.

    A fused run has the table of all its streams, and a page for each stream, in the stream's folder.
    """
    figures, latency, streams = RunFolder(run).report(), measured(run), RunFolder(run).streams
    if streams and out is not None:
        raise InputError(
            f"--out {out}: {run} has a page for each stream: leave it out, or report one stream's folder"
        )
    folders = [stream.path for stream in streams.values()] or [run]
    pages = [write_page(folder, out or folder / "report.html") for folder in folders]
    click.echo(report_table(figures, None if latency is None else medians(latency)))
    if (line := interruption(figures)) is not None:
        click.echo(line)
    if latency is None:
        click.echo(f"latency is not measured yet: harvib bench --model {run}")
    for page in pages:
        click.echo(f"page: {page}")
