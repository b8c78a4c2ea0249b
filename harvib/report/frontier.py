"""Accuracy against parameters and latency: the plots and the table of settings, of a sweep or of any runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from harvib.bench import medians
from harvib.frontier import FIGURES, figures_of, grouped, settings_of
from harvib.measure import ACCURACY, parts_named
from harvib.points import AFTER_PLAIN
from harvib.report.plots import Dots, frontier_plot
from harvib.report.runs import Run
from harvib.report.template import Plot

_COSTS = (("parameters", "front", "parameters"), ("ms", "front_ms", "ms per clip"))

Line = dict[str, Any]
"""What `harvib.frontier.settings_of` tells of one setting."""


def lines_of(runs: Sequence[Run]) -> list[Line]:
    """Figures over the seeds of each setting and state (plain, masked, compact) of finished runs.

    Settings are told apart by what differs among the runs; a plain model only by what it depends on, so that runs
    that share one count it once. A masked model is as large as the plain one: it is no candidate for the front.
    `recurrent` are the parameters without the head.
    """
    differing = _differing(runs)
    rows: dict[Any, dict[str, Any]] = {}
    for run in runs:
        assert run.report is not None
        times = {} if run.latency is None else medians(run.latency)
        for state in run.states:
            swept = {
                name: value
                for name, value in differing[run.name].items()
                if state != "plain" or name not in AFTER_PLAIN
            }
            figures = figures_of(run.report[state], times.get(state))
            figures["recurrent"] = run.report[state]["parameters"]["recurrent"]
            row = {"kind": state, "run": run.name, "swept": swept, "seed": run.settings["seed"], **figures}
            # Equal to the last digit with the same settings and seed: one model in two folders.
            key = (
                state,
                *swept.items(),
                row["seed"],
                *(figures[name] for name in ("validation", "test", "inputs")),
            )
            if key not in rows or rows[key]["ms"] is None:
                rows[key] = row | {"error": None}
    figures_told = (*FIGURES, "recurrent")
    by_kind = grouped((row["kind"] == "masked", row) for row in rows.values())
    lines = settings_of(by_kind.get(False, []), figures_told)
    masked = settings_of(by_kind.get(True, []), figures_told)
    return [*lines, *(line | {"front": False, "front_ms": False} for line in masked)]


def plots(
    lines: Sequence[Mapping[str, Any]], kinds: Mapping[str, str], prefix: str = "", measure: str = ACCURACY
) -> list[Plot]:
    """Validation and test accuracy against parameters, and against latency where every setting drawn has one.

    `kinds` are the kinds of lines to draw, with their names for people; ids in the plots begin with `prefix`;
    `measure` is what the lines have in accuracy's place.
    """
    found = []
    lines = [line for line in lines if line["parameters"] is not None]
    for cost, mark, label in _COSTS:
        drawn = [line for line in lines if line[cost] is not None]
        for part in ("validation", "test") if drawn else ():
            series = {
                shown: dots_of([line for line in drawn if line["kind"] == kind], cost, part)
                for kind, shown in kinds.items()
            }
            front = [(line[cost]["mean"], line[part]["mean"]) for line in drawn if line[mark]]
            shown = {name: dots for name, dots in series.items() if len(dots.x)}
            svg = frontier_plot(f"{prefix}{cost}-{part}", shown, front, label, f"{part} {measure}")
            caption = "The line joins the settings on the front"
            caption += "." if part == "validation" else f", chosen by validation {measure}."
            caption = caption if len(front) > 1 else ""
            found.append(Plot(f"{part.capitalize()} {measure} against {label}", Markup(svg), caption))
    return found


def cells(
    lines: Sequence[Mapping[str, Any]], kinds: Mapping[str, str], measure: str = ACCURACY
) -> list[list[str]]:
    """A table with its head: what tells the settings apart, then the figures; `*` marks the front."""
    names = list(dict.fromkeys(name for line in lines for name in line["swept"]))
    latency = any(line["ms"] is not None for line in lines)
    head = ["", *(name.replace("_", " ") for name in names), "seeds", "parameters", "smallest to largest"]
    rows = [[*head, *parts_named(measure), *(["ms/clip"] if latency else []), "front"]]
    for line in lines:
        seeds = (
            str(line["seeds"]) if line["finished"] == line["seeds"] else f"{line['finished']} of {line['seeds']}"
        )
        size, ms = line["parameters"], line["ms"]
        rows.append(
            [
                kinds[line["kind"]],
                *(shown_value(line["swept"].get(name)) for name in names),
                seeds,
                f"{size['mean']:,.0f}" if size else "",
                f"{size['low']:,.0f} to {size['high']:,.0f}" if size and size["low"] < size["high"] else "",
                share(line["validation"]),
                share(line["test"]),
                *([f"{ms['mean']:.3f}" if ms else ""] if latency else []),
                "*" if line["front"] else "",
            ]
        )
    return rows


def share(found: Mapping[str, Any] | None) -> str:
    """A mean accuracy in percent, +- half its interval."""
    if found is None:
        return ""
    return f"{found['mean']:.1%}" + ("" if found["half"] is None else f" ± {100 * found['half']:.1f}")


def shown_value(value: Any) -> str:
    """A setting's value as it is typed; empty where there is none."""
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _differing(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """By the run's name: the settings, seed apart, and the features, as far as they differ among the runs."""
    told = {}
    for run in runs:
        fingerprint = str(run.config.get("fingerprint", ""))[:8]
        known = {name: value for name, value in run.settings.items() if name != "seed"}
        origin = run.config.get("init")
        told[run.name] = known | {
            "features": f"{run.features} {fingerprint}".strip(),
            # A run of harvib names a folder; a model from elsewhere its file and hash.
            "given": origin if origin and "sha256:" in str(origin) else None,
            "interrupted": bool(run.report and run.report.get("interrupted")),
        }
    names = [
        name for name in next(iter(told.values()), {}) if len({str(one.get(name)) for one in told.values()}) > 1
    ]
    return {run: {name: values.get(name) for name in names} for run, values in told.items()}


def dots_of(lines: Sequence[Mapping[str, Any]], cost: str, part: str) -> Dots:
    """Lines as points of accuracy on a part against a cost."""

    def column(figure: str, key: str) -> np.ndarray:
        values = (line[figure][key] for line in lines)
        return np.array([math.nan if value is None else value for value in values])

    return Dots(
        column(cost, "mean"),
        column(cost, "low"),
        column(cost, "high"),
        column(part, "mean"),
        column(part, "half"),
    )
