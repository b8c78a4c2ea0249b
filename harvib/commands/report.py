"""`harvib report`."""

from __future__ import annotations

from pathlib import Path

import click

from harvib.bench import measured, medians
from harvib.report.page import write_page
from harvib.report.table import report_table
from harvib.rundir import RunFolder


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="HTML file to write; default: report.html in the run."
)
def report(run: Path, out: Path | None) -> None:
    """Print the table of a finished run, and write its page: one HTML file with plots that needs nothing else."""
    figures, latency = RunFolder(run).report(), measured(run)
    out = write_page(run, out or run / "report.html")
    click.echo(report_table(figures, None if latency is None else medians(latency)))
    if latency is None:
        click.echo(f"latency is not measured yet: harvib bench --model {run}")
    click.echo(f"page: {out}")
