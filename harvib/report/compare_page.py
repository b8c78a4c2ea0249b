"""A comparison as a table on the terminal and as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from harvib.bench import conditions
from harvib.compare import CHANGEABLE
from harvib.frontier import grouped
from harvib.measure import measure_of, parts_named
from harvib.report.frontier import dots_of, share
from harvib.report.many_page import many_page, write_many_page
from harvib.report.plots import methods_plot
from harvib.report.table import align
from harvib.report.template import Plot
from harvib.settings import TrainSettings

_COSTS = (("parameters", "parameters in all"), ("ms", "ms per clip"))

INTERVAL = "± is half the 95 % interval of the mean over seeds."


def write_compare_page(out: Path, result: Mapping[str, Any]) -> Path:
    """Write the page of a comparison's figures, those of compare.json, whole or not at all."""
    return write_many_page(out, "compare", compare_page, result)


def compare_page(name: str, result: Mapping[str, Any]) -> str:
    """The page as text; equal figures give equal text."""
    return many_page(
        "compare",
        name,
        result,
        compare_plots(result),
        compare_cells(result),
        plain=_plain_cells(result),
        notes=compare_notes(result),
    )


def compare_table(result: Mapping[str, Any]) -> str:
    """One line a method and budget: means over the seeds, +- half the confidence interval."""
    return align(compare_cells(result))


def compare_plots(result: Mapping[str, Any]) -> list[Plot]:
    """Test and validation accuracy against parameters, and against latency where it was measured."""
    found, measure = [], measure_of(result)
    for cost, label in _COSTS:
        drawn = [line for line in result["lines"] if line["finished"] and line[cost] is not None]
        for part in ("test", "validation") if drawn else ():
            series = {
                method: (told["ours"], dots_of(ours, cost, part))
                for method, told in sorted(result["methods"].items(), key=lambda item: not item[1]["ours"])
                if (ours := [line for line in drawn if line["swept"]["method"] == method])
            }
            svg = methods_plot(f"{cost}-{part}", series, label, f"{part} {measure}")
            found.append(Plot(f"{part.capitalize()} {measure} against {label}", Markup(svg)))
    return found


def compare_cells(result: Mapping[str, Any]) -> list[list[str]]:
    """A table with its head: by budget the methods, best on validation first; a method with no model has `-`."""
    timed, tried = result["latency"] is not None, result["trials"] > 1
    head = ["method", "budget", "", *_figure_names(result, timed), *(["trial"] if tried else []), "seeds", "best"]
    rows = [head]
    for budget in result["budgets"]:
        lines = [line for line in result["lines"] if line["swept"]["budget"] == budget]
        lines.sort(key=lambda line: -(line["validation"]["mean"] if line["validation"] else -1.0))
        for line in lines:
            method = line["swept"]["method"]
            rows.append(
                [
                    method,
                    f"{budget:,}",
                    "ours" if result["methods"][method]["ours"] else "",
                    *_figure_cells(line, result["latency"]),
                    *([str(line["swept"]["trial"])] if tried else []),
                    _seeds(line),
                    "best" if line["best"] else "",
                ]
            )
        for item in result["absent"]:
            if item["budget"] == budget and item["trial"] is None:
                ours = "ours" if result["methods"][item["method"]]["ours"] else ""
                rows.append([item["method"], f"{budget:,}", ours, *["-"] * (len(head) - 4), ""])
    return rows


def compare_notes(result: Mapping[str, Any]) -> list[str]:
    """What a reader of the table must know, a sentence or two each."""
    trials = result["trials"]
    effort = (
        "One setting of each method was tried, its recipe's own."
        if trials == 1
        else f"{trials} settings of each method were tried at each budget, as many for all; the line is that with "
        f"the highest mean validation {measure_of(result)}. All runs stand in compare.csv."
    )
    notes = [
        result["selection"],
        effort,
        "In-to-hidden: the weights between inputs and hidden states alone; parameters: all of the model.",
        INTERVAL,
        f"{result['macs']} A clip has {result['steps']} steps here, the median of the cache.",
        "Training time is that of all stages, also of the plain model and of a teacher, though methods that need "
        "the same one share it.",
    ]
    if result["latency"] is not None:
        notes.append(
            "Latency: all models of this table in turns in one run, and the plain LSTM-256 as the reference; "
            + conditions(result["latency"])
        )
    told = {
        method: ", ".join(f"--{name.replace('_', '-')}" for name in names)
        for method, names in result["not_passed_on"].items()
    }
    for options, of_them in grouped((options, method) for method, options in told.items()).items():
        notes.append(f"Without {options}, which they cannot take: {', '.join(of_them)}.")
    for item in result["absent"]:
        trial = "" if item["trial"] is None else f", trial {item['trial']}"
        notes.append(f"{item['method']} at {item['budget']:,}{trial}: {item['reason']}.")
    return notes


def _plain_cells(result: Mapping[str, Any]) -> list[list[str]]:
    rows = [["plain model", *_figure_names(result, False), "seeds", ""]]
    for line in result["plain"]:
        # What the model is; how it was trained stands in the csv.
        told = {"model": TrainSettings().model} | line["swept"]
        name = ", ".join(f"{name.replace('_', ' ')} {told[name]}" for name in told if name not in CHANGEABLE)
        rows.append([name, *_figure_cells(line, None), _seeds(line), ""])
    return rows


def _figure_names(result: Mapping[str, Any], timed: bool) -> list[str]:
    scores = parts_named(measure_of(result))
    names = [*scores, "parameters", "in-to-hidden", "inputs", "units", "MACs/step", "MACs/clip"]
    return [*names, *(["ms/clip", "of LSTM-256"] if timed else []), "training s"]


def _figure_cells(line: Mapping[str, Any], latency: Mapping[str, Any] | None) -> list[str]:
    cells = [share(line["validation"]), share(line["test"])]
    for figure in ("parameters", "input_to_hidden", "inputs", "units", "macs_step", "macs_clip"):
        cells.append(f"{line[figure]['mean']:,.0f}" if line[figure] else "")
    if latency is not None:
        ms, reference = line["ms"], latency["models"][latency["reference"]]["median_ms"]
        cells += [f"{ms['mean']:.3f}", f"{ms['mean'] / reference:.2f}x"] if ms else ["", ""]
    return [*cells, f"{line['seconds']['mean']:,.0f}" if line["seconds"] else ""]


def _seeds(line: Mapping[str, Any]) -> str:
    return str(line["seeds"]) if line["finished"] == line["seeds"] else f"{line['finished']} of {line['seeds']}"
