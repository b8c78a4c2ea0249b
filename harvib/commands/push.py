"""`harvib push`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from harvib.commands import common
from harvib.share import WORKERS, push


@click.command("push")
@common.finished_run
@click.argument("url")
@click.option("--everything", is_flag=True, help="The plain and the masked model too, for bench and --init.")
@click.option(
    "--license", "licence", default="unknown", show_default=True, help="For the card, such as apache-2.0."
)
@click.option("--workers", default=WORKERS, show_default=True, help="Files sent side by side.")
@click.option("--replace", is_flag=True, help="Take the place of another model at URL.")
@click.option("--private", is_flag=True, help="hf:// only: a repository that is made anew is private.")
def push_command(
    model: Path, url: str, everything: bool, licence: str, workers: int, replace: bool, private: bool
) -> None:
    """Share the final model of a finished run, with its figures and a card made from report.json.

    URL is a folder: a path, s3://, gcs://, any other address that fsspec knows, or
    hf://ORG/NAME[/FOLDER][@REVISION]. Repeat the command to resume. No path of this machine is sent.
    """
    done = push(
        model,
        url,
        everything=everything,
        licence=licence,
        workers=workers,
        replace=replace,
        private=private,
        show=True,
        tell=lambda note: click.echo(f"note: {note}", err=True),
    )
    click.echo(
        f"{done.url}: {done.files} files, {done.bytes:,} bytes; "
        f"sent {done.sent_files} files, {done.sent_bytes:,} bytes"
    )
    click.echo(f"fetch it with: harvib pull {shlex.quote(done.url)}")
