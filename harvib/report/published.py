"""The paper's table beside what the runs of a page measured, by size, and what keeps both from comparing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harvib.published import CLASSES, FRAMES, MODEL, SLACK, SPLITS, TABLES, Published
from harvib.report.frontier import share, shown_value
from harvib.report.runs import Run

_ALWAYS = (
    "The paper fine-tunes the last block of its backbone and reads the last state by Linear-BN-ReLU-Linear; here "
    "features stay as they are and the head is one linear layer."
)


@dataclass(frozen=True)
class Entry:
    """One line of the table: a published row, or (`measured`) a setting of the page's runs.

    `mark` is the number of its note, 0 for none.
    """

    measured: bool
    size: float
    cells: tuple[str, ...]
    mark: int = 0


@dataclass(frozen=True)
class Comparison:
    """The lines, largest first, and what of data and protocol differs from the paper's, a sentence each."""

    table: str
    head: tuple[str, ...]
    entries: Sequence[Entry]
    notes: Sequence[str]
    data_differs: Sequence[str]
    protocol: str


def compare(runs: Sequence[Run], lines: Sequence[Mapping[str, Any]], table: str | None) -> Comparison | None:
    """The table that `table` or else the runs' own data set names, with the lines of the runs; None for none."""
    # A fused run's data are those of its streams, which stand among the runs.
    runs = [run for run in runs if not run.fused]
    named = {run.config.get("dataset") for run in runs}
    table = table or next((name for name in TABLES if named == {name}), None)
    if table is None:
        return None
    names = list(dict.fromkeys(name for line in lines for name in line["swept"]))
    notes = list(dict.fromkeys(note for row in TABLES[table] if (note := _note(row))))
    entries = [_published(row, notes) for row in TABLES[table]]
    entries += [_measured(line, names) for line in lines if line["kind"] != "masked"]
    entries.sort(key=lambda entry: -entry.size)
    head = ("", "published %", "measured %", "recurrent parameters", "inputs", "units")
    return Comparison(table, head, entries, notes, _differences(runs, table), _ALWAYS)


def _note(row: Published) -> str:
    if row.misprint:
        return f"printed as {row.parameters}, which is not the count of this shape"
    return row.note


def _published(row: Published, notes: Sequence[str]) -> Entry:
    count = row.count()
    printed = row.parameters if count is None else f"{count:,}"
    inputs, units = ("" if size is None else f"{size:,}" for size in (row.inputs, row.hidden))
    mark = notes.index(note) + 1 if (note := _note(row)) else 0
    what = f"{row.method}, {row.source}"
    return Entry(False, row.size(), (what, row.accuracy, "", printed, inputs, units), mark)


def _measured(line: Mapping[str, Any], names: Sequence[str]) -> Entry:
    swept = {name: shown_value(line["swept"].get(name)) for name in names}
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in swept.items() if value)
    what = f"harvib, {line['kind']}" + (f" ({told})" if told else "")
    ranges = (_range(line[figure]) for figure in ("recurrent", "inputs", "units"))
    return Entry(True, line["recurrent"]["mean"], (what, "", share(line["test"]).replace("%", ""), *ranges))


def _range(found: Mapping[str, Any]) -> str:
    low, high = found["low"], found["high"]
    return f"{low:,.0f}" if low == high else f"{low:,.0f}–{high:,.0f}"


def _differences(runs: Sequence[Run], table: str) -> list[str]:
    """What the runs' configs tell of their data that is not the paper's; of equals once."""
    return list(dict.fromkeys(text for run in runs for text in _of_run(run, table)))


def _of_run(run: Run, table: str) -> list[str]:
    config, found = run.config, []
    recipe = config.get("recipe") or {}
    named = config.get("dataset")
    if named != table:
        what = "does not tell its data set" if named is None else f"is of {named}"
        found.append(f"The cache {run.features} {what}; this is the table of {table}.")
    if len(config["classes"]) != CLASSES[table]:
        found.append(f"{len(config['classes'])} classes, not the {CLASSES[table]} of {table}.")
    if recipe.get("model") != MODEL:
        model = recipe.get("model")
        found.append(f"Features {f'of {model}' if model else 'made elsewhere'}, not of {MODEL}.")
    sampling = recipe.get("sampling") or {}
    if (sampling.get("rule"), sampling.get("frames")) != ("first", FRAMES):
        found.append(f"Clips not sampled as {FRAMES} frames from the start at a fixed interval.")
    sizes = SPLITS[table].get(config["split"])
    if sizes is None:
        found.append(f"Split {config['split']}, not one of the paper's ({', '.join(SPLITS[table])}).")
    elif run.report is not None:
        clips = sum(map(sum, run.report.get("confusion", [])))
        if abs(clips - sizes[1]) > SLACK.get(table, 0):
            found.append(f"{clips:,} test clips, not {sizes[1]:,}.")
    return found
