"""The figures of the README's results table: real features, several seeds, mean and spread.

    python scripts/results.py ucf101-14  --data ../shared/data   imported VGG-16 features, 14 classes of UCF101
    python scripts/results.py utd-mhad   --data ../shared/data   446 depth videos, extracted here

Each seed draws its own initialisation, order, noise and held-out groups. Every choice is made on held-out groups
of the train part; the test part is only scored. Runs lie below --work and are resumed; the figures go to
results/<name>.json and are printed as a Markdown table.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch

from harfeat.importers import Keys
from harfeat.importing import import_features
from harfeat.pipeline import ExtractSettings, extract
from harvib.cells.lstm import parameter_count
from harvib.devices import machine
from harvib.methods import train
from harvib.settings import TrainSettings


@dataclass(frozen=True)
class Protocol:
    """A data set, how its cache is made, its split, and the settings of the VIB run."""

    cache: Callable[[Path, Path, str], None]
    split: str
    vib: TrainSettings
    mean: TrainSettings


def _import_ucf101(data: Path, out: Path, weights: str) -> None:
    source = data / "ucf101_vgg16" / "ucf101_14cls_vgg16fc6_25f.h5"
    keys = Keys("features", "label", "name", "group", "classes")
    import_features(source, "h5", keys, out, tuple(str(group) for group in range(8, 15)))


def _extract_utd(data: Path, out: Path, weights: str) -> None:
    settings = ExtractSettings(
        "folder",
        data / "utd_mhad_depth",
        out,
        weights=weights,
        group_pattern=r"_s(\d+)_",
        test_groups=("2", "4", "6", "8"),
    )
    extract(settings)


PROTOCOLS = {
    "ucf101-14": Protocol(
        _import_ucf101,
        "listed",
        TrainSettings(vib_epochs=60),
        TrainSettings(model="mean", plain_epochs=30, vib_epochs=25, beta_input=4e-4),
    ),
    "utd-mhad": Protocol(
        _extract_utd,
        "listed",
        TrainSettings(
            hidden=128,
            standardize=True,
            batch=16,
            dropout=0.5,
            lr=3e-4,
            plain_epochs=60,
            vib_epochs=60,
        ),
        TrainSettings(model="mean", standardize=True, plain_epochs=60, vib_epochs=25, beta_input=4e-4),
    ),
}


@click.command()
@click.argument("name", type=click.Choice(list(PROTOCOLS)))
@click.option("--data", default="../shared/data", show_default=True, type=click.Path(path_type=Path, exists=True))
@click.option("--work", default="runs/results", show_default=True, type=click.Path(path_type=Path))
@click.option(
    "--weights", default="auto", show_default=True, help="Backbone weights for utd-mhad; a file or auto."
)
@click.option("--seeds", default=3, show_default=True)
def main(name: str, data: Path, work: Path, weights: str, seeds: int) -> None:
    """Run a protocol over several seeds and print its table."""
    protocol = PROTOCOLS[name]
    cache = work / f"{name}.h5"
    if not cache.is_file():
        protocol.cache(data, cache, weights)
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in range(seeds):
        for title, figures in _runs(protocol, cache, work / name, seed).items():
            rows.setdefault(title, []).append(figures)
    result = {
        "protocol": name,
        "command": f"python scripts/results.py {name} --seeds {seeds}",
        "machine": machine(),
        "torch": torch.__version__,
        "rows": rows,
    }
    out = Path("results") / f"{name}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    click.echo(_table(rows))


def _runs(protocol: Protocol, cache: Path, work: Path, seed: int) -> dict[str, dict[str, Any]]:
    """The figures of one seed by row title."""

    def run(label: str, settings: TrainSettings) -> dict[str, Any]:
        return train(cache, protocol.split, replace(settings, seed=seed), work / f"{label}-s{seed}")

    vib = run("vib", protocol.vib)
    compact = vib["compact"]
    hidden = protocol.vib.hidden
    # The baselines of the compact size get the fine-tuning's rate and epochs, from scratch.
    small = replace(
        protocol.vib,
        method="plain",
        plain_epochs=protocol.vib.finetune_epochs,
        lr=protocol.vib.finetune_lr,
    )
    shape = replace(small, hidden=compact["units"], select_inputs=compact["inputs"])
    narrow = replace(small, hidden=_hidden_of_size(vib["plain"]["inputs"], compact["parameters"]["recurrent"]))
    return {
        f"LSTM-{hidden}, plain": vib["plain"],
        "VIB-LSTM, before fine-tuning": vib["masked"],
        "VIB-LSTM, compact": compact | {"ratio": vib["ratio"]},
        "LSTM of the compact shape, inputs by F score": run("same-shape", shape)["plain"],
        "LSTM of the compact size on all inputs": run("same-size", narrow)["plain"],
        "mean over time + linear": run("mean", replace(protocol.mean, method="plain"))["plain"],
        "mean over time + linear, VIB on the inputs": run("mean-vib", replace(protocol.mean, method="vib"))[
            "compact"
        ],
    }


def _hidden_of_size(inputs: int, parameters: int) -> int:
    """The widest LSTM on all inputs with at most so many parameters; one unit if even that has more."""
    hidden = 1
    while parameter_count(inputs, hidden + 1) <= parameters:
        hidden += 1
    return hidden


def _table(rows: dict[str, list[dict[str, Any]]]) -> str:
    lines = [
        "| model | inputs | units | parameters | validation % | test % |",
        "|---|---|---|---|---|---|",
    ]
    for title, runs in rows.items():
        columns = [
            _range([run["inputs"] for run in runs]),
            _range([run["units"] for run in runs]),
            _range([run["parameters"]["total"] for run in runs]),
            _spread([run["accuracy"]["validation"] for run in runs]),
            _spread([run["accuracy"]["test"] for run in runs]),
        ]
        lines.append(f"| {title} | {' | '.join(columns)} |")
    return "\n".join(lines)


def _range(values: list[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def _spread(values: list[float]) -> str:
    percent = [100 * value for value in values]
    spread = statistics.stdev(percent) if len(percent) > 1 else 0.0
    return f"{statistics.mean(percent):.1f} ± {spread:.1f}"


if __name__ == "__main__":
    main()
