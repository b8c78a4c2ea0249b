"""`harvib predict`."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from harvib.commands import common
from harvib.options import options_of
from harvib.predict.settings import PredictSettings


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@common.run_or_file
@options_of(PredictSettings)
@common.device
@common.as_json
def predict(inputs: tuple[str, ...], model: Path, device: str, as_json: bool, **fields: Any) -> None:
    """Labels of videos: decode, sample, backbone and model, exactly as of the cache that the model was trained on.

    INPUT is a video, a folder of videos, the number of a camera, or - for an MJPEG stream on standard input.
    Ends with exit code 1 where an input failed; the others are predicted all the same.
    """
    settings = PredictSettings(**fields)
    try:
        from harvib.predict import run  # noqa: PLC0415 - what it needs takes seconds to import

        failed = run.predict(model, inputs, settings, device, as_json, click.echo, partial(click.echo, err=True))
    except KeyboardInterrupt:
        click.echo("harvib: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # Who read the results has seen enough; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    if failed:
        sys.exit(1)
