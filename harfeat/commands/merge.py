"""`harfeat merge`."""

from __future__ import annotations

from pathlib import Path

import click

from harfeat.cache.merging import merge
from harfeat.commands.info import describe_splits
from harfeat.errors import printable


@click.command("merge")
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Cache file to write.")
@click.option("--allow-missing", is_flag=True, help="Merge although slices are absent; they become failures.")
@click.option("--drop-split", "drop", multiple=True, help="Leave this split out; may be repeated.")
def merge_command(sources: tuple[Path, ...], out: Path, allow_missing: bool, drop: tuple[str, ...]) -> None:
    """Join caches of different clips: files, folders, or a folder of slices."""
    result = merge(sources, out, allow_missing, drop)
    for note in result.notes:
        click.echo(printable(f"note: {note}"))
    click.echo(f"{out}: {result.clips} clips, content {result.content}")
    click.echo(describe_splits(result.splits))
    for failure in result.failures:
        click.echo(printable(f"  missing {failure.name}: {failure.reason}"))
