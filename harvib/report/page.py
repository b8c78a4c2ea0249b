"""Runs as one HTML page: the frontier of all of them, the published table beside them, and each run by itself.

The page is a single file without any outside resource: styles and plots are in it, and it has no script.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from harvib.bench import medians
from harvib.frontier import CONFIDENCE, grouped
from harvib.measure import ACCURACY, measure_of, parts_named, score_of
from harvib.report.frontier import Line, cells, lines_of, plots
from harvib.report.published import Comparison, compare
from harvib.report.run import section
from harvib.report.runs import Run, read_runs
from harvib.report.table import align, report_table
from harvib.report.template import Plot, check_out, template, write_text

KINDS = {"compact": "compact", "plain": "plain", "masked": "masked"}


@dataclass(frozen=True, eq=False)
class Data:
    """The runs of one data set and split, whose test accuracies may be compared."""

    title: str
    plots: Sequence[Plot]
    lines: Sequence[Line]
    published: Comparison | None
    measure: str

    @property
    def table(self) -> list[list[str]]:
        """The settings with their figures, a head first."""
        return cells(self.lines, KINDS, self.measure)


@dataclass(frozen=True)
class Summary:
    """For the terminal: the figures as text, and a line for each run that did not end by itself."""

    table: str
    notes: tuple[str, ...]


def write_page(runs: Sequence[Path], out: Path, published: str | None = None) -> Summary:
    """Write the page of some runs to `out`, whole or not at all.

    `published` names the table of the paper to set beside them; without it that of the data set which the runs'
    caches name, if any. Raises InputError where a folder holds no run or is damaged, or `out` cannot be written.
    """
    found = read_runs(runs)
    check_out(out)
    write_text(out, _page(found, published))
    return Summary(_table(found, published), tuple(f"{run.path}: {run.note}" for run in found if run.note))


def page(runs: Sequence[Path], published: str | None = None) -> str:
    """The page as text; equal run folders give equal text."""
    return _page(read_runs(runs), published)


def _page(runs: Sequence[Run], published: str | None) -> str:
    single = len(runs) == 1
    measures = {measure_of(run.report) for run in runs if run.report is not None}
    bar = tqdm(runs, desc="report", unit="run", disable=single)
    return template("page.html").render(
        runs=runs,
        single=single,
        title=runs[0].name if single else f"{len(runs)} runs",
        data=_data(runs, published),
        confidence=CONFIDENCE,
        score_of=score_of,
        measure_of=measure_of,
        mixed=len(measures) > 1,
        scores=parts_named(ACCURACY if len(measures) > 1 else next(iter(measures), ACCURACY)),
        sections=[section(run, f"r{number}-") for number, run in enumerate(bar, 1)],
    )


def _table(runs: Sequence[Run], published: str | None) -> str:
    """Of one run its states, of a fused one with its streams all of theirs, else the settings over their seeds."""
    if len(runs) > 1 and not runs[0].fused:
        return "\n\n".join(f"{data.title}\n{align(data.table)}" for data in _data(runs, published))
    run = runs[0]
    if run.report is None:
        return ""
    if run.latency is not None:
        return report_table(run.report, medians(run.latency))
    return f"{report_table(run.report)}\nlatency is not measured yet: harvib bench --model {run.path}"


def _data(runs: Sequence[Run], published: str | None) -> list[Data]:
    """Finished runs by what they were tested on."""
    finished = [run for run in runs if run.report is not None]
    groups = grouped(((run.report or {}).get("split_hash"), run) for run in finished)
    found = []
    for number, group in enumerate(groups.values(), 1):
        lines = lines_of(group)
        # One point alone is no frontier.
        measure = measure_of(group[0].report or {})
        drawn = plots(lines, KINDS, f"d{number}-", measure) if len(lines) > 1 else []
        title = f"{group[0].features}, split {group[0].config['split']}"
        found.append(Data(title, drawn, lines, compare(group, lines, published), measure))
    return found
