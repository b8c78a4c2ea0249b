"""`harfeat extract`."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import click

from harfeat.commands.info import describe_splits
from harfeat.errors import printable
from harfeat.options import options_of
from harfeat.pipeline import extract
from harfeat.sampling import SamplingSettings
from harfeat.settings import ExtractSettings
from harfeat.splits import parse_group_list

_SAMPLING = {field.name for field in dataclasses.fields(SamplingSettings)}


@click.command("extract")
@options_of(ExtractSettings, skip=("sampling", "test_groups", "part_seconds"), names={"splits_dir": "splits"})
@options_of(SamplingSettings, names={"rule": "sampling"})
@click.option(
    "--test-groups", default="", help="folder: adds the split 'listed'; these groups test, e.g. 8-14 or a,b."
)
def extract_command(test_groups: str, **fields: Any) -> None:
    """Extract CNN features of a data set's videos into one cache file, or a folder of shards.

    Ends with exit code 1 where more clips failed than --max-failures: the cache is complete but for them, and
    names them.
    """
    sampling = SamplingSettings(**{name: value for name, value in fields.items() if name in _SAMPLING})
    others = {name: value for name, value in fields.items() if name not in _SAMPLING}
    groups = parse_group_list(test_groups) if test_groups else ()
    settings = ExtractSettings(sampling=sampling, test_groups=groups, **others)
    result = extract(settings)
    for note in result.notes:
        click.echo(f"note: {note}")
    for name in result.dropped:
        click.echo(f"note: {name} was damaged; its clips were extracted again")
    resumed = f" ({result.resumed} were there already)" if result.resumed else ""
    click.echo(f"{result.out}: {result.clips} clips{resumed} in {result.seconds:.0f} s")
    click.echo(describe_splits(result.splits))
    for name in result.damaged:
        text = f"damaged: {name}: FFmpeg met errors in it; its frames are those that FFmpeg makes of it"
        click.echo(printable(text), err=True)
    for failure in result.failures:
        click.echo(printable(f"failed: {failure.name}: {failure.reason}"), err=True)
    if result.failures:
        known = f", {result.known} of them in an earlier run" if result.known else ""
        click.echo(f"{len(result.failures)} clips failed{known}; --retry-failed tries them again", err=True)
    if len(result.failures) > settings.max_failures:
        sys.exit(1)
