"""What the pages of a sweep and of a comparison have in common: plots, a table, the runs that failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harvib.measure import measure_of
from harvib.report.template import Plot, template, write_text

Figures = Mapping[str, Any]
"""Those of sweep.json or compare.json."""


def write_many_page(out: Path, command: str, page: Callable[[str, Figures], str], figures: Figures) -> Path:
    """Write the page of a command's figures as `out`/`command`.html, whole or not at all."""
    path = out / f"{command}.html"
    write_text(path, page(out.absolute().name, figures))
    return path


def many_page(
    command: str, name: str, figures: Figures, plots: Sequence[Plot], table: Sequence[Sequence[str]], **more: Any
) -> str:
    """The page as text; equal figures give equal text. `more` is what the command's template shows besides."""
    return template(f"{command}.html").render(
        command=command,
        name=name,
        figures=figures,
        measure=measure_of(figures),
        plots=plots,
        table=table,
        failures=[row for row in figures["runs"] if row["error"] is not None],
        **more,
    )
