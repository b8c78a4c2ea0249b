"""`harfeat import`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from harfeat.commands.info import describe_splits
from harfeat.errors import InputError, printable
from harfeat.importers import IMPORTERS, RECORDS, Keys
from harfeat.importing import import_features
from harfeat.options import options_of
from harfeat.record_import import RecordResult, RecordSettings, import_records
from harfeat.splits import parse_group_list

_OF_KEYS = ("features", "labels", "names", "groups", "classes", "offsets", "label_offsets")
_OF_ARRAYS = (*(name for name in _OF_KEYS if name != "classes"), "test_groups", "scale", "shift")
_OF_RECORDS = ("vocabulary", "only_labels", "max_clips", "workers", "max_failures")
_MOST_LINES = 20


@click.command("import")
@click.argument("sources", nargs=-1, required=True)
@click.option(
    "--from", "kind", required=True, type=click.Choice([*IMPORTERS, *RECORDS]), help="Format of the files."
)
@click.option("--features", help="h5, npz: key of the features, (clips, frames, D) or (clips, D).")
@click.option("--offsets", help="h5, npz: key of the clips' first rows, (clips + 1,), of flat features (rows, D).")
@click.option(
    "--labels",
    help="h5, npz: key of the labels: class indices or names; several a clip as (clips, classes) of 0 and 1.",
)
@click.option(
    "--label-offsets", help="h5, npz: key of the clips' first labels, (clips + 1,), where several lie in a row."
)
@click.option("--names", help="h5, npz: key of the clip names; without it clips are numbered.")
@click.option("--groups", help="h5, npz: key of the groups (source video or subject of each clip).")
@click.option(
    "--classes", help="h5, npz: key of the class names, in the order of the indices; yt8m: their number."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Cache to write; yt8m: or a folder.")
@click.option(
    "--test-groups", default="", help="h5, npz: adds the split 'listed', groups that test, as 8-14 or a,b."
)
@click.option("--split-seed", default=0, show_default=True, help="Seed of the splits 'random' and 'group'.")
@click.option(
    "--scale", type=float, help="h5, npz: of bytes that stand for value * scale + shift; without it, value / 255."
)
@click.option("--shift", type=float, help="h5, npz: of the same; 0 where --scale is given alone.")
@click.option("--features-id", help="Name of how the features were made; caches with the same id are of one kind.")
@options_of(RecordSettings, skip=("sources", "out", "classes", "split_seed", "features_id", "part_seconds"))
@click.pass_context
def import_command(context: click.Context, /, sources: tuple[str, ...], kind: str, **options: Any) -> None:
    """Make a cache of features that somebody else extracted.

    h5, npz: one file of arrays. yt8m: YouTube-8M's TFRecord files of frame or video level, any number of files and
    (quoted) patterns, as 'train*.tfrecord'; repeat the command to resume. Ends with exit code 1 where more records
    failed than --max-failures: the cache is complete but for them, and names them.
    """
    _refuse_foreign(context, kind)
    if kind in RECORDS:
        _import_records(sources, options)
    else:
        _import_arrays(sources, kind, options)


def _import_arrays(sources: tuple[str, ...], kind: str, options: dict[str, Any]) -> None:
    if len(sources) != 1:
        raise InputError(f"--from {kind} reads one file, not {len(sources)}: import them one by one, then merge")
    if not options["features"] or not options["labels"]:
        raise InputError(f"--from {kind} needs --features KEY and --labels KEY, where they stand in the file")
    scale, shift = options["scale"], options["shift"]
    if scale is None and shift is not None:
        raise InputError(f"--shift {shift:g}: name the --scale too")
    quantisation = None if scale is None else (scale, shift or 0.0)
    keys = Keys(**{name: options[name] for name in _OF_KEYS})
    listed = parse_group_list(options["test_groups"]) if options["test_groups"] else ()
    out, seed, features_id = options["out"], options["split_seed"], options["features_id"]
    splits = import_features(Path(sources[0]), kind, keys, out, listed, seed, features_id, quantisation)
    click.echo(f"{out} written\n{describe_splits(splits)}")


def _import_records(sources: tuple[str, ...], options: dict[str, Any]) -> None:
    chosen = {name: options[name] for name in ("out", "split_seed", *_OF_RECORDS)}
    if options["features_id"]:
        chosen["features_id"] = options["features_id"]
    settings = RecordSettings(sources, classes=_number_of_classes(options["classes"]), **chosen)
    result = import_records(settings)
    _tell(result)
    if len(result.failures) > settings.max_failures:
        sys.exit(1)


def _tell(result: RecordResult) -> None:
    for note in result.notes:
        click.echo(printable(f"note: {note}"))
    for name in result.dropped:
        click.echo(f"note: {name} was damaged; what it held was read again")
    resumed = f" ({result.resumed} were there already)" if result.resumed else ""
    click.echo(
        f"{result.out}: {result.clips} clips{resumed} of {result.records} records in {result.seconds:.0f} s"
    )
    click.echo(describe_splits(result.splits) if result.splits else "  no splits: no clip has a label")
    for failure in result.failures[:_MOST_LINES]:
        click.echo(printable(f"failed: {failure.name}: {failure.reason}"), err=True)
    if result.failures:
        more = f" (the first {_MOST_LINES} are told above)" if len(result.failures) > _MOST_LINES else ""
        lost = f"; {result.lost_bytes:,} bytes behind damaged lengths are lost" if result.lost_bytes else ""
        click.echo(f"{len(result.failures)} records failed{more}{lost}", err=True)


def _refuse_foreign(context: click.Context, kind: str) -> None:
    """Raise InputError for an option that was given and means nothing to this format."""
    foreign, why = (
        (_OF_ARRAYS, "whose records tell it themselves") if kind in RECORDS else (_OF_RECORDS, "only with yt8m")
    )
    for name in foreign:
        if context.get_parameter_source(name) != ParameterSource.DEFAULT:
            raise InputError(f"--{name.replace('_', '-')} does not go with --from {kind}, {why}: leave it out")


def _number_of_classes(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise InputError(f"--classes {text}: with --from yt8m, say how many there are, as in 3862")
    return int(text)
