"""`harvib pull`."""

from __future__ import annotations

from pathlib import Path

import click

from harvib.commands import common
from harvib.share import WORKERS, pull


@click.command("pull")
@click.argument("url")
@click.option(
    "--to",
    type=common.PATH,
    help="Folder for the files; default: one of its own in HARFEAT_CACHE, or in the user's cache folder.",
)
@click.option("--workers", default=WORKERS, show_default=True, help="Files fetched side by side.")
def pull_command(url: str, to: Path | None, workers: int) -> None:
    """Fetch a model that `harvib push` sent; every file is checked, and read once. Repeat the command to resume.

    URL is a path, s3://, gcs://, http(s)://, any other address that fsspec knows, or
    hf://ORG/NAME[/FOLDER][@REVISION]. The last line is the run folder to give to --model.
    """
    done = pull(url, to, workers=workers, show=True)
    click.echo(
        f"{done.files} files, {done.bytes:,} bytes, all as promised; "
        f"fetched {done.fetched_files} files, {done.fetched_bytes:,} bytes"
    )
    click.echo(done.path)
