"""`harfeat download`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from harfeat.download import ARCHIVES, download


@click.command("download")
@click.option("--dataset", required=True, type=click.Choice(list(ARCHIVES)), help="Which data set.")
@click.option("--to", required=True, type=click.Path(path_type=Path), help="Folder for archives and videos.")
@click.option(
    "--base-url", envvar="HARFEAT_DOWNLOAD_URL", help="A mirror: folder with the archives by their official names."
)
def download_command(dataset: str, to: Path, base_url: str | None) -> None:
    """Fetch the official archives of a data set and unpack them for `harfeat extract`.

    Repeat the command to resume. An archive that you put into TO/archives by hand is used as if it were fetched.
    """
    done = download(dataset, to, base_url, show=True)
    for name, digest in done.hashes.items():
        click.echo(f"{name}: sha256 {digest}")
    for note in done.notes:
        click.echo(f"note: {note}")
    click.echo(f"{done.root}: {done.clips} clips; the archives in {to / 'archives'} are not needed any more")
    splits = ["--splits", str(done.splits)] if done.splits else []
    command = ["harfeat", "extract", "--dataset", dataset, "--root", str(done.root), *splits]
    click.echo(f"next: {shlex.join([*command, '--out', f'{dataset}.h5'])}")
