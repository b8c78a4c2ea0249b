"""Pooling models against others where the best possible GAP is known: the made-up set in YouTube-8M's format.

    python scripts/video_level.py --jobs 2

It writes the set of scripts/synthetic_yt8m.py, imports it as YouTube-8M would be, and trains each row below with
three seeds by `harvib train`. GAP@20 and other measures of the validate part, on which no choice is made, stand
beside parameters and the ceiling in results/synthetic-yt8m.json and .md. The same command goes on where it was.
"""

from __future__ import annotations

import contextlib
import io
import json
import statistics
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
from harvib.cli import main as harvib
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
    """A model: its name in folders, its title, its options for `harvib train`, and the state that is told.

    `init` is the row whose plain model it starts from.
    """

    name: str
    title: str
    options: str
    state: str = "plain"
    init: str = ""


_PLAIN = "--method plain --plain-epochs"
_POOLED = f"{_PLAIN} 12 --hidden 256 --dropout 0"
_DBOF = "--model dbof --clusters 256,128 --bags 0"
"""Not bags of drawn frames, but one maximum: a word may be in a single frame."""
_VLAD, _FV = "--model netvlad --clusters 16,8", "--model netfv --clusters 16,8"
_VIB = (
    f"--plain-epochs 12 --hidden 256 --dropout 0 {_DBOF} --circulant fc --method vib --vib-epochs 10 "
    "--finetune-epochs 10 --finetune-dropout 0 --target-ratio 4"
)

ROWS = (
    # What was best of some settings by held-out clips; least squares, told above it, is better.
    Row("mean", "mean over time + linear", f"{_PLAIN} 20 --model mean --standardize --lr 3e-3"),
    Row("lstm", "LSTM-128", f"{_PLAIN} 12 --model lstm --hidden 128 --standardize"),
    Row("dbof", "DBoF", f"{_POOLED} {_DBOF}"),
    Row("dbof-fc", "DBoF, circulant FC", f"{_POOLED} {_DBOF} --circulant fc"),
    Row("dbof-fc-vib", "DBoF, circulant FC, VIB to a quarter", _VIB, "compact", "dbof-fc"),
    Row("netvlad", "NetVLAD", f"{_POOLED} {_VLAD}"),
    Row("netvlad-fc", "NetVLAD, circulant FC", f"{_POOLED} {_VLAD} --circulant fc"),
    Row("netfv", "NetFV", f"{_POOLED} {_FV}"),
    Row("netfv-fc", "NetFV, circulant FC", f"{_POOLED} {_FV} --circulant fc"),
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
    known = {row.name: row for row in ROWS}
    named = set(rows.split(",")) if rows else set(known)
    if unknown := named - set(known):
        raise click.UsageError(f"--rows {sorted(unknown)[0]}: there are {', '.join(known)}")
    chosen = [row for row in ROWS if row.name in named]
    for row in chosen:
        if row.init and row.init not in named:
            raise click.UsageError(f"--rows {row.name}: starts from {row.init}, which must be among them")
    settings = SetSettings(train=train, validate=validate)
    ceiling = _set(settings, work / "set", jobs)
    cache = work / f"{NAME}.h5"
    if not cache.is_file():
        command = ["import", "--from", "yt8m", f"{work}/set/*.tfrecord", "--classes", str(settings.classes)]
        harfeat.main([*command, "--workers", str(jobs), "--out", str(cache)], standalone_mode=False)
    tasks = [(row, seed) for row in chosen for seed in range(seeds)]
    found: dict[tuple[Row, int], dict[str, Any]] = {}
    for later in (False, True):
        now = [task for task in tasks if bool(task[0].init) == later]
        figures = joblib.Parallel(n_jobs=jobs)(
            joblib.delayed(_run)(cache, row, seed, work / "runs", jobs) for row, seed in now
        )
        found |= zip(now, figures, strict=True)
    sizes = "" if settings == SetSettings() else f" --train {train} --validate {validate}"
    result = {
        "protocol": NAME,
        "command": f"python scripts/video_level.py --seeds {seeds} --jobs {jobs}{sizes}",
        "machine": machine(),
        "torch": torch.__version__,
        "ceiling": ceiling,
        "rows": [
            {
                "name": row.name,
                "title": row.title,
                "command": f"harvib train --features {NAME}.h5::{STREAMS} {COMMON} {row.options}",
                "starts_from": row.init,
                "runs": [found[row, seed] for seed in range(seeds)],
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
    if jobs > 1:
        torch.set_num_threads(1)
    run = folder / f"{row.name}-s{seed}"
    words = ["train", "--features", f"{cache}::{STREAMS}", "--run-dir", str(run), "--seed", str(seed)]
    words += [*COMMON.split(), *row.options.split()]
    if row.init:
        words += ["--init", str(folder / f"{row.init}-s{seed}")]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            harvib.main(words, standalone_mode=False)
    except SystemExit as ended:
        raise click.ClickException(f"harvib {' '.join(words)} ended with {ended.code}") from None
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
