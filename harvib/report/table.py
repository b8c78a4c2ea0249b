"""A run's report as a table on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harvib.measure import measure_of, parts_named, score_of

STATES = ("plain", "masked", "compact")


def report_table(report: Mapping[str, Any], latency: Mapping[str, float] | None = None) -> str:
    """One line a state: what it keeps, exact parameters, ratio, accuracies, and latency in ms where measured.

    Of a fused run, such lines for each stream and for the fusion, and the streams' weights in it.
    """
    head = ["", "inputs", "units", "parameters", "ratio", *parts_named(measure_of(report))]
    rows = [head if latency is None else [*head, "ms/clip"]]
    streams = report.get("streams", {})
    for name, ours in sorted(streams.items()):
        lines = _rows(ours, f"{name} ")
        rows += lines if latency is None else [[*line, ""] for line in lines]
    rows += _rows(report, "fused " if streams else "", latency)
    text = align(rows)
    for state in STATES if streams else ():
        if state in report:
            shares = ", ".join(f"{name} {weight:.3f}" for name, weight in sorted(report[state]["weights"].items()))
            text += f"\nweights, {state}: {shares} (chosen on validation)"
    return text + (_backbone(report["backbone"]) if "backbone" in report else "")


def _rows(report: Mapping[str, Any], prefix: str, latency: Mapping[str, float] | None = None) -> list[list[str]]:
    rows = []
    largest = report["plain"]["parameters"]["total"]
    for state in STATES:
        if state not in report:
            continue
        figures = report[state]
        total = figures["parameters"]["total"]
        row = [
            f"{prefix}{state}",
            f"{figures['inputs']:,}",
            f"{figures['units']:,}",
            f"{total:,}",
            # The masked model is as large as the plain one until it is compacted.
            f"{largest / total:,.1f}x" if state == "compact" else "",
            *(f"{score_of(figures)[part]:.1%}" for part in ("validation", "test")),
        ]
        rows.append(row if latency is None else [*row, f"{latency[state]:.3f}" if state in latency else ""])
    return rows


def _backbone(figures: Mapping[str, Any]) -> str:
    before, after = figures["before"], figures["after"]
    return (
        f"\nbackbone {figures['model']}, not counted above: features {before['features']:,} -> "
        f"{after['features']:,}, parameters {before['parameters']:,} -> {after['parameters']:,}, multiply-adds a "
        f"frame {before['multiply_adds'] / 1e6:,.1f} -> {after['multiply_adds'] / 1e6:,.1f} million, file "
        f"{before['bytes'] / 1e6:,.1f} -> {after['bytes'] / 1e6:,.1f} MB"
    )


def milliseconds(value: float) -> str:
    """With as many digits as a measurement of that size has."""
    digits = 1 if value >= 100 else 3 if value >= 0.1 else 5
    return f"{value:,.{digits}f}"


def align(rows: list[list[str]]) -> str:
    """Columns of text: the first flush left, the others flush right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        cells[0] = row[0].ljust(widths[0])
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
