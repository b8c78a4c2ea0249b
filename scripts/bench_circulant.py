"""From which size on the circulant layer is faster than a dense one, as ratios measured in one run.

    python scripts/bench_circulant.py --out results/bench_circulant.json

One thread. At each size N, square, and at the two layers of the circulant video models (8,192 and 4,096 clusters
to 512 values), on `--batches` rows of input: nn.Linear without bias and the layer take turns, `--rounds` times,
and medians are told. `forward` is without gradients, `step` a forward and a backward pass. `crossing` is the
smallest square size from which on, up to the largest measured, the layer is the faster one; null: it never is.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn

from harfeat.provenance import versions
from harvib.devices import machine
from harvib.factorised.circulant import Circulant

SQUARE = (64, 128, 256, 512, 1024, 2048, 4096)
LAYERS = ((8192, 512), (4096, 512))
QUICK = (8, 16)
PARTS = ("forward", "step")


def measure(columns: int, rows: int, batch: int, rounds: int) -> dict[str, Any]:
    """Medians of both in ms, and how many times faster the layer is, by part; their parameters."""
    torch.manual_seed(0)
    models = {"dense": nn.Linear(columns, rows, bias=False), "circulant": Circulant(rows, columns)}
    x = torch.randn(batch, columns, requires_grad=True)
    found: dict[str, Any] = {
        "parameters": {name: sum(w.numel() for w in model.parameters()) for name, model in models.items()}
    }
    works: dict[str, Callable[[nn.Module, Tensor], None]] = {"forward": _forward, "step": _step}
    for part in PARTS:
        taken: dict[str, list[float]] = {name: [] for name in models}
        for turn in range(1 + rounds):
            for name, model in models.items():
                begin = time.perf_counter()
                works[part](model, x)
                if turn:
                    taken[name].append(time.perf_counter() - begin)
        ms = {name: 1000 * statistics.median(times) for name, times in taken.items()}
        found[part] = {"ms": ms, "times_faster": ms["dense"] / ms["circulant"]}
    return found


def crossing(by_size: dict[int, float]) -> int | None:
    """The smallest size from which on all are faster, given how many times faster each is."""
    first = None
    for size in sorted(by_size, reverse=True):
        if by_size[size] <= 1:
            break
        first = size
    return first


def _forward(model: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        model(x)


def _step(model: nn.Module, x: Tensor) -> None:
    model.zero_grad(set_to_none=True)
    x.grad = None
    model(x).sum().backward()


@click.command()
@click.option("--batches", default="1,32,320", show_default=True, help="Rows of input, with commas between.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1))
@click.option("--quick", is_flag=True, help="One round of tiny sizes: shows that it runs, measures nothing.")
@click.option("--out", default=Path("bench_circulant.json"), show_default=True, type=click.Path(path_type=Path))
def main(batches: str, rounds: int, quick: bool, out: Path) -> None:
    """Measure the circulant layer against nn.Linear on one thread."""
    try:
        counts = [int(text) for text in batches.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"--batches {batches!r}: whole numbers with commas between") from error
    if min(counts) < 1:
        raise click.BadParameter(f"--batches {batches!r}: all must be at least 1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        told = figures_of(counts, rounds, quick)
    finally:
        torch.set_num_threads(before)
    out.write_text(json.dumps(told, indent=2) + "\n")
    click.echo(f"figures: {out}")


def figures_of(counts: list[int], rounds: int, quick: bool) -> dict[str, Any]:
    """All that the file tells, printed on the way."""
    square, layers = (QUICK, ()) if quick else (SQUARE, LAYERS)
    figures: dict[str, Any] = {}
    crossings: dict[str, Any] = {}
    click.echo(f"{'columns x rows':<16}{'batch':>6}{'dense':>14}{'circulant':>11}{'faster':>11}")
    for batch in counts:
        for columns, rows in (*((size, size) for size in square), *layers):
            found = measure(columns, rows, batch, 1 if quick else rounds)
            figures.setdefault(f"{columns}x{rows}", {})[str(batch)] = found
            for part in PARTS:
                ms = found[part]["ms"]
                click.echo(
                    f"{columns:>6} x {rows:<7}{batch:>6} {part:<8}{ms['dense']:>8.3f}{ms['circulant']:>8.3f} ms"
                    f"{found[part]['times_faster']:>9.2f}x"
                )
        crossings[str(batch)] = {
            part: crossing({n: figures[f"{n}x{n}"][str(batch)][part]["times_faster"] for n in square})
            for part in PARTS
        }
        click.echo(f"batch {batch}: faster from {crossings[str(batch)]}")
    return {
        "crossing": crossings,
        "sizes": figures,
        "command": " ".join(["python", *sys.argv]),
        "machine": machine(),
        "load_average": os.getloadavg()[0],
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "rounds": 1 if quick else rounds,
    }


if __name__ == "__main__":
    main()
