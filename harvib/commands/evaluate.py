"""`harvib evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from harvib.commands import common
from harvib.devices import device_of
from harvib.evaluate import evaluate_run
from harvib.options import one_kind


@click.command()
@common.run_or_file
@click.option(
    "--features",
    multiple=True,
    type=common.PATH,
    help="Cache made by harfeat, or CACHE::STREAM; repeat it for the streams of a fused run.",
)
@click.option("--videos", type=common.PATH, help="Cache of frames instead, for a run that was trained on one.")
@click.option("--split", help="Name of a split in the cache; without it all clips count.")
@click.option(
    "--subset", type=click.Choice(["train", "test"]), default="test", show_default=True, help="Part of the split."
)
@common.device
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the confusion matrix.")
def evaluate(
    model: Path,
    features: tuple[Path, ...],
    videos: Path | None,
    split: str | None,
    subset: str,
    device: str,
    as_json: bool,
) -> None:
    """Accuracy of a trained model on a cache with the same classes and feature fingerprint.

    Of clips with several labels GAP@20, Hit@1, PERR and mAP.

    A fused run takes the caches of all its streams, in any order, and counts the clips that all of them have.
    """
    caches = one_kind(features, videos)
    result = evaluate_run(model, caches, split, subset, device_of(device), videos=videos is not None)
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    for name, lacking in result.get("left_out", {}).items():
        if lacking:
            click.echo(f"note: {len(lacking):,} clips without {name} are left out (first: {lacking[0]})", err=True)
    names = {"gap": "GAP@20", "accuracy": "accuracy"}
    if "gap" in result:
        names |= {"accuracy": "Hit@1", "perr": "PERR", "map": "mAP"}
    told = ", ".join(f"{name} {result[key]:.2%}" for key, name in names.items() if key in result)
    click.echo(
        f"{told} on {result['clips']} clips of {', '.join(map(str, caches))} "
        f"({'all' if split is None else f'split {split}, {subset}'}); {result['parameters']['total']:,} parameters"
    )
