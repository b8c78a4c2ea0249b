"""The comparison of the README: all methods at equal parameter budgets on real features, three seeds.

    python scripts/comparison.py ucf101-14 --data ../shared/data
    python scripts/comparison.py utd-mhad --data ../shared/data --weights FILE

It is `harvib compare` with the settings below, on the caches of scripts/protocols.py, and after it
`harvib quantize` on every chosen model that it can hold. Figures go to results/compare-<name>.json, the
tables to results/compare-<name>.md; the page lies in the work folder. The same command goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch
from protocols import PROTOCOLS, data_option, weights_option
from tables import rounded

from harvib.compare import Contest, run_compare
from harvib.devices import machine
from harvib.errors import InputError
from harvib.quantize import quantize_run
from harvib.report.compare_page import INTERVAL, compare_notes, compare_table, write_compare_page
from harvib.sweep import Sweep

SCHEMES = ("int8-weights", "int4-weights")
POOLED = (
    "mean", "mean-vib", "mean-lasso", "mean-magnitude", "linear-vib", "linear-lasso", "linear-sparse",
    "linear-sparse-magnitude", "mlp-small", "mlp-vib", "mlp-lasso",
)  # fmt: skip
TEMPORAL = (
    "lstm-small", "vib", "iss", "magnitude", "movement", "vib-sparse", "vib-circulant", "circulant-lstm",
    "conv-small", "conv-vib", "conv-lasso", "lowrank-lstm",
)  # fmt: skip
NETWORKS = ("tt-lstm", "tt-gru", "bt-lstm", "tr-lstm", "ht-lstm", "fdtt-lstm", "vib-tt", "vib-bt", "vib-tr")

CONTESTS = {
    # One of the eleven groups of the train part is held out: with 660 of the 826 clips all methods lose a point.
    # Tensor networks of 4,096 inputs take minutes a run: they are compared on the other set.
    "ucf101-14": Contest((*POOLED, *TEMPORAL), (1000, 5000), changes={"validation": 0.09}),
    "utd-mhad": Contest(
        (*POOLED, *TEMPORAL, "vib-lstm", "vib-taught", "lstm-taught", *NETWORKS),
        (1000, 10_000),
        changes={
            "standardize": True,
            "batch": 16,
            "dropout": 0.5,
            "finetune_dropout": 0.5,
            "plain_epochs": 60,
            "vib_epochs": 60,
        },
    ),
}


@click.command()
@click.argument("name", type=click.Choice(list(CONTESTS)))
@data_option
@click.option("--work", default="runs", show_default=True, type=click.Path(path_type=Path))
@weights_option
@click.option("--jobs", default=2, show_default=True, help="Runs at once, a thread each.")
@click.option("--bench/--no-bench", default=True, show_default=True, help="Measure latencies at the end.")
@click.option("--methods", default="", help="Only these, such as mean,vib; nothing is written to results/ then.")
def main(name: str, data: Path, work: Path, weights: str, jobs: int, bench: bool, methods: str) -> None:
    """Run a comparison and print its table."""
    protocol, contest = PROTOCOLS[name], CONTESTS[name]
    if methods:
        contest = dataclasses.replace(contest, methods=tuple(methods.split(",")))
    (cache,) = protocol.made(data, work, weights)
    sweep = Sweep(cache, protocol.split, work / "compare" / name, jobs=jobs, bench=bench)
    result = run_compare(sweep, contest)
    page = write_compare_page(sweep.out, result)
    if methods:
        click.echo(compare_table(result))
        return
    result |= {
        "command": f"python scripts/comparison.py {name} --jobs {jobs}",
        "machine": machine(),
        "torch": torch.__version__,
        "features": cache.name,
        "quantised": _quantised(sweep, result),
    }
    out = Path("results") / f"compare-{name}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(rounded(result), indent=1) + "\n")
    table = out.with_suffix(".md")
    table.write_text(f"{_markdown(result)}\n")
    click.echo(table.read_text())
    click.echo(f"figures: {out}, table: {table}, page: {page}")


def _quantised(sweep: Sweep, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Test accuracy of the chosen models before and after, and bytes of their numbers; or why there is none."""
    lines: list[dict[str, Any]] = []
    for line in result["lines"]:
        swept = line["swept"]
        runs = [row["run"] for row in result["runs"] if row["kind"] == "run" and row["swept"] == swept]
        told: dict[str, Any] = {"method": swept["method"], "budget": swept["budget"]}
        try:
            found = [quantize_run(sweep.out / "runs" / run, sweep.features, SCHEMES) for run in runs]
        except InputError as error:
            reason = str(error).removeprefix(str(sweep.out))
            lines.append(told | {"scheme": "", "told": reason})
            continue
        for scheme in SCHEMES:
            each = [one["schemes"][scheme] for one in found]
            test = [item["accuracy"]["test"] for item in each]
            size = [item["weight_bytes"] for item in each]
            before = [one["float"]["accuracy"]["test"] for one in found]
            text = f"test {100 * statistics.mean(test):.1f} %, {statistics.mean(size):,.0f} bytes of numbers"
            figures = {"scheme": scheme, "test": test, "test_float": before, "weight_bytes": size, "told": text}
            lines.append(told | figures)
    return lines


def _markdown(result: Mapping[str, Any]) -> str:
    """The README's tables: a line a method, best on validation first; quantised where a file can hold it."""
    notes = [f"`{result['command']}`; {result['seeds']} seeds, mean ± standard deviation; {result['machine']}."]
    # Deviations, as in the README's other tables, where the page has intervals.
    parts = [*notes, *(f"- {note}" for note in compare_notes(result) if note != INTERVAL)]
    for budget in result["budgets"]:
        lines = [line for line in result["lines"] if line["swept"]["budget"] == budget and line["validation"]]
        lines.sort(key=lambda line: -line["validation"]["mean"])
        rows = [
            f"| at {budget:,} | validation % | test % | int8 / int4 test % | parameters | input to hidden |"
            " MACs a clip | ms a clip | training s |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for line in lines:
            name = line["swept"]["method"]
            few = [item for item in result["quantised"] if (item["method"], item["budget"]) == (name, budget)]
            bits = " / ".join(f"{100 * statistics.mean(item['test']):.1f}" for item in few if item["scheme"])
            cells = [
                f"**{name}**" if result["methods"][name]["ours"] else name,
                *(_share(line[part]) for part in ("validation", "test")),
                bits or "-",
                *(f"{line[figure]['mean']:,.0f}" for figure in ("parameters", "input_to_hidden", "macs_clip")),
                f"{line['ms']['mean']:.2f}" if line["ms"] else "-",
                f"{line['seconds']['mean']:,.0f}",
            ]
            rows.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def _share(spread: Mapping[str, Any]) -> str:
    return f"{100 * spread['mean']:.1f} ± {100 * spread['deviation']:.1f}"


if __name__ == "__main__":
    main()
