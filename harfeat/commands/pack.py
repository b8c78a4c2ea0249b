"""`harfeat pack`."""

from __future__ import annotations

from pathlib import Path

import click

from harfeat.cache.packing import pack


@click.command("pack")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Cache file to write.")
def pack_command(source: Path, out: Path) -> None:
    """Make one self-contained file of a folder of shards."""
    content = pack(source, out)
    click.echo(f"{out} written, content {content}")
