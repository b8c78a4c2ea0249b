"""The published tables of VIB-LSTM beside what harvib measures on the same data.

    python scripts/reproduce.py --table ucf11 --check                    the parameter columns; needs no data
    python scripts/reproduce.py --table ucf11 --features ucf11.h5        every row that can run

Without --features, or with a cache that is not the whole data set as the paper used it, one line says what is
missing and which commands make it. Runs lie below --work and are resumed by the same command; the figures go to
results/reproduce-<table>.json. The rows themselves, and what of the paper they leave out, stand in published.py.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import torch
from published import TABLES, Needed, Row, Table

from harfeat.cache import Cache, CacheError, open_cache
from harfeat.splits import TEST, TRAIN
from harvib.devices import machine
from harvib.errors import InputError
from harvib.methods import train

Figures = dict[str, list[dict[str, Any]]]
"""Measured figures of each run by the row's key, one a split and seed."""


def gap(cache: Cache, needed: Needed) -> str:
    """What keeps the cache from standing for the paper's data, in a few words; empty where nothing does."""
    told = cache.provenance.get("dataset")
    name = told.get("name") if isinstance(told, dict) else None
    sampling = cache.recipe.get("sampling")
    sampled = (sampling.get("rule"), sampling.get("frames")) if isinstance(sampling, dict) else None
    if name != needed.dataset:
        return f"is of data set {name!r}, not {needed.dataset}"
    if cache.classes != needed.classes:
        return f"has {len(cache.classes)} classes, not the {len(needed.classes)} of {needed.dataset}"
    if cache.failures or len(cache.clips) != needed.clips:
        return f"has {len(cache.clips):,} of {needed.clips:,} clips"
    if cache.recipe.get("model") != needed.model or cache.dim() != needed.dim:
        return f"has {cache.dim():,} features of {cache.recipe.get('model')}, not {needed.dim:,} of {needed.model}"
    if sampled != ("first", needed.frames):
        return f"was not sampled by --sampling first --frames {needed.frames}"
    for split, sizes in needed.sizes.items():
        if split not in cache.splits:
            return f"has no split {split!r}"
        roles = cache.split(split).roles
        found = (int((roles == TRAIN).sum()), int((roles == TEST).sum()))
        if any(abs(ours - theirs) > needed.slack for ours, theirs in zip(found, sizes, strict=True)):
            return f"has {found[0]:,} + {found[1]:,} clips in split {split!r}, not {sizes[0]:,} + {sizes[1]:,}"
    return ""


def require(features: Path | None, needed: Needed) -> None:
    """Raise InputError, with the commands that make it, where there is no cache like the paper's data."""
    if features is None or not features.exists():
        what = "no --features given" if features is None else f"{features}: not there"
    else:
        with open_cache(features) as cache:
            what = gap(cache, needed)
        if not what:
            return
        what = f"{features} {what}"
    raise InputError(f"{what}; the whole of {needed.dataset} is made by: {needed.commands()}")


def measure(table: Table, rows: Sequence[Row], features: Path, work: Path, seeds: int) -> Figures:
    """Run the rows that can run, on every split and seed; compressed ones start from the same dense model."""
    figures: Figures = {}
    for split in table.needed.sizes:
        for seed in range(seeds):
            folder = work / f"{split}-s{seed}"
            dense = folder / "dense"
            train(features, split, replace(table.dense, seed=seed), dense)
            for row in {row.key: row for row in rows if row.settings}.values():
                assert row.settings is not None
                settings = replace(row.settings, seed=seed)
                if settings.method == "plain":
                    report = train(features, split, settings, dense)
                else:
                    report = train(features, split, settings, folder / row.key, init=dense)
                final = report.get("compact", report["plain"])
                measured = {
                    "accuracy": final["accuracy"]["test"],
                    "parameters": final["parameters"]["recurrent"],
                    "inputs": final["inputs"],
                    "units": final["units"],
                }
                figures.setdefault(row.key, []).append({"split": split, "seed": seed, **measured})
    return figures


