"""`harvib report`."""

from __future__ import annotations

from pathlib import Path

import click

from harvib.commands import common
from harvib.published import TABLES
from harvib.report.page import write_page


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=common.PATH)
@click.option(
    "--out",
    type=common.PATH,
    help="HTML file to write; default: report.html, in the run where there is one, else in this folder.",
)
@click.option(
    "--published",
    type=click.Choice(list(TABLES)),
    help="Set this table of the paper beside the runs; default: that of the data set their cache names.",
)
def report(runs: tuple[Path, ...], out: Path | None, published: str | None) -> None:
    """Print the table of some runs and write their page: one HTML file with plots that needs nothing else.

    The page has accuracy against parameters of all runs, with means and intervals over seeds, and for each run its
    learning curves, what its masks keep, its confusion matrix and the accuracy of each class. Runs that are not
    finished are shown as far as they are.
    """
    out = out or (runs[0] / "report.html" if len(runs) == 1 else Path("report.html"))
    summary = write_page(runs, out, published)
    for line in summary.notes:
        click.echo(line, err=True)
    if summary.table:
        click.echo(summary.table)
    click.echo(f"page: {out}")
