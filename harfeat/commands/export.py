"""`harfeat export`."""

from __future__ import annotations

from pathlib import Path

import click

from harfeat.exporters import EXPORTERS, ExportSettings
from harfeat.exporting import export

_DEFAULTS = ExportSettings()


@click.command("export")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--to", "kind", required=True, type=click.Choice(list(EXPORTERS)), help="Format to write.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="File, or folder (webdataset), to write."
)
@click.option("--stream", "streams", multiple=True, help="Export this stream; may be repeated.  [default: all]")
@click.option("--split", help="webdataset: train and test clips of this split in shards of their own.")
@click.option(
    "--shard-clips", default=_DEFAULTS.shard_clips, show_default=True, help="webdataset: clips in a shard."
)
@click.option("--shuffle", type=int, help="webdataset: seed of an order drawn once.  [default: by name]")
def export_command(
    source: Path,
    kind: str,
    out: Path,
    streams: tuple[str, ...],
    split: str | None,
    shard_clips: int,
    shuffle: int | None,
) -> None:
    """Write a cache in a format of other tools."""
    written = export(source, kind, out, ExportSettings(streams, split, shard_clips, shuffle))
    click.echo(f"{out} written: {', '.join(written)}")
