"""`harfeat info`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np

from harfeat.cache import Cache, open_cache
from harfeat.errors import InputError, printable
from harfeat.info import describe
from harfeat.splits import TEST, TRAIN, UNUSED, Split

_FREQUENT = 10
"""Classes that are named."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option(
    "--preview", type=click.Path(path_type=Path), help="Write a page (HTML) of sampled frames of each class."
)
@click.option("--root", type=click.Path(path_type=Path), help="--preview: folder with the class folders.")
@click.option("--weights", help="--preview: the weights file that the cache was made with, for predictions.")
@click.option("--splits", type=click.Path(path_type=Path), help="--preview: folder of official lists (hmdb51).")
@click.option("--preview-classes", type=int, default=50, show_default=True, help="Classes shown; 0: all.")
@click.option("--preview-clips", type=int, default=2, show_default=True, help="Clips shown of a class.")
@click.option("--preview-frames", type=int, default=6, show_default=True, help="Frames shown of a clip.")
def info(
    file: Path,
    as_json: bool,
    preview: Path | None,
    root: Path | None,
    weights: str | None,
    splits: Path | None,
    preview_classes: int,
    preview_clips: int,
    preview_frames: int,
) -> None:
    """Show what is inside a cache, a file or a folder."""
    if preview is not None and root is None:
        raise InputError("--preview shows frames of the videos: name their folder with --root DIR")
    with open_cache(file) as cache:
        if preview is not None and root is not None:
            # Here, since it takes torch seconds to load, which the rest does not need.
            from harfeat.preview import PreviewSettings, write_preview  # noqa: PLC0415

            chosen = PreviewSettings(preview_classes, preview_clips, preview_frames)
            write_preview(cache, root, preview, chosen, weights, splits)
            click.echo(f"{preview} written")
        elif as_json:
            click.echo(json.dumps(describe(cache), indent=2))
        else:
            _print(cache, file)


def _print(cache: Cache, file: Path) -> None:
    known = describe(cache)
    lines = [f"{file}: {known['clips']} clips, {len(cache.classes)} classes, {known['groups']} groups"]
    for name, stream in known["streams"].items():
        lines.append(f"  stream {name}: {stream['rows']} rows of {stream['dim']} {stream['dtype']}")
        if stream["dtype"] == "uint8" and "quantisation" in cache.recipe:
            scale, shift = stream["quantisation"]
            lines[-1] += f", which stand for value * {scale:.6g} + {shift:.6g}"
    lines += _label_lines(cache, known) if cache.has_several else []
    lines += [f"  content {cache.content}", f"  fingerprint {cache.fingerprint}"]
    for key, value in cache.recipe.items():
        lines.append(f"    {key}: {value if not isinstance(value, dict) else json.dumps(value)}")
    lines += split_lines(cache.splits.values())
    lines += [
        f"  damaged {clip.name}: FFmpeg met errors in the video" for clip in cache.clips if clip.damaged == 1
    ]
    lines += [f"  missing {failure.name}: {failure.reason}" for failure in cache.failures]
    for line in lines:
        click.echo(printable(line))


def _label_lines(cache: Cache, known: Mapping[str, Any]) -> list[str]:
    """Of a cache whose clips have several labels."""
    sizes, counts = known["labels_per_clip"], known["clips_per_class"]
    order = sorted(range(len(counts)), key=lambda label: (-counts[label], label))[:_FREQUENT]
    shown = ", ".join(f"{cache.classes[label]} ({counts[label]})" for label in order if counts[label])
    return [
        f"  several labels a clip: {sizes['mean']:.2f} in the mean, {sizes['most']} at most; {sizes['several']} "
        f"clips have several, {sizes['none']} none",
        f"  most frequent: {shown or 'none'}",
    ]


def describe_splits(splits: Iterable[Split]) -> str:
    """A line a split: clips of each role, leaking groups, rule; a line too where there is none."""
    return "\n".join(split_lines(splits) or ["  no splits"])


def split_lines(splits: Iterable[Split]) -> list[str]:
    """The lines of `describe_splits`."""
    lines = []
    for split in splits:
        train, test, unused = (int(np.sum(split.roles == role)) for role in (TRAIN, TEST, UNUSED))
        leaks = f", {split.leaking_groups} LEAKING GROUPS" if split.leaking_groups else ", no leaking group"
        rest = f", {unused} unused" if unused else ""
        lines.append(printable(f"  split {split.name}: {train} train, {test} test{rest}{leaks} ({split.rule})"))
    return lines
