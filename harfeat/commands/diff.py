"""`harfeat diff`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import click

from harfeat.cache import open_cache
from harfeat.differences import Difference, StreamDifference, differences
from harfeat.errors import printable
from harfeat.findings import some


@click.command("diff")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, with all names.")
def diff_command(a: Path, b: Path, as_json: bool) -> None:
    """Explain where two caches, files or folders, differ: exit code 0 where their content is equal, else 1.

    Clips are compared by the hashes that the caches state; `harfeat verify` tells whether the features match them.
    """
    with open_cache(a) as first, open_cache(b) as second:
        found = differences(first, second)
        if as_json:
            click.echo(json.dumps(asdict(found), indent=2))
        else:
            told = f"equal content {first.content}" if found.equal_content else "content differs"
            click.echo(f"A {a}\nB {b}\n{told}")
            for line in _lines(found):
                click.echo(printable(line))
    if not found.equal_content:
        sys.exit(1)


def _lines(found: Difference) -> Iterator[str]:
    yield from _each("recipe", found.recipe)
    yield from _each("class", found.classes)
    for side, names in (("A", found.only_a), ("B", found.only_b)):
        if names:
            yield f"clips in {side} only: {len(names)}: {some(names)}"
    if found.order:
        yield "clips: in another order"
    for column, names in found.clips.items():
        yield f"clips with another {column}: {len(names)}: {some(names)}"
    yield from _each("split", found.splits)
    yield from _each("failure", found.failures)
    yield from _each("stream", found.layouts)
    for name, stream in found.streams.items():
        yield f"features of {name}: {_stream(stream)}"
    yield from _each("provenance", found.provenance)


def _each(what: str, lines: Sequence[str], most: int = 20) -> Iterator[str]:
    yield from (f"{what} {line}" for line in lines[:most])
    if len(lines) > most:
        yield f"{what}: {len(lines) - most} more differences; --json lists them"


def _stream(stream: StreamDifference) -> str:
    if not stream.differing:
        return f"equal in all {stream.of} common clips"
    text = f"{stream.differing} of {stream.of} common clips differ ({', '.join(stream.first)}"
    text += ", ...)" if stream.differing > len(stream.first) else ")"
    if stream.frames:
        text += f", {stream.frames} of them in their frame indices"
    if stream.unreadable:
        text += f", {stream.unreadable} are damaged (see harfeat verify)"
    if not stream.compared:
        return f"{text}; no two of one shape"
    return (
        f"{text}; over {stream.compared} clips deviation mean {stream.mean:.3g}, max {stream.largest:.3g}, "
        f"cosine mean {stream.mean_cosine:.6f}, min {stream.least_cosine:.6f}"
    )
