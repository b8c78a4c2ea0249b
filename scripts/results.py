"""The figures of the README's results tables: real features, several seeds, mean and spread.

    python scripts/results.py ucf101-14 --data ../shared/data       imported VGG-16 features, 14 classes of UCF101
    python scripts/results.py ucf101-14-pooling --data ../shared/data   the same with models that pool frames
    python scripts/results.py utd-mhad --data ../shared/data        446 depth videos, extracted here
    python scripts/results.py utd-mhad-flow --data ../shared/data   the same with optical flow as a second stream

The rows stand in scripts/protocols.py. Each seed draws its own initialisation, order, noise and held-out groups.
Every choice is made on held-out groups of the train part; the test part is only scored. Runs lie below --work and
are resumed; the figures go to results/<name>.json and are printed as a Markdown table.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import joblib
import torch
from protocols import PROTOCOLS, Protocol, Row, data_option, weights_option
from tables import percent, whole

from harvib import fusion
from harvib.devices import machine
from harvib.methods import train


@click.command()
@click.argument("name", type=click.Choice(list(PROTOCOLS)))
@data_option
@click.option("--work", default="runs/results", show_default=True, type=click.Path(path_type=Path))
@weights_option
@click.option("--seeds", default=3, show_default=True)
@click.option("--jobs", default=1, show_default=True, help="Seeds at once; one thread each if several.")
def main(name: str, data: Path, work: Path, weights: str, seeds: int, jobs: int) -> None:
    """Run a protocol over several seeds and print its table."""
    protocol = PROTOCOLS[name]
    caches = protocol.made(data, work, weights)
    found = joblib.Parallel(n_jobs=jobs)(
        joblib.delayed(_seed)(protocol, caches, work / name, seed, jobs) for seed in range(seeds)
    )
    rows = {row.title: [figures[row.title] for figures in found] for row in protocol.rows}
    result = {
        "protocol": name,
        "command": f"python scripts/results.py {name} --seeds {seeds} --jobs {jobs}",
        "machine": machine(),
        "torch": torch.__version__,
        "rows": rows,
    }
    out = Path("results") / f"{name}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    click.echo(_table(rows))


def _seed(protocol: Protocol, caches: list[Path], work: Path, seed: int, jobs: int) -> dict[str, dict[str, Any]]:
    """The figures of one seed by row title."""
    if jobs > 1:
        torch.set_num_threads(1)
    folders: dict[str, Path] = {}
    figures: dict[str, dict[str, Any]] = {}
    for row in protocol.rows:
        folder = work / f"{row.folder}-s{seed}"
        settings = replace(_sized(row, figures), seed=seed)
        init = folders.get(row.init)
        if row.stream:
            report = fusion.train(caches, protocol.split, settings, folder)
            if row.stream != "both":
                report = report["streams"][row.stream]
        else:
            report = train(caches[0], protocol.split, settings, folder, init)
        folders[row.title] = folder
        figures[row.title] = report[row.state] | {"ratio": report.get("ratio", 1.0)}
    return figures


def _sized(row: Row, figures: dict[str, dict[str, Any]]) -> Any:
    """The row's settings, with the sizes of another row's compact model where it asks for them."""
    if not row.sizes_of:
        return row.settings
    other = figures[row.sizes_of]
    *projected, (units,) = other["shape"]
    project = projected[0][0] if projected else 0
    return replace(row.settings, select_inputs=other["inputs"], hidden=units, project=project)


def _table(rows: dict[str, list[dict[str, Any]]]) -> str:
    lines = [
        "| model | inputs | units | parameters | validation % | test % |",
        "|---|---|---|---|---|---|",
    ]
    for title, runs in rows.items():
        columns = [
            whole([run["inputs"] for run in runs]),
            _units([run.get("shape", []) for run in runs]) or whole([run["units"] for run in runs]),
            whole([run["parameters"]["total"] for run in runs]),
            percent([run["accuracy"]["validation"] for run in runs]),
            percent([run["accuracy"]["test"] for run in runs]),
        ]
        lines.append(f"| {title} | {' | '.join(columns)} |")
    return "\n".join(lines)


def _units(shapes: list[list[list[int]]]) -> str:
    """Units by layer, a projection's first: `10-12 + 4`."""
    by_layer = zip(*([sum(layer) for layer in shape] for shape in shapes), strict=True)
    return " + ".join(whole(list(units)) for units in by_layer)


if __name__ == "__main__":
    main()
