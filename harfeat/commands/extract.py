"""`harfeat extract`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from harfeat.backbone import PRECISIONS
from harfeat.commands.info import describe_splits
from harfeat.datasets import REGISTRY
from harfeat.pipeline import ExtractSettings, extract
from harfeat.sampling import SAMPLERS
from harfeat.splits import parse_group_list

_DEFAULT = ExtractSettings
_PATH = click.Path(path_type=Path)


@click.command("extract")
@click.option("--dataset", required=True, type=click.Choice(list(REGISTRY)), help="`harfeat datasets` explains.")
@click.option("--root", required=True, type=_PATH, help="Folder with the class folders.")
@click.option("--out", required=True, type=_PATH, help="Cache file to write; repeat the command to resume.")
@click.option("--model", default=_DEFAULT.model, show_default=True, help="Any timm model.")
@click.option(
    "--weights", default=_DEFAULT.weights, show_default=True, help="auto (timm downloads), none, or a file."
)
@click.option("--frames", default=_DEFAULT.frames, show_default=True, help="Frames a clip.")
@click.option("--sampling", default=_DEFAULT.sampling, show_default=True, type=click.Choice(list(SAMPLERS)))
@click.option("--splits", "splits_dir", type=_PATH, help="Folder of official lists (needed for hmdb51).")
@click.option("--group-pattern", help="folder: regular expression whose first group names a clip's group.")
@click.option(
    "--test-groups", default="", help="folder: adds the split 'listed'; these groups test, e.g. 8-14 or a,b."
)
@click.option("--split-seed", default=_DEFAULT.split_seed, show_default=True, help="Seed of 'random' and 'group'.")
@click.option("--workers", default=_DEFAULT.workers, show_default=True, help="Decoding processes; -1: one a core.")
@click.option("--device", default=_DEFAULT.device, show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option(
    "--precision", default=_DEFAULT.precision, show_default=True, type=click.Choice(["auto", *PRECISIONS])
)
@click.option("--dtype", default=_DEFAULT.dtype, show_default=True, type=click.Choice(["float16", "float32"]))
@click.option("--batch", default=_DEFAULT.batch, show_default=True, help="Frames in a batch, filled across clips.")
@click.option(
    "--limit", default=_DEFAULT.limit, show_default=True, help="About so many clips, of all classes; 0: all."
)
@click.option("--clip-timeout", default=_DEFAULT.clip_timeout, show_default=True, help="Seconds a clip may take.")
def extract_command(test_groups: str, **fields: Any) -> None:
    """Extract CNN features of a data set's videos into one cache file.

    Ends with exit code 1 where clips failed: the cache is written without them and names them.
    """
    settings = ExtractSettings(test_groups=parse_group_list(test_groups) if test_groups else (), **fields)
    result = extract(settings)
    for note in result.notes:
        click.echo(f"note: {note}")
    resumed = f" ({result.resumed} were there already)" if result.resumed else ""
    click.echo(f"{settings.out}: {result.clips} clips{resumed} in {result.seconds:.0f} s")
    click.echo(describe_splits(result.splits))
    if result.failures:
        for failure in result.failures:
            click.echo(f"failed: {failure.name}: {failure.reason}", err=True)
        click.echo(f"{len(result.failures)} clips failed; repeat the command to try them again", err=True)
        sys.exit(1)
