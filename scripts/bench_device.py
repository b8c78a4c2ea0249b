"""The paper's models on this machine: how much faster the compact ones are than its plain LSTM, in every runtime.

    python scripts/bench_device.py --out results/bench_device.json

One thread, one run, all in turns on the same random clips of 32 steps x 2048 features, random weights (the work of
a dense LSTM is the same for all values). The plain LSTM has 2048 units on 2048 inputs. `VIB 46,9` is the paper's
compact model of UCF11: 46 of the 2048 inputs, 9 units; the others are of its table and supplement. Ratios are of
medians, to the plain LSTM in torch; the aims are at least 1,000x in onnxruntime and 3,000x in C for the first of
them. What each row is stands in harvib/bench; pin the process to a core (taskset -c 0) on a machine that does
nothing else.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch

from harvib.bench import BenchSettings, cells_of
from harvib.bench.memory import MEANING
from harvib.bench.rows import measure_rows
from harvib.bench.run import conditions_of
from harvib.bench.runtimes import REFERENCE, RUNTIMES, about
from harvib.bench.subject import Subject
from harvib.bench.table import reasons
from harvib.macs import COUNTED
from harvib.models import ModelSpec, SequenceClassifier
from harvib.published import CLASSES, FEATURES, FRAMES
from harvib.report.table import align
from harvib.weights import ModelCard

Size = tuple[int, int]
"""Inputs and units."""
PLAIN: Size = (2048, 2048)
COMPACT = ((46, 9), (33, 12), (88, 64), (266, 224))
AIMS = {"onnx": 1000.0, "c": 3000.0, "c-loop": 3000.0}
QUICK_FEATURES, QUICK_PLAIN, QUICK_COMPACT, QUICK_FRAMES = 24, (24, 16), ((5, 3), (4, 4)), 4


def subjects_of(features: int, plain: Size, compact: Sequence[Size], classes: int, seed: int) -> list[Subject]:
    """The plain model, then the compact ones, with random weights; sizes are (inputs, units)."""
    torch.manual_seed(seed)
    card = ModelCard(tuple(map(str, range(classes))), "random")
    found = []
    for state, sizes in (("plain", (plain,)), ("compact", compact)):
        for inputs, units in sizes:
            # Plain and compact specs differ in nothing that is timed but in what they read.
            spec = ModelSpec("lstm", state, features, inputs, ((units,),), classes)  # type: ignore[arg-type]
            model = SequenceClassifier(spec).eval()
            model.selection.copy_(torch.randperm(features)[:inputs].sort().values)
            name = f"{'LSTM' if state == 'plain' else 'VIB'} {inputs},{units}"
            found.append(Subject(name, {"": (model, card)}))
    return found


def aims_of(rows: list[dict[str, Any]], name: str) -> dict[str, dict[str, Any]]:
    """By runtime, for the model of this name: the aim, the measured ratio, and whether that meets it."""
    found = {}
    for row in rows:
        if row["model"] == name and row["runtime"] in AIMS:
            measured = row.get("times_faster", {}).get("first")
            aim = AIMS[row["runtime"]]
            met = measured is not None and measured >= aim
            found[row["runtime"]] = {"aim": aim, "measured": measured, "met": met, "reason": row.get("reason")}
    return found


@click.command()
@click.option("--repeats", default=50, show_default=True, type=click.IntRange(min=1), help="Turns that count.")
@click.option("--seed", default=0, show_default=True, help="Of weights and clips.")
@click.option("--quick", is_flag=True, help="Tiny sizes: shows that it runs, measures nothing.")
@click.option("--memory/--no-memory", default=True, show_default=True, help="Measure peak memory too.")
@click.option("--out", default=Path("bench_device.json"), show_default=True, type=click.Path(path_type=Path))
def main(repeats: int, seed: int, quick: bool, memory: bool, out: Path) -> None:
    """Measure the paper's sizes in every runtime that is here."""
    features, plain = (QUICK_FEATURES, QUICK_PLAIN) if quick else (FEATURES, PLAIN)
    subjects = subjects_of(features, plain, QUICK_COMPACT if quick else COMPACT, CLASSES["ucf11"], seed)
    settings = BenchSettings(QUICK_FRAMES if quick else FRAMES, repeats=2 if quick else repeats, seed=seed)
    pairs = [(subject, name) for subject in subjects for name in RUNTIMES]
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        rows = measure_rows(pairs, settings, Path(folder), memory, lambda note: click.echo(note, err=True))
    aims = aims_of(rows, subjects[1].name)
    click.echo(align(cells_of(rows)))
    for line in reasons(rows):
        click.echo(line)
    for name, aim in aims.items():
        ratio = "-" if aim["measured"] is None else f"{aim['measured']:,.0f}x"
        told = f"{subjects[1].name} in {RUNTIMES[name].title}: {ratio}, the aim is {aim['aim']:,.0f}x"
        click.echo(f"{told}: {'met' if aim['met'] else 'MISSED'}")
    figures = {
        "aims": aims,
        "rows": rows,
        "settings": vars(settings),
        "macs": COUNTED,
        "memory": MEANING if memory else None,
        "reference": f"{subjects[0].name}/{REFERENCE}",
        "quick": quick,
        "runtimes": {name: about(name) for name in RUNTIMES},
        **conditions_of(),
        "load_average": load,
    }
    out.write_text(json.dumps(figures, indent=2) + "\n")
    click.echo(f"figures: {out}")


if __name__ == "__main__":
    main()
