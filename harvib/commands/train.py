"""`harvib train`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from harvib import fusion, methods
from harvib.commands import common
from harvib.commands.running import carried_out, tell
from harvib.errors import InputError
from harvib.options import one_kind, options_of, require_none_given
from harvib.settings import BackboneSettings, TrainSettings
from harvib.source import source_of


@click.command()
@click.option(
    "--features",
    multiple=True,
    type=common.PATH,
    help="Cache made by harfeat: file or folder, or CACHE::STREAM. Repeat it to fuse streams.",
)
@click.option(
    "--videos",
    type=common.PATH,
    help="Cache of frames instead: train the last block of the backbone too.",
)
@common.split_to_train_on
@click.option("--run-dir", type=common.PATH, help="Default: runs/<features>-<split>-<model>-s<seed>.")
@click.option("--init", type=common.PATH, help="Start from the plain model of this finished run.")
@click.option("--teacher", type=common.PATH, help="Soft targets: the final model of this finished run.")
@common.device
@common.allow_missing
@common.tensorboard
@options_of(BackboneSettings)
@options_of(TrainSettings)
def train(
    features: tuple[Path, ...],
    videos: Path | None,
    split: str,
    run_dir: Path | None,
    init: Path | None,
    teacher: Path | None,
    device: str,
    allow_missing: bool,
    tensorboard: bool,
    **fields: Any,
) -> None:
    """Train a plain model, prune it by VIB, compact it exactly, fine-tune it.

    The same command resumes an interrupted run.

    Several --features (RGB and optical flow, say) are streams of the same clips, matched by name: each is trained
    and compressed by itself, in a folder of its own in the run folder, on the same train and validation clips, and
    their scores are averaged with weights chosen on the validation part. --target-params and --target-ratio are
    then those of all streams together.
    """
    caches = one_kind(features, videos)
    if videos is None:
        require_none_given(BackboneSettings, "goes with --videos")
    names = {item.name for item in dataclasses.fields(BackboneSettings)}
    backbone = BackboneSettings(**{name: fields.pop(name) for name in names})
    settings = TrainSettings(**fields)
    if run_dir is None:
        kind = settings.model if settings.method == "vib" else f"{settings.method}-{settings.model}"
        label = "+".join(source_of(given).label for given in caches)
        run_dir = Path("runs") / f"{label}-{split}-{kind}-s{settings.seed}"
    if videos is not None and init is not None:
        raise InputError("--init: a run on --videos trains its own plain model; leave it out")
    if teacher is not None and (videos is not None or len(features) > 1):
        raise InputError("--teacher: goes with one --features; fused streams and --videos have none")
    with carried_out(device, run_dir, tensorboard) as (where, folder, manner):
        asked = (split, settings, folder, init, where, allow_missing, manner)
        if videos is not None:
            from harvib.videos import train as train_videos  # noqa: PLC0415 - timm takes a second to import

            report = train_videos(videos, split, settings, backbone, folder, where, allow_missing, manner)
        elif len(features) == 1:
            report = methods.train(features[0], *asked, teacher)
        else:
            report = fusion.train(features, *asked, tell=_note if manner.team.first else None)
        tell(report, run_dir, manner)


def _note(text: str) -> None:
    click.echo(f"note: {text}", err=True)
