"""A run as one HTML page: what came out, how it was trained, what was pruned, what it confuses.

The page is a single file without any outside resource: styles and plots are in it, and it has no script.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from harfeat.cache import DEFAULT_STREAM
from harvib import bench
from harvib.errors import InputError
from harvib.report.pixels import kept_pixels, pixels_caption, pixels_plot
from harvib.report.plots import Curves, confusion_plot, curves_plot, log_alpha_plot
from harvib.report.table import STATES
from harvib.rundir import RunFolder
from harvib.settings import TrainSettings
from harvib.source import Source
from harvib.weights import load_model, replace_synced

_GATES = {"i": "input gate", "f": "forget gate", "g": "cell gate", "o": "output gate"}


@dataclass(frozen=True)
class Plot:
    """An <svg> element with its heading and the sentence below it."""

    title: str
    svg: Markup
    caption: str = ""


@dataclass(frozen=True)
class Mistake:
    """The class that clips of another are most often taken for, and how many of them."""

    number: int
    name: str
    clips: int


@dataclass(frozen=True)
class ClassFigures:
    """What the final model does with the test clips of one class; classes are numbered from 1."""

    number: int
    name: str
    clips: int
    right: int
    mistaken: Mistake | None

    @property
    def accuracy(self) -> float | None:
        """Share of its clips that are recognised, 0 to 1; None where the test part has none."""
        return self.right / self.clips if self.clips else None


def write_page(run: Path, out: Path) -> Path:
    """Write the page of a finished run to `out`, whole or not at all.

    Raises InputError where the run is not finished, or its folder is damaged, or `out` cannot be written.
    """
    RunFolder(run).report()
    if out.is_dir() or not out.parent.is_dir():
        raise InputError(f"--out {out}: " + ("is a folder" if out.is_dir() else "its folder does not exist"))
    text = page(run)
    temporary = out.with_name(f".{out.name}.part")
    try:
        temporary.write_text(text, encoding="utf-8")
        replace_synced(temporary, out)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written: {error.strerror}") from error
    return out


def page(run: Path) -> str:
    """The page of a finished run as text; equal run folders give equal text."""
    folder = RunFolder(run)
    report, config, latency = folder.report(), folder.config(), bench.measured(run)
    if "confusion" not in report:
        raise InputError(f"{run}: report.json has no confusion matrix, an earlier harvib wrote it: train again")
    rows = folder.rows()
    states = [state for state in STATES if state in report]
    return template("page.html").render(
        run=run.resolve().name,
        report=report,
        config=config,
        states=states,
        table=result_rows(report, states, latency),
        latency=None if latency is None else [bench.conditions(latency), latency["scope"]],
        bench_command=shlex.join(["harvib", "bench", "--model", str(run)]),
        learning=learning_plots(rows),
        alive=alive_plots(rows),
        masks=mask_plots(folder, config["recipe"]) if "masked" in report else [],
        confusion=Markup(confusion_plot("confusion", np.asarray(report["confusion"]))),
        classes=class_figures(report["confusion"], config["classes"]),
        settings=setting_rows(config["settings"]),
        command=command(config, f"{run.resolve().name}-again"),
    )


def template(name: str) -> Template:
    """A template of this folder; whatever is put into it is escaped."""
    environment = Environment(
        loader=PackageLoader("harvib", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def result_rows(
    report: Mapping[str, Any], states: Sequence[str], latency: Mapping[str, Any] | None
) -> list[tuple[str, list[str]]]:
    """The table of results, a line a quantity, a cell a state; a cell is empty where it makes no sense."""

    def row(name: str, *keys: str, form: str) -> tuple[str, list[str]]:
        return name, [format(_inner(report[state], keys), form) for state in states]

    rows = [
        row("inputs", "inputs", form=","),
        row("units", "units", form=","),
        row("parameters", "parameters", "total", form=","),
        row("… recurrent", "parameters", "recurrent", form=","),
        row("… head", "parameters", "head", form=","),
    ]
    if "ratio" in report:
        rows.append(("fewer by", [f"{report['ratio']:,.1f}×" if state == "compact" else "" for state in states]))
    rows.append(row("validation accuracy", "accuracy", "validation", form=".2%"))
    rows.append(row("test accuracy", "accuracy", "test", form=".2%"))
    if latency is not None:
        for name, key in (("ms per clip, median", "median_ms"), ("ms per clip, p95", "p95_ms")):
            cells = [f"{latency[state][key]:.3f}" if state in latency else "" for state in states]
            rows.append((name, cells))
    return rows


def learning_plots(rows: Sequence[Mapping[str, str]]) -> list[Plot]:
    """Accuracy and losses over all epochs of the run, and the KL terms over those of VIB training."""
    if not rows:
        return []
    accuracy = {"train": "train_accuracy", "validation": "val_accuracy"}
    losses = {"loss": "loss", "cross entropy": "ce", "validation": "val_loss", "soft targets": "distill"}
    plots = [
        Plot(
            "Accuracy",
            Markup(curves_plot("accuracy", _curves(rows, accuracy), "share of clips", percent=True)),
            "Train: with dropout and noise, during the epoch. Validation: after it.",
        ),
        Plot(
            "Loss",
            Markup(curves_plot("loss", _curves(rows, losses), "nats per clip")),
            "Loss: everything that is minimised, penalties included. "
            "Cross entropy and validation: without the penalties.",
        ),
    ]
    vib = [row for row in rows if row["stage"] == "vib"]
    if vib:
        divergences = _curves(vib, {"gates": "kl_gates", "input": "kl_input"})
        plots.append(
            Plot(
                "KL of the masks",
                Markup(curves_plot("kl", divergences, "nats")),
                "Before the weights beta; gates: all gate masks together.",
            )
        )
    return plots


def alive_plots(rows: Sequence[Mapping[str, str]]) -> list[Plot]:
    """Inputs and units that VIB training has left, by epoch."""
    vib = [row for row in rows if row["stage"] == "vib"]
    if not vib:
        return []
    kept = _curves(vib, {"inputs": "inputs_kept", "units": "units_kept"})
    caption = f"At the end {int(vib[-1]['inputs_kept']):,} inputs and {int(vib[-1]['units_kept']):,} units."
    return [Plot("Alive during VIB training", Markup(curves_plot("alive", kept, "alive")), caption)]


@torch.no_grad()
def mask_plots(folder: RunFolder, recipe: Mapping[str, Any]) -> list[Plot]:
    """A histogram of log alpha for each mask of the masked model; of pixels also where the kept ones are."""
    masked = load_model(folder.masked)[0]
    pixels = kept_pixels(masked, recipe)
    plots = []
    if pixels is not None:
        plots.append(Plot("Kept pixels", Markup(pixels_plot("pixels", pixels)), pixels_caption(pixels)))
    for name, mask in masked.masks().items():
        log_alpha = mask.log_alpha().numpy()
        title = {"input": "input features", **_GATES}.get(name, name)
        caption = f"{int(mask.keep().sum()):,} of {len(log_alpha):,} kept."
        plots.append(Plot(title.capitalize(), Markup(log_alpha_plot(f"mask-{name}", log_alpha)), caption))
    return plots


def class_figures(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> list[ClassFigures]:
    """One line a class, in their order, from (C, C) counts with rows true and columns predicted."""
    lines = []
    for index, (name, row) in enumerate(zip(classes, confusion, strict=True)):
        wrong = [0 if other == index else count for other, count in enumerate(row)]
        worst = max(range(len(row)), key=wrong.__getitem__)
        mistaken = Mistake(worst + 1, classes[worst], wrong[worst]) if wrong[worst] else None
        lines.append(ClassFigures(index + 1, name, sum(row), row[index], mistaken))
    return lines


def setting_rows(settings: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """Name and value of every setting, and whether it is another than the default."""
    defaults = dataclasses.asdict(TrainSettings())
    return [
        (name.replace("_", " "), str(value), value != defaults.get(name))
        for name, value in sorted(settings.items())
    ]


def command(config: Mapping[str, Any], run_dir: str) -> str:
    """The `harvib train` command that repeats a run in another folder, an option a line.

    Settings at their defaults are left out.
    """
    defaults = dataclasses.asdict(TrainSettings())
    options = [["--features", _features(told)] for told in config.get("streams", [config])]
    options += [["--split", config["split"]], ["--run-dir", run_dir]]
    if config["init"] is not None:
        options.append(["--init", config["init"]])
    for name, value in config["settings"].items():
        option = name.replace("_", "-")
        if value == defaults.get(name):
            continue
        if isinstance(value, bool):
            options.append([f"--{option}" if value else f"--no-{option}"])
        else:
            options.append([f"--{option}", str(value)])
    return " \\\n  ".join(["harvib train", *(shlex.join(words) for words in options)])


def _features(told: Mapping[str, Any]) -> str:
    """A cache's file, and the stream of it where that is another than the default."""
    stream = told.get("stream", DEFAULT_STREAM)
    return str(Source(Path(told["features"]), "" if stream == DEFAULT_STREAM else stream))


def _curves(rows: Sequence[Mapping[str, str]], columns: Mapping[str, str]) -> Curves:
    """The columns that have values, by their labels; the stages as they follow each other."""
    stages: dict[str, int] = {}
    for row in rows:
        stages[row["stage"]] = stages.get(row["stage"], 0) + 1
    series = {label: np.array([float(row[column] or "nan") for row in rows]) for label, column in columns.items()}
    shown = {label: values for label, values in series.items() if (np.nan_to_num(values) != 0).any()}
    return Curves(list(stages.items()), shown)


def _inner(value: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        value = value[key]
    return value