def check_table(rows: Sequence[Row]) -> str:
    """The parameter columns in Markdown."""
    lines = ["| source | method | inputs, units | published | our cells | |", "|---|---|---|---|---|---|"]
    for row in rows:
        count = row.count()
        ours = "" if count is None else f"{count:,}"
        verdict = row.verdict() + (f"; {row.note}" if row.note and count is not None else "")
        lines.append(f"| {row.source} | {row.method} | {_shape(row)} | {row.parameters} | {ours} | {verdict} |")
    return "\n".join(lines)


def result_table(rows: Sequence[Row], figures: Figures) -> str:
    """Published against measured, in Markdown: mean and spread over splits and seeds."""
    lines = [
        "| source | method | published: inputs, units | parameters | % "
        "| measured: inputs, units | parameters | % | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        runs = figures.get(row.key, []) if row.settings else []
        count = row.count()
        published = row.parameters if count is None else f"{count:,}"
        measured = "| | " if not runs else _measured(runs)
        lines.append(
            f"| {row.source} | {row.method} | {_shape(row)} | {published} | {row.accuracy} | {measured} | "
            f"{row.reason or row.note} |"
        )
    return "\n".join(lines)


def _shape(row: Row) -> str:
    return "" if row.inputs is None else f"{row.inputs}, {row.hidden}"


def _measured(runs: list[dict[str, Any]]) -> str:
    percent = [100 * run["accuracy"] for run in runs]
    spread = f" ± {statistics.stdev(percent):.1f}" if len(percent) > 1 else ""
    inputs, units, parameters = (_range([run[key] for run in runs]) for key in ("inputs", "units", "parameters"))
    return f"{inputs}, {units} | {parameters} | {statistics.mean(percent):.1f}{spread}"


def _range(values: list[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def _chosen(table: Table, keys: str) -> list[Row]:
    """The rows named in a comma-separated list of keys; all for none."""
    wanted = [key.strip() for key in keys.split(",") if key.strip()]
    known = list(dict.fromkeys(row.key for row in table.rows))
    for key in wanted:
        if key not in known:
            raise InputError(f"--rows {key}: no such row; choose from {', '.join(known)}")
    return [row for row in table.rows if not wanted or row.key in wanted]


def _record(row: Row, figures: Figures) -> dict[str, Any]:
    """A row as it stands in the JSON file; what was run is told in full."""
    return asdict(row) | {"key": row.key, "count": row.count(), "runs": figures.get(row.key, [])}


@click.command()
@click.option("--table", "name", required=True, type=click.Choice(list(TABLES)), help="Which table.")
@click.option("--features", type=click.Path(path_type=Path), help="harfeat's cache of the whole data set.")
@click.option("--rows", "keys", default="", help="Only these, e.g. 2048x2048,46x9.")
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1))
@click.option("--check", is_flag=True, help="Only compare the parameter columns; needs no data.")
@click.option("--work", default="runs/reproduce", show_default=True, type=click.Path(path_type=Path))
@click.option("--results", default="results", show_default=True, type=click.Path(path_type=Path))
def main(name: str, features: Path | None, keys: str, seeds: int, check: bool, work: Path, results: Path) -> None:
    """Print a published table against what harvib measures.

    --check ends with exit code 1 where a printed count is not that of our cells, known misprints apart.
    """
    table = TABLES[name]
    try:
        rows = _chosen(table, keys)
        if check:
            click.echo(check_table(rows))
            sys.exit(any(row.verdict() == "DIFFERS" for row in rows))
        require(features, table.needed)
        assert features is not None
        for reason in dict.fromkeys(row.reason for row in rows if row.reason):
            lacking = [f"{row.method} {row.key}" for row in rows if row.reason == reason]
            click.echo(f"not run: {', '.join(lacking)}: {reason}", err=True)
        figures = measure(table, rows, features, work / name, seeds)
    except (InputError, CacheError) as error:
        click.echo(f"reproduce: {error}", err=True)
        sys.exit(2)
    out = results / f"reproduce-{name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    result = {"table": name, "seeds": seeds, "machine": machine(), "torch": torch.__version__}
    result["rows"] = [_record(row, figures if row.settings else {}) for row in rows]
    out.write_text(json.dumps(result, indent=1) + "\n")
    click.echo(result_table(rows, figures))


if __name__ == "__main__":
    main()
