"""`harvib quantize`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from harvib.commands import common
from harvib.onnxfile import needs_onnx
from harvib.options import options_of
from harvib.quantize.settings import NAMES, QuantizeSettings


@click.command()
@common.finished_run
@click.option(
    "--features",
    required=True,
    type=common.PATH,
    help="The cache it was trained on, or CACHE::STREAM: to calibrate on train, to measure on the rest.",
)
@click.option(
    "--to",
    "schemes",
    multiple=True,
    type=click.Choice(NAMES),
    help="How; repeat it for several. Default: all that the model can have.",
)
@click.option("--out", type=common.PATH, help="Folder to write to.  [default: the run folder]")
@options_of(QuantizeSettings)
@common.as_json
def quantize(
    model: Path, features: Path, schemes: tuple[str, ...], out: Path | None, as_json: bool, **fields: Any
) -> None:
    """The final model of a run in 8 or 4 bits, as ONNX files, with accuracy, size and latency measured after.

    int8-weights, int4-weights: weights only, arithmetic in floats. int8-dynamic, int8-static: products of whole
    numbers, inputs rounded by what each clip and step has, or by what the train clips had; structured matrices
    have none of these. `harvib evaluate --model RUN/int8-weights.onnx` repeats the accuracy from the file; figures
    also stand in quantize.json.
    """
    needs_onnx()
    from harvib.quantize.run import quantize_run, quantize_table  # noqa: PLC0415 - an extra

    result = quantize_run(model, features, schemes or None, out, QuantizeSettings(**fields))
    click.echo(json.dumps(result, indent=2) if as_json else quantize_table(result))
