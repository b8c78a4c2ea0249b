"""Methods at equal numbers of parameters: a sweep whose points are (method, budget, trial, seed).

The folder is that of a sweep (harvib/sweep.py), so methods that prune the same plain model share one training of
it, and the same command goes on. Beside `plain`, `runs` and `logs` it holds

DIR/compare.json, compare.csv, compare.html   all figures, written last
DIR/latency.json   what was measured at the end, all models in turns
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harvib.bench import BenchSettings, measure
from harvib.budget import target_of
from harvib.classifier import Classifier
from harvib.errors import InputError
from harvib.frontier import CONFIDENCE, FIGURES, figures_of, grouped, settings_of
from harvib.macs import COUNTED, macs_of
from harvib.measure import ACCURACY, GAP
from harvib.points import Point, Value, plain_settings
from harvib.rivals import METHODS, TRIALS, NoModelError, Task
from harvib.runconfig import plain_spec
from harvib.rundir import RunFolder, read_json, write_json
from harvib.settings import TrainSettings
from harvib.source import opened, source_of
from harvib.sweep import Sweep, row_of, run_points, write_csv
from harvib.weights import ModelCard, card_of, load_model

COMPARED = (*FIGURES, "input_to_hidden", "macs_step", "macs_clip", "seconds")
REFERENCE = "LSTM-256"
"""The plain model that latencies are told against; an LSTM takes as long whatever its weights."""
SELECTION = (
    "At each budget the best method is the one with the highest mean validation {measure}, among those of which "
    "every seed finished; test {measure} has no part in it."
)

_COLUMNS = ("kind", "run", "seed", *COMPARED, "error")
_RECIPES_OWN = frozenset(
    {
        "method", "model", "hidden", "layers", "bidirectional", "kernel", "project", "factorize", "rank", "ranks",
        "input_modes", "unit_modes", "blocks", "factors", "factorize_hidden", "select_inputs", "target_params",
        "target_ratio", "max_drop", "seed",
    }
)  # fmt: skip
CHANGEABLE = tuple(item.name for item in dataclasses.fields(TrainSettings) if item.name not in _RECIPES_OWN)
"""Settings that a user may give for all methods: how to train, not what."""


@dataclass(frozen=True)
class Contest:
    """Who takes part: names of methods, budgets in parameters, how many seeds (0, 1, ...) and how many trials.

    `changes` are settings that replace those of every recipe. Validated when made.
    """

    methods: tuple[str, ...]
    budgets: tuple[int, ...]
    seeds: int = 3
    trials: int = 1
    changes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.methods:
            if name not in METHODS:
                raise InputError(f"--methods {name}: no such method; there are {', '.join(METHODS)}")
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise InputError(f"--methods {','.join(self.methods)}: name methods, each once")
        if not self.budgets or len(set(self.budgets)) < len(self.budgets):
            raise InputError(f"--budgets {','.join(map(str, self.budgets))}: name budgets, each once")
        if least := [budget for budget in self.budgets if budget < 1]:
            raise InputError(f"--budgets {least[0]}: must be at least 1")
        if not 1 <= self.seeds <= 1000:
            raise InputError(f"--seeds {self.seeds}: a number of seeds, from 1 to 1000")
        if not 1 <= self.trials <= TRIALS:
            raise InputError(f"--trials {self.trials}: must be from 1 to {TRIALS}, which every recipe offers")
        for name in self.changes:
            if name not in CHANGEABLE:
                raise InputError(f"{name}: no setting that all methods could be given")


@dataclass(frozen=True)
class Entry(Point):
    """A run of a comparison. Methods share a plain model wherever its settings are the same.

    `taught_by` are the settings of the plain model that is its teacher, if another than its own.
    """

    taught_by: TrainSettings | None = None

    def teacher(self) -> Point | None:
        """The plain model that teaches."""
        if self.taught_by is None:
            return None
        return _shared(dataclasses.replace(plain_settings(self.taught_by), seed=self.settings.seed))

    def plain(self) -> Point:
        """The run whose plain model it starts from, named by all that is not a default."""
        teacher = self.teacher()
        if teacher is None or self.settings.method != "plain":
            return _shared(plain_settings(self.settings))
        swept = (*_shared(self.settings).swept, ("teacher", teacher.name))
        return Entry(swept, self.settings, self.taught_by)


def _shared(settings: TrainSettings) -> Point:
    defaults = dataclasses.asdict(TrainSettings(method="plain"))
    told = dataclasses.asdict(settings).items()
    return Point(
        tuple((name, value) for name, value in told if value != defaults[name] and name != "seed"), settings
    )


@dataclass(frozen=True)
class Ground:
    """What a comparison runs on: features a step, the classes, and the median number of steps of a clip."""

    features: int
    card: ModelCard
    steps: int

    @property
    def measure(self) -> str:
        """What models are chosen by."""
        return GAP if self.card.several else ACCURACY


def methods_of(text: str) -> tuple[str, ...]:
    """Methods from `vib,iss,mean`, or all of them from `all`."""
    return tuple(METHODS) if text == "all" else tuple(word.strip() for word in text.split(","))


def budgets_of(text: str) -> tuple[int, ...]:
    """Budgets from `1e3,1e4,100000`, ascending. Raises InputError."""
    found = []
    for word in text.split(","):
        try:
            value = float(word)
        except ValueError:
            raise InputError(f"--budgets {text}: {word.strip() or 'nothing'} is not a number") from None
        if not math.isfinite(value) or value != int(value):
            raise InputError(f"--budgets {text}: {word.strip()} is not a whole number of parameters")
        found.append(int(value))
    return tuple(sorted(found))


def ground_of(features: Path) -> Ground:
    """What stands in a cache. Raises InputError and CacheError."""
    with opened(source_of(features)) as (cache, stream):
        steps = round(float(np.median(cache.lengths(stream))))
        return Ground(cache.dim(stream), card_of(cache, stream), max(1, steps))


def entries_of(contest: Contest, ground: Ground) -> tuple[list[Entry], list[dict[str, Any]]]:
    """All runs, and where a method has no model, with the reason; `trial` is None where no trial has one.

    Raises InputError where settings do not go together, and where a budget leaves no method at all.
    """
    entries: list[Entry] = []
    absent: list[dict[str, Any]] = []
    for budget in contest.budgets:
        reasons = []
        for method in contest.methods:
            found: list[tuple[int, TrainSettings, TrainSettings | None]] = []
            refused: list[tuple[int, str]] = []
            for trial in range(contest.trials):
                task = Task(budget, ground.features, ground.card, trial)
                try:
                    found.append((trial, *_settings(contest, method, task)))
                except NoModelError as error:
                    refused.append((trial, str(error)))
            for trial, settings, teacher in found:
                swept: tuple[tuple[str, Value], ...] = (("method", method), ("budget", budget), ("trial", trial))
                for seed in range(contest.seeds):
                    entries.append(Entry(swept, dataclasses.replace(settings, seed=seed), teacher))
            if not found:
                reasons.append(f"{method}: {refused[0][1]}")
            absent += [
                {"method": method, "budget": budget, "trial": trial if found else None, "reason": reason}
                for trial, reason in (refused if found else refused[:1])
            ]
        if len(reasons) == len(contest.methods):
            raise InputError(f"--budgets {budget}: no method has a model of this size here; {reasons[0]}")
    return entries, absent


def _settings(contest: Contest, method: str, task: Task) -> tuple[TrainSettings, TrainSettings | None]:
    """Of a recipe and its teacher, with the user's changes.

    Raises InputError where they do not go with it, and NoModelError.
    """
    rival = METHODS[method]
    settings, teacher = rival.recipe(task), rival.teacher
    changes = {name: value for name, value in contest.changes.items() if name not in rival.cannot}
    try:
        settings = dataclasses.replace(settings, **changes)
        teacher = teacher and dataclasses.replace(teacher, **changes)
    except InputError as error:
        raise InputError(f"method {method}: {error}") from error
    try:
        target_of(settings, plain_spec(settings, task.features, task.card))
    except InputError as error:
        raise NoModelError(str(error)) from error
    return settings, teacher


def run_compare(sweep: Sweep, contest: Contest) -> dict[str, Any]:
    """Run all methods at all budgets, and return what also stands in compare.json.

    Resumes and tells of failed runs as `run_sweep` does. `runs` are rows, a run each; `lines` one a method and
    budget, of the trial with the highest mean validation accuracy; `absent` where a method has no model. Raises
    InputError and CacheError before anything is run.
    """
    sweep = sweep.absolute()
    ground = ground_of(sweep.features)
    entries, absent = entries_of(contest, ground)
    errors = run_points(sweep, entries)
    runs, plains = (
        [_row(sweep, entry, errors, ground) for entry in entries],
        _plains(sweep, entries, errors, ground),
    )
    lines = _chosen(settings_of(runs, COMPARED))
    latency = None
    if sweep.bench:
        shown = {tuple(line["swept"].items()) for line in lines}
        timed = [row["run"] for row in runs if row["error"] is None and tuple(row["swept"].items()) in shown]
        latency = _latency(sweep.out, timed, ground)
        for row in runs:
            if row["run"] in timed:
                row["ms"] = latency["models"][row["run"]]["median_ms"]
        lines = _chosen(settings_of(runs, COMPARED))
    result: dict[str, Any] = {
        "features": str(sweep.features),
        "split": sweep.split,
        "steps": ground.steps,
        "budgets": list(contest.budgets),
        "methods": {name: {"title": METHODS[name].title, "ours": METHODS[name].ours} for name in contest.methods},
        "trials": contest.trials,
        "seeds": contest.seeds,
        "changes": dict(contest.changes),
        "not_passed_on": {
            name: left
            for name in contest.methods
            if (left := sorted(contest.changes.keys() & set(METHODS[name].cannot)))
        },
        "confidence": CONFIDENCE,
        "measure": ground.measure,
        "selection": SELECTION.format(measure=ground.measure),
        "macs": COUNTED,
        "failed": len(errors),
        "runs": [*plains, *runs],
        "lines": lines,
        "plain": settings_of(plains, COMPARED),
        "absent": absent,
        "latency": latency,
    }
    write_json(sweep.out / "compare.json", result)
    write_csv(sweep.out / "compare.csv", result["runs"], _COLUMNS)
    return result


def _row(sweep: Sweep, entry: Entry, errors: Mapping[str, str], ground: Ground) -> dict[str, Any]:
    row = row_of("run", entry, COMPARED)
    if entry.name in errors:
        return row | {"error": errors[entry.name]}
    folder = RunFolder(sweep.out / "runs" / entry.name)
    report = folder.report()
    figures = report["compact" if "compact" in report else "plain"]
    # The plain model was trained in its own folder, and so was a teacher.
    before = [entry.plain().name, *([teacher.name] if (teacher := entry.teacher()) else [])]
    reports = [report, *(RunFolder(sweep.out / "plain" / name).report() for name in before)]
    seconds = sum(sum(each["seconds"].values()) for each in reports)
    return row | _figures(figures, load_model(folder.model)[0], ground.steps, seconds)


def _plains(
    sweep: Sweep, entries: Sequence[Entry], errors: Mapping[str, str], ground: Ground
) -> list[dict[str, Any]]:
    """A row for each plain model that pruning has started from."""
    rows: dict[str, dict[str, Any]] = {}
    for entry in entries:
        point = entry.plain()
        if entry.name in errors or entry.settings.method == "plain" or point.name in rows:
            continue
        folder = RunFolder(sweep.out / "plain" / point.name)
        report = folder.report()
        model = load_model(folder.model)[0]
        found = _figures(report["plain"], model, ground.steps, sum(report["seconds"].values()))
        rows[point.name] = row_of("plain", point, COMPARED) | found
    return list(rows.values())


def _figures(figures: Mapping[str, Any], model: Classifier, steps: int, seconds: float) -> dict[str, Any]:
    macs = macs_of(model, steps)
    return figures_of(figures, None) | {
        "input_to_hidden": figures["parameters"]["input_to_hidden"],
        "macs_step": macs.step,
        "macs_clip": macs.clip,
        "seconds": seconds,
    }


def _chosen(settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The line of the best trial of each method and budget, with `best` where no method is better there."""
    lines: list[dict[str, Any]] = []
    for group in grouped(((line["swept"]["method"], line["swept"]["budget"]), line) for line in settings).values():
        # Whole trials first; of equals the earliest.
        best = max(group, key=lambda line: (line["finished"] == line["seeds"], _validation(line)))
        lines.append({**best, "best": False})
    for same in grouped((line["swept"]["budget"], line) for line in lines).values():
        whole = [line for line in same if line["finished"] == line["seeds"]]
        highest = max(map(_validation, whole), default=math.nan)
        for line in whole:
            line["best"] = _validation(line) == highest
    return lines


def _validation(line: Mapping[str, Any]) -> float:
    return line["validation"]["mean"] if line["validation"] else -math.inf


def _latency(out: Path, runs: Sequence[str], ground: Ground) -> dict[str, Any]:
    """Latencies of these models and of the reference, in turns; taken over where measured together."""
    path = out / "latency.json"
    settings = BenchSettings(steps=ground.steps)
    # A run may have been deleted and trained anew, with other settings.
    files = {run: hashlib.sha256(RunFolder(out / "runs" / run).model.read_bytes()).hexdigest() for run in runs}
    if path.is_file():
        found = read_json(path)
        if found.get("settings") == dataclasses.asdict(settings) and found.get("files") == files:
            return found
    plain = plain_spec(TrainSettings(method="plain"), ground.features, ground.card)
    models: dict[str, Classifier] = {REFERENCE: plain.build().eval()}
    models |= {run: load_model(RunFolder(out / "runs" / run).model)[0] for run in runs}
    told = measure(models, REFERENCE, settings)
    result = {"reference": REFERENCE, "models": {name: told.pop(name) for name in models}, "files": files, **told}
    write_json(path, result)
    return result
