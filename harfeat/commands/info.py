"""`harfeat info`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import click
import numpy as np

from harfeat.cache import open_cache
from harfeat.info import describe
from harfeat.splits import TEST, TRAIN, UNUSED, Split


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def info(file: Path, as_json: bool) -> None:
    """Show what is inside a cache, a file or a folder."""
    with open_cache(file) as cache:
        if as_json:
            click.echo(json.dumps(describe(cache), indent=2))
            return
        known = describe(cache)
        click.echo(f"{file}: {known['clips']} clips, {len(cache.classes)} classes, {known['groups']} groups")
        for name, stream in known["streams"].items():
            click.echo(f"  stream {name}: {stream['rows']} rows of {stream['dim']} {stream['dtype']}")
        click.echo(f"  content {cache.content}")
        click.echo(f"  fingerprint {cache.fingerprint}")
        for key, value in cache.recipe.items():
            click.echo(f"    {key}: {value if not isinstance(value, dict) else json.dumps(value)}")
        click.echo(describe_splits(cache.splits.values()))
        for failure in cache.failures:
            click.echo(f"  missing {failure.name}: {failure.reason}")


def describe_splits(splits: Iterable[Split]) -> str:
    """A line a split: clips of each role, leaking groups, rule."""
    lines = []
    for split in splits:
        train, test, unused = (int(np.sum(split.roles == role)) for role in (TRAIN, TEST, UNUSED))
        leaks = f", {split.leaking_groups} LEAKING GROUPS" if split.leaking_groups else ", no leaking group"
        rest = f", {unused} unused" if unused else ""
        lines.append(f"  split {split.name}: {train} train, {test} test{rest}{leaks} ({split.rule})")
    return "\n".join(lines)
