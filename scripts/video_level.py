"""Pooling models against others where the best possible GAP is known: the made-up set in YouTube-8M's format.

    python scripts/video_level.py --jobs 2

It writes the set of scripts/synthetic_yt8m.py, imports it as YouTube-8M would be, and trains each row below with
three seeds by `harvib train`. GAP@20 and other measures of the validate part, on which no choice is made, stand
beside parameters and the ceiling in results/synthetic-yt8m.json and .md. The same command goes on where it was.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import joblib
import torch
from synthetic_yt8m import SetSettings, write_set
from tables import percent, rounded, whole

from harfeat.cli import main as harfeat
from harvib.devices import machine

NAME = "synthetic-yt8m"
STREAMS = "rgb+audio"
COMMON = "--split yt8m --normalize --batch 64 --validation 0.1 --device cpu"
MEASURES = {"gap": "GAP@20", "accuracy": "Hit@1", "perr": "PERR", "map": "mAP"}
BASELINES = {
    "class_frequencies": "frequencies of classes",
    "mean_linear": "mean over time, least squares",
    "mean_known_words": "mean over time, words known",
}


@dataclass(frozen=True)
class Row:
    """A model: its name in folders, its title, its options for `harvib train`, and the state that is told."""

    name: str
    title: str
    options: str
    state: str = "plain"


_PLAIN = "--method plain --plain-epochs 20"
_DBOF = "--model dbof --clusters 256,128 --hidden 256 --bags 0"
_VLAD = "--model netvlad --clusters 16,8 --hidden 256"
_FV = "--model netfv --clusters 16,8 --hidden 256"

ROWS = (
    Row("mean", "mean over time + linear", f"{_PLAIN} --model mean"),
    Row("mlp", "mean over time + MLP-256", f"{_PLAIN} --model mlp --hidden 256"),
    Row("lstm", "LSTM-128", f"{_PLAIN} --model lstm --hidden 128"),
    Row("dbof", "DBoF", f"{_PLAIN} {_DBOF}"),
    Row("dbof-fc", "DBoF, circulant FC", f"{_PLAIN} {_DBOF} --circulant fc"),
    Row("dbof-clusters-fc", "DBoF, circulant clusters and FC", f"{_PLAIN} {_DBOF} --circulant clusters,fc"),
    Row("netvlad", "NetVLAD", f"{_PLAIN} {_VLAD}"),
    Row("netvlad-fc", "NetVLAD, circulant FC", f"{_PLAIN} {_VLAD} --circulant fc"),
    Row("netfv", "NetFV", f"{_PLAIN} {_FV}"),
    Row("netfv-fc", "NetFV, circulant FC", f"{_PLAIN} {_FV} --circulant fc"),
)


@click.command()
@click.option("--work", default=f"runs/{NAME}", show_default=True, type=click.Path(path_type=Path))
@click.option("--out", default="results", show_default=True, type=click.Path(path_type=Path))
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--jobs", default=1, show_default=True, type=click.IntRange(min=1), help="Runs at once, a thread each."
)
@click.option("--rows", default="", help="Only these, such as mean,dbof; nothing is written to --out then.")
@click.option("--train", default=SetSettings.train, show_default=True, help="Clips to learn from.")
@click.option("--validate", default=SetSettings.validate, show_default=True, help="Clips to test on.")
def main(work: Path, out: Path, seeds: int, jobs: int, rows: str, train: int, validate: int) -> None:
    """Train all rows on the made-up set and print their table."""
    chosen = tuple(row for row in ROWS if not rows or row.name in rows.split(","))
    if rows and len(chosen) < len(rows.split(",")):
        raise click.UsageError(f"--rows {rows}: there are {', '.join(row.name for row in ROWS)}")
    settings = SetSettings(train=train, validate=validate)
    ceiling = _set(settings, work / "set", jobs)
    cache = work / f"{NAME}.h5"
    if not cache.is_file():
        command = ["import", "--from", "yt8m", f"{work}/set/*.tfrecord", "--classes", str(settings.classes)]
        harfeat.main([*command, "--out", str(cache)], standalone_mode=False)
    tasks = [(row, seed) for row in chosen for seed in range(seeds)]
    found = joblib.Parallel(n_jobs=jobs, prefer="threads")(
        joblib.delayed(_run)(cache, row, seed, work / "runs", jobs) for row, seed in tasks
    )
    result = {
        "protocol": NAME,
        "command": f"python scripts/video_level.py --seeds {seeds} --jobs {jobs}",
        "machine": machine(),
        "torch": torch.__version__,
        "ceiling": ceiling,
        "rows": [
            {
                "name": row.name,
                "title": row.title,
                "command": f"harvib train --features {NAME}.h5::{STREAMS} {COMMON} {row.options}",
                "runs": [figures for (of, _), figures in zip(tasks, found, strict=True) if of == row],
            }
            for row in chosen
        ],
    }
    if rows:
        click.echo(markdown(result))
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{NAME}.json").write_text(json.dumps(rounded(result), indent=1) + "\n")
    (out / f"{NAME}.md").write_text(markdown(result) + "\n")
    click.echo(markdown(result))


def _set(settings: SetSettings, folder: Path, jobs: int) -> dict[str, Any]:
    """The set's ceiling.json; the set is written where it is not there yet."""
    path = folder / "ceiling.json"
    if not path.is_file():
        return write_set(settings, folder, jobs)
    told: dict[str, Any] = json.loads(path.read_text())
    if SetSettings(**told["settings"]) != settings:
        raise click.UsageError(f"{folder} holds another set, {told['settings']}: name another --work")
    return told


