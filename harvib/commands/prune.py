"""`harvib prune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harvib.commands import common
from harvib.commands.running import carried_out, tell
from harvib.foreign import NONLINEARITIES, read_foreign
from harvib.options import options_of
from harvib.pruning import IMPLIED
from harvib.pruning import prune as run
from harvib.readout import READOUTS
from harvib.settings import TrainSettings
from harvib.source import source_of


@click.command()
@click.option(
    "--model",
    "weights",
    required=True,
    type=common.PATH,
    help="Weights: safetensors, or a TorchScript file.",
)
@click.option(
    "--readout",
    "reads",
    type=click.Choice(list(READOUTS)),
    help="What of the states the head reads; only a file of `harvib export` tells it.",
)
@click.option("--nonlinearity", type=click.Choice(NONLINEARITIES), help="Of an nn.RNN; weights do not tell.")
@common.one_cache
@common.split_to_train_on
@click.option("--run-dir", type=common.PATH, help="Default: runs/<model>-<features>-<split>-s<seed>.")
@common.device
@common.allow_missing
@common.tensorboard
@options_of(TrainSettings)
def prune(
    weights: Path,
    reads: str | None,
    nonlinearity: str | None,
    features: Path,
    split: str,
    run_dir: Path | None,
    device: str,
    allow_missing: bool,
    tensorboard: bool,
    **fields: Any,
) -> None:
    """Prune a classifier trained elsewhere: a torch nn.LSTM, nn.GRU or nn.RNN with one nn.Linear on it.

    The recurrent part is known by torch's names of its weights, under any prefix; the cell, layers, directions and
    sizes by their shapes. It must read the cache's features as they are, batch and time apart, and its classes
    must be in the cache's order. Readout `last` is torch's h_n of the last layer (of both directions), `mean` the
    mean of its output over the clip's steps. Pruning, exact compaction and fine-tuning follow, into a run
    folder as of `harvib train`; the same command resumes.

    Safetensors can be read from anybody. A TorchScript file is a program: only its weights are taken and nothing
    of it is called, but read only those that you trust. Files of torch.save are refused.

    Which clips the model was trained on is not known here: accuracies on clips that it has seen say nothing.
    """
    found = read_foreign(weights, reads, nonlinearity)
    click.echo(f"{weights}: {found.described()}", err=True)
    settings = TrainSettings(**fields)
    if run_dir is None:
        run_dir = Path("runs") / f"{weights.stem}-{source_of(features).label}-{split}-s{settings.seed}"
    with carried_out(device, run_dir, tensorboard) as (where, folder, manner):
        report = run(found, features, split, settings, folder, where, allow_missing, manner)
        tell(report, run_dir, manner)


# The model decides these.
prune.params = [option for option in prune.params if option.name not in IMPLIED]
