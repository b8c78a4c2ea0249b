"""`harvib bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from harvib.bench import BenchSettings, bench_run, bench_table
from harvib.bench.run import config_of
from harvib.bench.runtimes import RUNTIMES
from harvib.bench.settings import CANDIDATES, EndToEnd
from harvib.commands import common
from harvib.errors import InputError
from harvib.options import options_of


@click.command()
@common.finished_run
@options_of(BenchSettings)
@click.option(
    "--runtimes",
    default="",
    help=f"Where to run them, with commas between: {', '.join(RUNTIMES)}; torch is always there.  [default: all]",
)
@click.option("--memory/--no-memory", default=True, show_default=True, help="Measure peak memory too.")
@click.option("--with-backbone", is_flag=True, help="Measure what stands before the classifier too.")
@click.option("--video", type=common.PATH, help="--with-backbone: decode this file; else frames are random.")
@click.option(
    "--backbone", default="", help="--with-backbone: a timm model in place of the run's own, or where it has none."
)
@click.option(
    "--backbones",
    default=CANDIDATES,
    show_default=True,
    help="--with-backbone: timm models to set beside it, with commas between; none: an empty text.",
)
@common.as_json
def bench(
    model: Path,
    runtimes: str,
    memory: bool,
    with_backbone: bool,
    video: Path | None,
    backbone: str,
    backbones: str,
    as_json: bool,
    **fields: Any,
) -> None:
    """What a run's plain and compact model cost here: parameters, work, bytes, memory, latency.

    In every runtime that is here, all in turns on the same random clips, one thread. Measured is the classifier
    alone: features in memory to logits. Decoding the video and the CNN backbone, which every clip needs first, are
    not in it; --with-backbone measures them beside it, in shares of the whole, and other backbones. The result
    also stands in bench.json in the run.
    """

    def tell(note: str) -> None:
        click.echo(note, err=True)

    end_to_end = None
    if with_backbone:
        candidates = tuple(dict.fromkeys(word.strip() for word in backbones.split(",") if word.strip()))
        end_to_end = EndToEnd(video, backbone, candidates)
    elif video is not None or backbone:
        raise InputError(f"--{'backbone' if backbone else 'video'}: only with --with-backbone")
    result = bench_run(model, BenchSettings(**fields), runtimes, memory, tell, end_to_end)
    click.echo(json.dumps(result, indent=2) if as_json else bench_table(result, config_of(model)))
