"""`harvib bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from harvib.bench import BenchSettings, bench_run, bench_table
from harvib.commands import common
from harvib.options import options_of


@click.command()
@common.finished_run
@options_of(BenchSettings)
@common.as_json
def bench(model: Path, as_json: bool, **fields: Any) -> None:
    """Latency per clip of a run's plain and compact model, side by side; also written to bench.json in the run.

    Measured is the classifier alone: features in memory to logits, in torch on the CPU. Decoding the video and
    the CNN backbone, which every clip needs first, are not in it.
    """
    result = bench_run(model, BenchSettings(**fields))
    click.echo(json.dumps(result, indent=2) if as_json else bench_table(result))
