"""`harvib train`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from harvib import fusion, methods
from harvib.commands.running import carried_out, tell
from harvib.errors import InputError
from harvib.options import one_kind, options_of, require_none_given
from harvib.settings import BackboneSettings, TrainSettings
from harvib.source import source_of


@click.command()
@click.option(
    "--features",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Cache made by harfeat: file or folder, or CACHE::STREAM. Repeat it to fuse streams.",
)
@click.option(
    "--videos",
    type=click.Path(path_type=Path),
    help="Cache of frames instead: train the last block of the backbone too.",
)
@click.option("--split", required=True, help="Name of a split in the cache; `harfeat info` lists them.")
@click.option(
    "--run-dir", type=click.Path(path_type=Path), help="Default: runs/<features>-<split>-<model>-s<seed>."
)
@click.option("--init", type=click.Path(path_type=Path), help="Start from the plain model of this finished run.")
@click.option(
    "--teacher", type=click.Path(path_type=Path), help="Soft targets: the final model of this finished run."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--allow-missing", is_flag=True, help="Train although the cache lacks clips of its data set.")
@click.option("--tensorboard", is_flag=True, help="Write the figures of metrics.csv for TensorBoard too.")
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
        common = (split, settings, folder, init, where, allow_missing, manner)
        if videos is not None:
            from harvib.videos import train as train_videos  # noqa: PLC0415 - timm takes a second to import

            report = train_videos(videos, split, settings, backbone, folder, where, allow_missing, manner)
        elif len(features) == 1:
            report = methods.train(features[0], *common, teacher)
        else:
            report = fusion.train(features, *common, tell=_note if manner.team.first else None)
        tell(report, run_dir, manner)


def _note(text: str) -> None:
    click.echo(f"note: {text}", err=True)
