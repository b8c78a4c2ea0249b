"""`harvib sweep`."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from harvib.commands.many import of_many_runs, tell
from harvib.errors import InputError
from harvib.options import options_of
from harvib.points import grid_of, points_of, ranges_of, seeds_of
from harvib.report.sweep_page import sweep_table, write_sweep_page
from harvib.settings import TrainSettings
from harvib.sweep import Sweep, run_sweep


@click.command()
@of_many_runs
@click.option("--grid", multiple=True, metavar="SETTING=V,V,...", help="Values of a setting; may be repeated.")
@click.option("--seeds", default="0,1,2", show_default=True, help="Seeds that every setting is run with.")
@click.option("--random", "draws", default=0, show_default=True, help="Draw so many settings; 0: the whole grid.")
@click.option(
    "--range", "ranges", multiple=True, metavar="SETTING=LOW:HIGH[:log]", help="Where --random draws a number."
)
@click.option("--random-seed", default=0, show_default=True, help="Seed of --random.")
@options_of(TrainSettings)
def sweep(
    many: Sweep,
    grid: tuple[str, ...],
    seeds: str,
    draws: int,
    ranges: tuple[str, ...],
    random_seed: int,
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
    result = run_sweep(many, points)
    page = write_sweep_page(many.out, result)
    tell(result, sweep_table(result), [result["selection"]], page)


# --seeds gives them.
sweep.params = [option for option in sweep.params if option.name != "seed"]
