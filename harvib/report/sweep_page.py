"""A sweep as a table on the terminal and as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harvib.measure import measure_of
from harvib.report.frontier import cells, plots
from harvib.report.many_page import many_page, write_many_page
from harvib.report.table import align

KINDS = {"run": "swept", "plain": "plain"}


def write_sweep_page(out: Path, sweep: Mapping[str, Any]) -> Path:
    """Write the page of a sweep's figures, those of sweep.json, as `out`/sweep.html, whole or not at all."""
    return write_many_page(out, "sweep", sweep_page, sweep)


def sweep_page(name: str, sweep: Mapping[str, Any]) -> str:
    """The page as text; equal figures give equal text."""
    lines, measure = sweep["settings"], measure_of(sweep)
    return many_page("sweep", name, sweep, plots(lines, KINDS, measure=measure), cells(lines, KINDS, measure))


def sweep_table(sweep: Mapping[str, Any]) -> str:
    """One line a setting: means over its seeds, +- half the confidence interval; `*` marks the front."""
    return align(cells(sweep["settings"], KINDS, measure_of(sweep)))
