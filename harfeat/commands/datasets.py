"""`harfeat datasets`."""

from __future__ import annotations

import click

from harfeat.datasets import REGISTRY


@click.command()
def datasets() -> None:
    """List the data sets that can be extracted."""
    for definition in REGISTRY.values():
        counts = [
            "any number of" if count is None else str(count)
            for count in (definition.class_count, definition.clip_count)
        ]
        click.echo(
            f"{definition.name:8} {counts[0]} classes, {counts[1]} clips, "
            f"{len(definition.split_names)} splits: {', '.join(definition.split_names)}"
        )
        click.echo(f"         {definition.description}")
