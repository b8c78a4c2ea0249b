"""`harvib sweep`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from harvib.errors import InputError
from harvib.options import options_of
from harvib.points import grid_of, points_of, ranges_of, seeds_of
from harvib.report.sweep_page import sweep_table, write_sweep_page
from harvib.settings import TrainSettings
from harvib.sweep import Sweep, run_sweep
from harvib.workers import PACKAGES


@click.command()
@click.option(
    "--features", required=True, type=click.Path(path_type=Path), help="Cache made by harfeat: file or folder."
)
@click.option("--split", required=True, help="Name of a split in the cache; `harfeat info` lists them.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the sweep.")
@click.option("--grid", multiple=True, metavar="SETTING=V,V,...", help="Values of a setting; may be repeated.")
@click.option("--seeds", default="0,1,2", show_default=True, help="Seeds that every setting is run with.")
@click.option("--random", "draws", default=0, show_default=True, help="Draw so many settings; 0: the whole grid.")
@click.option(
    "--range", "ranges", multiple=True, metavar="SETTING=LOW:HIGH[:log]", help="Where --random draws a number."
)
@click.option("--random-seed", default=0, show_default=True, help="Seed of --random.")
@click.option("--jobs", default=0, show_default=True, help="Runs at once, a thread each; 0: one a core.")
@click.option("--backend", default="loky", show_default=True, type=click.Choice(list(PACKAGES)), help="Who runs.")
@click.option("--scheduler", default="", help="Address of a running Dask or Ray cluster.")
@click.option("--bench", is_flag=True, help="Measure the latency of every run at the end, as harvib bench does.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--allow-missing", is_flag=True, help="Train although the cache lacks clips of its data set.")
@options_of(TrainSettings)
def sweep(
    features: Path,
    split: str,
    out: Path,
    grid: tuple[str, ...],
    seeds: str,
    draws: int,
    ranges: tuple[str, ...],
    random_seed: int,
    jobs: int,
    backend: str,
    scheduler: str,
    bench: bool,
    device: str,
    allow_missing: bool,
    **fields: Any,
) -> None:
    """Train with many settings and seeds, and draw accuracy against parameters and latency.

    Each run is a folder of `harvib train` in OUT/runs; the same command resumes. Settings given as options hold
    for all runs that do not sweep them. Exit code 1: finished, but some runs failed.
    """
    values, drawn = grid_of(grid), ranges_of(ranges)
    for name in (*values, *drawn):
        if click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise InputError(f"--{name.replace('_', '-')}: is swept and given a value of its own; leave one out")
    points = points_of(fields, values, drawn, seeds_of(seeds), draws, random_seed)
    result = run_sweep(Sweep(features, split, out, device, allow_missing, jobs, backend, scheduler, bench), points)
    page = write_sweep_page(out, result)
    click.echo(sweep_table(result))
    click.echo(result["selection"])
    for row in result["runs"]:
        if row["error"] is not None:
            click.echo(f"failed: {row['run']}: {row['error']}", err=True)
    click.echo(f"page: {page}")
    if result["failed"]:
        sys.exit(1)


# --seeds gives them.
sweep.params = [option for option in sweep.params if option.name != "seed"]
