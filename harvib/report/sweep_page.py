"""A sweep as a table on the terminal and as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harvib.measure import measure_of
from harvib.report.frontier import cells, plots
from harvib.report.table import align
from harvib.report.template import template, write_text

KINDS = {"run": "swept", "plain": "plain"}


def write_sweep_page(out: Path, sweep: Mapping[str, Any]) -> Path:
    """Write the page of a sweep's figures, those of sweep.json, as `out`/sweep.html, whole or not at all."""
    path = out / "sweep.html"
    write_text(path, sweep_page(out.absolute().name, sweep))
    return path


def sweep_page(name: str, sweep: Mapping[str, Any]) -> str:
    """The page as text; equal figures give equal text."""
    return template("sweep.html").render(
        name=name,
        sweep=sweep,
        plots=plots(sweep["settings"], KINDS, measure=measure_of(sweep)),
        measure=measure_of(sweep),
        table=cells(sweep["settings"], KINDS, measure_of(sweep)),
        failures=[row for row in sweep["runs"] if row["error"] is not None],
    )


def sweep_table(sweep: Mapping[str, Any]) -> str:
    """One line a setting: means over its seeds, +- half the confidence interval; `*` marks the front."""
    return align(cells(sweep["settings"], KINDS, measure_of(sweep)))