def _run(cache: Path, row: Row, seed: int, folder: Path, jobs: int) -> dict[str, Any]:
    """The figures of a row's state, of one seed; trained where the run is not finished yet."""
    run = folder / f"{row.name}-s{seed}"
    words = ["train", "--features", f"{cache}::{STREAMS}", "--run-dir", str(run), "--seed", str(seed)]
    command = [sys.executable, "-m", "harvib", *words, *shlex.split(f"{COMMON} {row.options}")]
    threads = {"OMP_NUM_THREADS": "1"} if jobs > 1 else {}
    done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    report = json.loads((run / "report.json").read_text())
    click.echo(f"{row.title}, seed {seed}: GAP@20 {100 * report[row.state]['gap']['test']:.1f} %", err=True)
    return report[row.state] | {"seed": seed, "seconds": report["seconds"], "epochs": report["epochs"]}


def markdown(result: Mapping[str, Any]) -> str:
    """The table: baselines, the rows as they stand above, and the ceiling."""
    ceiling = result["ceiling"]
    best = ceiling["ceiling"]["gap"]
    sizes = ceiling["settings"]
    over = ceiling["ceiling_over_draws"]["gap"]
    seeds = len(result["rows"][0]["runs"])
    lines = [
        f"`{result['command']}`; {seeds} seeds, mean ± standard deviation; {result['machine']}.",
        f"{sizes['train']:,} clips to learn from, {sizes['validate']:,} to test on, {sizes['classes']} classes, "
        f"{ceiling['labels_a_clip']:.1f} labels a clip. The ceiling is what the labels' true probabilities get; "
        f"over new draws of the labels its GAP is {100 * over['mean']:.1f} ± {100 * over['deviation']:.1f}.",
        "",
        "| model | parameters | GAP@20 | of the ceiling | Hit@1 | PERR | mAP | held-out GAP | training s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key, title in BASELINES.items():
        lines.append(_known(title, ceiling[key], best))
    for row in result["rows"]:
        runs: Sequence[Mapping[str, Any]] = row["runs"]
        test = {name: [run[name]["test"] for run in runs] for name in MEASURES}
        cells = [
            row["title"],
            whole([run["parameters"]["total"] for run in runs]),
            percent(test["gap"]),
            f"{statistics.mean(test['gap']) / best:.3f}",
            *(percent(test[name]) for name in ("accuracy", "perr", "map")),
            percent([run["gap"]["validation"] for run in runs]),
            f"{statistics.mean(sum(run['seconds'].values()) for run in runs):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append(_known("**ceiling**", ceiling["ceiling"], best))
    return "\n".join(lines)


def _known(title: str, figures: Mapping[str, float], best: float) -> str:
    """A line of the table that no run stands behind."""
    others = " | ".join(f"{100 * figures[name]:.1f}" for name in ("hit", "perr", "map"))
    return f"| {title} | | {100 * figures['gap']:.1f} | {figures['gap'] / best:.3f} | {others} | | |"


if __name__ == "__main__":
    main()
