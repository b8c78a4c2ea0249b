"""`harfeat import`."""

from __future__ import annotations

from pathlib import Path

import click

from harfeat.commands.info import describe_splits
from harfeat.errors import InputError
from harfeat.importers import IMPORTERS, Keys
from harfeat.importing import import_features
from harfeat.splits import parse_group_list


@click.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--from", "kind", required=True, type=click.Choice(list(IMPORTERS)), help="Format of the file.")
@click.option("--features", required=True, help="Key of the features, (clips, frames, D) or (clips, D).")
@click.option("--offsets", help="Key of the clips' first rows, (clips + 1,), where features are flat: (rows, D).")
@click.option(
    "--labels",
    required=True,
    help="Key of the labels: class indices or names; several a clip as (clips, classes) of 0 and 1.",
)
@click.option("--label-offsets", help="Key of the clips' first labels, (clips + 1,), where several lie in a row.")
@click.option("--names", help="Key of the clip names; without it clips are numbered.")
@click.option("--groups", help="Key of the groups (source video or subject of each clip).")
@click.option("--classes", help="Key of the class names, in the order of the indices.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Cache file to write.")
@click.option("--test-groups", default="", help="Adds the split 'listed': these groups test, e.g. 8-14 or a,b.")
@click.option("--split-seed", default=0, show_default=True, help="Seed of the splits 'random' and 'group'.")
@click.option(
    "--scale", type=float, help="Of bytes that stand for value * scale + shift; without it, value / 255."
)
@click.option("--shift", type=float, help="Of the same; 0 where --scale is given alone.")
@click.option("--features-id", help="Name of how the features were made; caches with the same id are of one kind.")
def import_command(
    source: Path,
    kind: str,
    features: str,
    offsets: str | None,
    labels: str,
    label_offsets: str | None,
    names: str | None,
    groups: str | None,
    classes: str | None,
    out: Path,
    test_groups: str,
    split_seed: int,
    scale: float | None,
    shift: float | None,
    features_id: str | None,
) -> None:
    """Make a cache of features that somebody else extracted."""
    if scale is None and shift is not None:
        raise InputError(f"--shift {shift:g}: name the --scale too")
    quantisation = None if scale is None else (scale, shift or 0.0)
    keys = Keys(features, labels, names, groups, classes, offsets, label_offsets)
    listed = parse_group_list(test_groups) if test_groups else ()
    splits = import_features(source, kind, keys, out, listed, split_seed, features_id, quantisation)
    click.echo(f"{out} written\n{describe_splits(splits)}")
