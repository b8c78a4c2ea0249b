"""What a page tells of one run: figures, training, what was pruned, what it confuses, how to repeat it."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from markupsafe import Markup

from harvib import bench
from harvib.factorised.sparse import ENTRIES
from harvib.measure import measure_of, score_of
from harvib.report.classes import ClassFigures, class_figures
from harvib.report.pixels import kept_pixels, pixels_caption, pixels_plot
from harvib.report.plots import Curves, confusion_plot, curves_plot, log_alpha_plot
from harvib.report.runs import Run, features_of
from harvib.report.template import Plot
from harvib.rundir import RunFolder
from harvib.settings import TrainSettings
from harvib.weights import load_model

_GATES = {
    "i": "input gate", "f": "forget gate", "g": "cell gate", "o": "output gate",
    "r": "reset gate", "u": "update gate", "n": "candidate", "h": "states", "p": "projection",
}  # fmt: skip
_MATRICES, _BOND = {"ih": "W_ih", "hh": "W_hh"}, "r"
_SEVERAL = {"GAP@20": "gap", "Hit@1": "accuracy", "PERR": "perr", "mAP": "map"}
"""Names and keys of the figures of clips with several labels."""
_INDICES = {"block": "blocks", ENTRIES: "entries"}
_DIRECTIONS = {"f": "forward", "b": "backward"}
_POOLING = {"clusters": "clusters", "fc": "units of the FC layer"}


@dataclass(frozen=True, eq=False)
class Section:
    """One run on a page; every part is empty where the run has nothing of it."""

    run: Run
    lead: str
    table: Sequence[tuple[str, Sequence[str]]]
    agreement: str
    latency: Sequence[str]
    runtimes: Sequence[Sequence[str]]
    bench_command: str
    training: Sequence[Plot]
    masks: Sequence[Plot]
    confusion: Plot | None
    classes: Sequence[ClassFigures]
    settings: Sequence[tuple[str, str, bool]]
    facts: Sequence[tuple[str, str]]
    command: str

    @property
    def model(self) -> str:
        """The model in a few words."""
        settings = self.run.settings
        layers = f", {settings['layers']} layers" if settings["layers"] > 1 else ""
        both = ", both directions" if settings["bidirectional"] else ""
        return f"{settings['model']}{layers}{both}"


def section(run: Run, prefix: str = "") -> Section:
    """What a page tells of a run; ids in its plots begin with `prefix`."""
    report = run.report or {}
    folder = RunFolder(run.path)
    confusion = np.asarray(report.get("confusion", []))
    right = f"{np.trace(confusion):,} of {confusion.sum():,} test clips are right" if confusion.size else ""
    drawn = None
    if confusion.size:
        alt = f"Confusion of {len(confusion)} classes: {right}."
        drawn = Plot("Confusion", Markup(confusion_plot(f"{prefix}confusion", confusion, alt)), f"{right}.")
    compaction = report.get("compaction")
    return Section(
        run=run,
        lead=_lead(run),
        table=result_rows(run),
        agreement="" if compaction is None else f"{compaction['max_abs_difference']:.0e}",
        latency=[] if run.latency is None else bench.sentences(run.latency),
        runtimes=bench.cells_of((run.latency or {}).get("rows", [])),
        bench_command=shlex.join(["harvib", "bench", "--model", str(run.path)]) if run.report else "",
        training=[*learning_plots(run.rows, prefix), *alive_plots(run.rows, prefix)],
        masks=mask_plots(folder, run.config.get("recipe") or {}, prefix) if folder.masked.is_file() else [],
        confusion=drawn,
        classes=class_figures(confusion.tolist(), run.config["classes"]) if confusion.size else [],
        settings=setting_rows(run.config["settings"]),
        facts=_facts(run),
        command=command(run.config, f"{run.path.resolve().name}-again"),
    )


def _lead(run: Run) -> str:
    """What came out, in a sentence or two."""
    if run.report is None:
        return ""
    plain, final = run.report["plain"], run.report[run.states[-1]]
    large, small = plain["parameters"]["total"], final["parameters"]["total"]
    measure = measure_of(run.report)
    if run.states[-1] != "compact":
        return f"A {run.states[-1]} model of {small:,} parameters. Test {measure} {score_of(final)['test']:.2%}."
    budget = run.report.get("budget")
    asked = f" The budget was {budget['target']:,}." if budget else ""
    return (
        f"{large / small:,.1f} times fewer parameters: {small:,} in place of {large:,}.{asked} "
        f"Test {measure} {score_of(final)['test']:.2%}, plain {score_of(plain)['test']:.2%}."
    )


def _facts(run: Run) -> list[tuple[str, str]]:
    """Seed, times, device, versions and hashes, as far as they are known."""
    told = {**run.config, **(run.report or {})}
    facts = [("seed", str(run.settings["seed"]))]
    if seconds := told.get("seconds"):
        facts.append(("seconds", ", ".join(f"{stage} {taken:,.0f}" for stage, taken in seconds.items())))
    if device := told.get("device"):
        facts.append(("device", str(device)))
    if versions := told.get("versions"):
        facts.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    hashes = {"features": "fingerprint", "split": "split_hash", "parts": "parts_hash"}
    return facts + [(name, str(told[key])) for name, key in hashes.items() if key in told]


def result_rows(run: Run) -> list[tuple[str, list[str]]]:
    """The table of results, a line a quantity, a cell a state; a cell is empty where it makes no sense."""
    report, states, latency = run.report or {}, run.states, run.latency
    if not states:
        return []

    def row(name: str, *keys: str, form: str) -> tuple[str, list[str]]:
        return name, [format(_inner(report[state], keys), form) for state in states]

    rows = [
        row("inputs", "inputs", form=","),
        row("units", "units", form=","),
        row("parameters", "parameters", "total", form=","),
        row("… clusters and FC" if run.pools else "… recurrent", "parameters", "recurrent", form=","),
        row("… head", "parameters", "head", form=","),
    ]
    # Reports from before they were counted lack them.
    if all("input_to_hidden" in report[state]["parameters"] for state in states):
        reads = "… of clusters on inputs" if run.pools else "… from inputs to hidden"
        rows.insert(4, row(reads, "parameters", "input_to_hidden", form=","))
    if "compact" in states:
        ratio = report["plain"]["parameters"]["total"] / report["compact"]["parameters"]["total"]
        rows.append(("fewer by", [f"{ratio:,.1f}×" if state == "compact" else "" for state in states]))
    several = all("gap" in report[state] for state in states)
    for name, key in _SEVERAL.items() if several else (("accuracy", "accuracy"),):
        rows += [row(f"{part} {name}", key, part, form=".2%") for part in ("validation", "test")]
    if "backbone" in report:
        sides = [report["backbone"]["after" if state == "compact" else "before"] for state in states]
        rows.append(("backbone parameters, apart", [f"{side['parameters']:,}" for side in sides]))
        rows.append(("multiply-adds a frame, apart", [f"{side['multiply_adds']:,}" for side in sides]))
    if latency is not None:
        for name, key in (("ms per clip, median", "median_ms"), ("ms per clip, p95", "p95_ms")):
            cells = [f"{latency[state][key]:.3f}" if state in latency else "" for state in states]
            rows.append((name, cells))
    return rows


def learning_plots(rows: Sequence[Mapping[str, str]], prefix: str = "") -> list[Plot]:
    """Accuracy and losses over all epochs of the run, and the KL terms over those of VIB training."""
    if not rows:
        return []
    several = any(row.get("val_gap") for row in rows)
    accuracy = {"train": "train_accuracy", "validation": "val_accuracy"}
    if several:
        accuracy = {
            "train Hit@1": "train_accuracy",
            "validation Hit@1": "val_accuracy",
            "validation GAP@20": "val_gap",
        }
    losses = {"loss": "loss", "cross entropy": "ce", "validation": "val_loss", "soft targets": "distill"}
    plots = [
        Plot(
            "Hit@1 and GAP@20" if several else "Accuracy",
            Markup(
                curves_plot(
                    f"{prefix}accuracy",
                    _curves(rows, accuracy),
                    "share" if several else "share of clips",
                    percent=True,
                )
            ),
            "Train: with dropout and noise, during the epoch. Validation: after it.",
        ),
        Plot(
            "Loss",
            Markup(curves_plot(f"{prefix}loss", _curves(rows, losses), "nats per clip")),
            "Loss: everything that is minimised, penalties included. "
            "Cross entropy and validation: without the penalties.",
        ),
    ]
    divergences = _curves(_pruning(rows), {"gates": "kl_gates", "input": "kl_input"})
    if divergences.series:
        caption = "Before the weights beta; gates: all gate masks together."
        plots.append(Plot("KL of the masks", Markup(curves_plot(f"{prefix}kl", divergences, "nats")), caption))
    return plots


def alive_plots(rows: Sequence[Mapping[str, str]], prefix: str = "") -> list[Plot]:
    """Inputs and units that the pruning stages have left, by epoch."""
    pruning = _pruning(rows)
    if not pruning:
        return []
    kept = _curves(pruning, {"inputs": "inputs_kept", "units": "units_kept"})
    caption = (
        f"At the end {int(pruning[-1]['inputs_kept']):,} inputs and {int(pruning[-1]['units_kept']):,} units."
    )
    alive = Markup(curves_plot(f"{prefix}alive", kept, "alive"))
    return [Plot("Inputs and units alive by epoch", alive, caption)]


@torch.no_grad()
def mask_plots(folder: RunFolder, recipe: Mapping[str, Any], prefix: str = "") -> list[Plot]:
    """A histogram of log alpha for each mask of the masked model; of pixels also where the kept ones are.

    `recipe` is that of the cache it was trained on.
    """
    masked = load_model(folder.masked)[0]
    plots = []
    if (pixels := kept_pixels(masked, recipe)) is not None:
        caption = pixels_caption(pixels)
        svg = pixels_plot(f"{prefix}pixels", pixels, f"Pixels of the frame that the input mask keeps. {caption}")
        plots.append(Plot("Kept pixels", Markup(svg), caption))
    for name, mask in masked.masks().items():
        log_alpha = mask.log_alpha().numpy()
        title = mask_title(name, getattr(masked.spec, "projected", False))
        told = f"{int(mask.keep().sum()):,} of {len(log_alpha):,} kept."
        alt = f"Histogram of log alpha, {title}: {told}"
        svg = log_alpha_plot(f"{prefix}mask-{name.replace('.', '-')}", log_alpha, alt)
        plots.append(Plot(title[0].upper() + title[1:], Markup(svg), told))
    return plots


def mask_title(name: str, projected: bool = False) -> str:
    """A mask's name for people: `2b.i` is the input gate of the second layer's backward cell.

    Of a projected model the first layer is the projection, and layers are counted from the one after it.
    """
    if name == "input":
        return "input features"
    of_pooling, _, stream = name.partition(".")
    if of_pooling in _POOLING:
        return _POOLING[of_pooling] + (f" of stream {stream}" if stream else "")
    place, _, gate = name.rpartition(".")
    if place == "between":
        return f"what layer {int(gate) - projected} reads"
    side, _, bond = gate.rpartition("-")
    if side in _MATRICES:
        where = "the projection" if projected else _MATRICES[side]
        return f"{_INDICES.get(bond, f'bond {bond.removeprefix(_BOND)}')} of {where}"
    if projected and place[:-1] == "1":
        return "projection"
    told = _GATES.get(gate, gate)
    return told if not place else f"layer {int(place[:-1]) - projected}, {_DIRECTIONS[place[-1]]}: {told}"


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
    cache = "--videos" if "backbone" in config else "--features"
    options = [[cache, told] for told in features_of(config)]
    options += [["--split", config["split"]], ["--run-dir", run_dir]]
    if config["init"] is not None:
        options.append(["--init", config["init"]])
    if config.get("teacher") is not None:
        options.append(["--teacher", config["teacher"]])
    if told := config.get("backbone"):
        options += [["--backbone", told["model"]], ["--backbone-weights", told["from"]]]
        options.append(["--backbone-lr", str(told["lr"])])
    for name, value in config["settings"].items():
        option = name.replace("_", "-")
        if value == defaults.get(name):
            continue
        if isinstance(value, bool):
            options.append([f"--{option}" if value else f"--no-{option}"])
        else:
            options.append([f"--{option}", str(value)])
    return " \\\n  ".join(["harvib train", *(shlex.join(words) for words in options)])


def _pruning(rows: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    return [row for row in rows if row["stage"] in ("vib", "lasso")]


def _curves(rows: Sequence[Mapping[str, str]], columns: Mapping[str, str]) -> Curves:
    """The columns that have values, by their labels; the stages as they follow each other."""
    stages: dict[str, int] = {}
    for row in rows:
        stages[row["stage"]] = stages.get(row["stage"], 0) + 1
    series = {
        label: np.array([float(row.get(column) or "nan") for row in rows]) for label, column in columns.items()
    }
    shown = {label: values for label, values in series.items() if (np.nan_to_num(values) != 0).any()}
    return Curves(list(stages.items()), shown)


def _inner(value: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        value = value[key]
    return value
