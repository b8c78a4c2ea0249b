"""What 8 bits cost: test accuracy of runs' exported files beside that of the models they were made from.

    python scripts/results.py utd-mhad --data ../shared/data --weights FILE
    python scripts/export_accuracy.py --features runs/results/utd-mhad.h5 runs/results/utd-mhad/*

Each run's final model is written as ONNX and TorchScript, in floats and with --quantize int8, and the files are
read back and evaluated on the test part of the run. Runs whose folders differ in the seed alone (NAME-sN) stand in
one line; `fall` is the largest of their falls in points. Runs that no file can hold are told as such.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import torch
from tables import percent, rounded, whole

from harvib.devices import machine
from harvib.errors import InputError
from harvib.evaluate import evaluate_run
from harvib.export import FORMATS, export_run
from harvib.runconfig import versions
from harvib.rundir import RunFolder

CPU = torch.device("cpu")
KINDS = tuple((form, quantize) for form in ("onnx", "torchscript") for quantize in ("none", "int8"))


def figures_of(run: Path, features: Path) -> dict[str, Any]:
    """Test accuracy and bytes of a run's final model and of its exported files, by kind of file."""
    config = RunFolder(run).config()
    told = evaluate_run(run, features, config["split"], "test", CPU)
    found: dict[str, Any] = {
        "seed": config["settings"]["seed"],
        "parameters": told["parameters"]["total"],
        "clips": told["clips"],
        "accuracy": {"float": told["accuracy"]},
        "bytes": {},
    }
    with tempfile.TemporaryDirectory() as place:
        for form, quantize in KINDS:
            file, name = Path(place) / f"model{FORMATS[form].suffix}", f"{form}-{quantize}"
            export_run(run, form, file, quantize)
            found["bytes"][name] = file.stat().st_size
            found["accuracy"][name] = evaluate_run(file, features, config["split"], "test", CPU)["accuracy"]
    return found


def table(rows: dict[str, list[dict[str, Any]]]) -> str:
    """The figures as Markdown, a line a model."""
    head = ("model", "parameters", "float, test %", "int8, test %", "fall", "bytes of float's")
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, runs in rows.items():
        before, after = ([run["accuracy"][kind] for run in runs] for kind in ("float", "onnx-int8"))
        fall = max(100 * (a - b) for a, b in zip(before, after, strict=True))
        share = max(run["bytes"]["onnx-int8"] / run["bytes"]["onnx-none"] for run in runs)
        parameters = whole([run["parameters"] for run in runs])
        cells = (name, parameters, percent(before), percent(after), f"{fall:.2f}", f"{share:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@click.command()
@click.option("--features", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--out", default="results/export_accuracy.json", show_default=True, type=click.Path(path_type=Path))
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
def main(features: Path, out: Path, runs: tuple[Path, ...]) -> None:
    """Export, read back and evaluate the final models of RUNS on the cache that they were trained on."""
    rows: dict[str, list[dict[str, Any]]] = {}
    left_out: dict[str, str] = {}
    for run in runs:
        try:
            found = figures_of(run, features)
        except InputError as error:
            left_out[run.name] = str(error)
            click.echo(f"left out: {error}", err=True)
            continue
        rows.setdefault(re.sub(r"-s[0-9]+$", "", run.name), []).append(found)
    command = " ".join(["python", *sys.argv])
    told = {"rows": rounded(rows), "left_out": left_out, "command": command}
    told |= {"machine": machine(), "versions": versions()}
    before = json.loads(out.read_text()) if out.is_file() else {}
    # By the folder of the runs: a protocol each.
    out.write_text(json.dumps(before | {runs[0].parent.name: told}, indent=1) + "\n")
    click.echo(table(rows))


if __name__ == "__main__":
    main()
