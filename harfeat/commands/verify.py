"""`harfeat verify`."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import click

from harfeat.cache import open_cache
from harfeat.errors import InputError
from harfeat.findings import NOTE, PROBLEM, WARNING, Finding
from harfeat.verify import verify


@click.command("verify")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--strict", is_flag=True, help="Warnings (leaks, missing clips, ...) count as problems.")
@click.option("--decode", type=int, help="Extract so many clips again from their videos and compare.")
@click.option("--root", type=click.Path(path_type=Path), help="--decode: folder with the class folders.")
@click.option("--weights", help="--decode: the weights file that the cache was made with.")
@click.option("--splits", type=click.Path(path_type=Path), help="--decode: folder of official lists (hmdb51).")
@click.option("--seed", type=click.IntRange(0), help="--decode: draw the clips; else they are spread evenly.")
def verify_command(
    path: Path,
    strict: bool,
    decode: int | None,
    root: Path | None,
    weights: str | None,
    splits: Path | None,
    seed: int | None,
) -> None:
    """Check a cache, a file or a folder: a line a check, exit code 1 where one finds a problem."""
    if (decode is None) != (root is None):
        raise InputError("--decode K and --root DIR go together: so many clips, from the videos there")
    counts: Counter[str] = Counter()

    def tell(finding: Finding) -> None:
        counts[finding.level] += 1
        click.echo(finding)

    for finding in verify(path):
        tell(finding)
    if decode is not None and counts[PROBLEM]:
        tell(Finding(NOTE, "decode", "left out, since the cache has problems"))
    elif decode is not None and root is not None:
        from harfeat.redecode import redecode  # noqa: PLC0415  torch takes seconds to import, and only this needs it

        with open_cache(path) as cache:
            for finding in redecode(cache, root, decode, seed, weights, splits):
                tell(finding)
    bad = counts[PROBLEM] + (counts[WARNING] if strict else 0)
    warnings = f", {counts[WARNING]} warnings" if counts[WARNING] else ""
    click.echo(f"{path}: {f'{counts[PROBLEM]} PROBLEMS' if counts[PROBLEM] else 'sound'}{warnings}")
    if bad:
        sys.exit(1)
