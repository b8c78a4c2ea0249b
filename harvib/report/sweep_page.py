"""A sweep as a table on the terminal and as one HTML page that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from harvib.report.page import Plot, template
from harvib.report.plots import Dots, frontier_plot
from harvib.report.table import align
from harvib.weights import replace_synced

_COSTS = (("parameters", "front", "parameters"), ("ms", "front_ms", "ms per clip"))


def write_sweep_page(out: Path, sweep: Mapping[str, Any]) -> Path:
    """Write the page of a sweep's figures, those of sweep.json, as `out`/sweep.html, whole or not at all."""
    path = out / "sweep.html"
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(sweep_page(out.absolute().name, sweep), encoding="utf-8")
    replace_synced(temporary, path)
    return path


def sweep_page(name: str, sweep: Mapping[str, Any]) -> str:
    """The page as text; equal figures give equal text."""
    lines = [line for line in sweep["settings"] if line["parameters"] is not None]
    head, *rows = _cells(sweep["settings"])
    return template("sweep.html").render(
        name=name,
        sweep=sweep,
        plots=plots(lines),
        head=head,
        rows=[(line["front"], cells) for line, cells in zip(sweep["settings"], rows, strict=True)],
        failures=[row for row in sweep["runs"] if row["error"] is not None],
    )


def sweep_table(sweep: Mapping[str, Any]) -> str:
    """One line a setting: means over its seeds, +- half the confidence interval; `*` marks the front."""
    return align(_cells(sweep["settings"]))


def plots(lines: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """Validation and test accuracy against parameters, and against latency where every setting drawn has one."""
    found = []
    for cost, mark, label in _COSTS:
        drawn = [line for line in lines if line[cost] is not None]
        for part in ("validation", "test") if drawn else ():
            series = {kind: _dots(drawn, kind, cost, part) for kind in ("run", "plain")}
            front = [(line[cost]["mean"], line[part]["mean"]) for line in drawn if line[mark]]
            shown = {{"run": "swept"}.get(kind, kind): dots for kind, dots in series.items() if len(dots.x)}
            svg = frontier_plot(f"{cost}-{part}", shown, front, label, f"{part} accuracy")
            caption = "The line joins the settings on the front"
            caption += "." if part == "validation" else ", chosen by validation accuracy."
            found.append(Plot(f"{part.capitalize()} accuracy against {label}", Markup(svg), caption))
    return found


def _dots(lines: Sequence[Mapping[str, Any]], kind: str, cost: str, part: str) -> Dots:
    chosen = [line for line in lines if line["kind"] == kind]

    def column(figure: str, key: str) -> np.ndarray:
        values = (line[figure][key] for line in chosen)
        return np.array([math.nan if value is None else value for value in values])

    return Dots(
        column(cost, "mean"),
        column(cost, "low"),
        column(cost, "high"),
        column(part, "mean"),
        column(part, "half"),
    )


def _cells(lines: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A table with its head: what was swept, then the figures."""
    names = list(dict.fromkeys(name for line in lines for name in line["swept"]))
    latency = any(line["ms"] is not None for line in lines)
    head = ["", *(name.replace("_", " ") for name in names), "seeds", "parameters", "smallest to largest"]
    rows = [[*head, "validation", "test", *(["ms/clip"] if latency else []), "front"]]
    for line in lines:
        seeds = (
            str(line["seeds"]) if line["finished"] == line["seeds"] else f"{line['finished']} of {line['seeds']}"
        )
        size, ms = line["parameters"], line["ms"]
        rows.append(
            [
                "swept" if line["kind"] == "run" else "plain",
                *(_value(line["swept"].get(name)) for name in names),
                seeds,
                f"{size['mean']:,.0f}" if size else "",
                f"{size['low']:,.0f} to {size['high']:,.0f}" if size and size["count"] > 1 else "",
                _share(line["validation"]),
                _share(line["test"]),
                *([f"{ms['mean']:.3f}" if ms else ""] if latency else []),
                "*" if line["front"] else "",
            ]
        )
    return rows


def _value(value: Any) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _share(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    return f"{found['mean']:.1%}" + ("" if found["half"] is None else f" ± {100 * found['half']:.1f}")
