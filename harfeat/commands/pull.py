"""`harfeat pull`."""

from __future__ import annotations

from pathlib import Path

import click

from harfeat.share import WORKERS, pull


@click.command("pull")
@click.argument("url")
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    help="Folder for the files; default: one of its own in HARFEAT_CACHE, or in the user's cache folder.",
)
@click.option("--workers", default=WORKERS, show_default=True, help="Files fetched side by side.")
def pull_command(url: str, to: Path | None, workers: int) -> None:
    """Fetch a folder that `harfeat push` wrote; every file is checked. Repeat the command to resume.

    URL is a path, s3://, gcs://, http(s)://, any other address that fsspec knows, or
    hf://datasets/ORG/NAME[/FOLDER][@REVISION]. The last line names what to give to harvib.
    """
    done = pull(url, to, workers=workers, show=True)
    click.echo(
        f"{done.files} files, {done.bytes:,} bytes, all as promised; "
        f"fetched {done.fetched_files} files, {done.fetched_bytes:,} bytes"
    )
    click.echo(done.path)
