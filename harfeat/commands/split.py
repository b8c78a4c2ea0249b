"""`harfeat split`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harfeat.commands.info import describe_splits
from harfeat.errors import InputError, printable
from harfeat.resplit import OFFICIAL, SplitChanges, resplit
from harfeat.splits import parse_group_list

_PATH = click.Path(path_type=Path)


@click.command("split")
@click.argument("source", type=_PATH)
@click.option("--out", type=_PATH, help="Cache file to write.")
@click.option("--in-place", is_flag=True, help="Replace the cache file itself, atomically.")
@click.option("--random", is_flag=True, help="A draw of each class's clips, whatever the groups.")
@click.option("--group", is_flag=True, help="Whole groups on one side.")
@click.option("--train-share", type=float, help="Share of a class that trains, for both draws.  [default: 0.6]")
@click.option("--seed", type=int, help="Seed of both draws.  [default: 0]")
@click.option("--test-groups", default="", help="These groups test, e.g. 8-14 or a,b; all others train.")
@click.option("--official", type=click.Choice(OFFICIAL), help="The official splits of this data set.")
@click.option("--splits", "lists", type=_PATH, help="Folder of official lists (needed for hmdb51).")
@click.option("--from", "file", type=_PATH, help="A file of roles: CSV (clip,role) or JSON.")
@click.option("--name", help="Name of the new split, where there is one.")
@click.option("--drop", multiple=True, help="Remove this split; may be repeated.")
def split_command(source: Path, out: Path | None, in_place: bool, test_groups: str, **given: Any) -> None:
    """Give a cache other splits; its features stay as they are."""
    if (out is None) != in_place:
        raise InputError("say either --out X.h5 or --in-place")
    listed = parse_group_list(test_groups) if test_groups else ()
    result = resplit(source, out, SplitChanges(test_groups=listed, **given))
    for note in result.notes:
        click.echo(printable(f"note: {note}"))
    click.echo(f"{out or source} written, content {result.content}\n{describe_splits(result.splits)}")
