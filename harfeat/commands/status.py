"""`harfeat status`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from harfeat.status import survey


@click.command("status")
@click.argument("where", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--check", is_flag=True, help="End with exit code 1 unless everything is complete.")
def status_command(where: Path, as_json: bool, check: bool) -> None:
    """Tell how far the extractions in a folder are."""
    found = survey(where)
    click.echo(json.dumps(found.json(), indent=2) if as_json else "\n".join(found.lines()))
    if check and not found.complete:
        sys.exit(1)
