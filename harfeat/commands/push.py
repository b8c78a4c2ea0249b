"""`harfeat push`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from harfeat.share import WORKERS, push


@click.command("push")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("url")
@click.option("--workers", default=WORKERS, show_default=True, help="Files sent side by side.")
@click.option("--replace", is_flag=True, help="Take the place of another cache at URL.")
@click.option("--private", is_flag=True, help="hf:// only: a data set that is made anew is private.")
def push_command(file: Path, url: str, workers: int, replace: bool, private: bool) -> None:
    """Share a finished cache: FILE is a packed cache or a complete folder of shards.

    URL is a folder: a path, s3://, gcs://, any other address that fsspec knows, or
    hf://datasets/ORG/NAME[/FOLDER][@REVISION]. Repeat the command to resume.
    """
    done = push(file, url, workers=workers, replace=replace, private=private, show=True)
    click.echo(
        f"{done.url}: {done.files} files, {done.bytes:,} bytes; "
        f"sent {done.sent_files} files, {done.sent_bytes:,} bytes"
    )
    click.echo(f"fetch it with: harfeat pull {shlex.quote(done.url)}")
