"""`harvib export`."""

from __future__ import annotations

from pathlib import Path

import click

from harvib.commands import common
from harvib.export import FORMATS, QUANTIZE, export_run


@click.command()
@common.run_or_file
@click.option(
    "--format", "form", default="torch", show_default=True, type=click.Choice(list(FORMATS)), help="How."
)
@click.option(
    "--quantize",
    default="none",
    show_default=True,
    type=click.Choice(QUANTIZE),
    help="How weights are stored: as floats, or in 8 bits with arithmetic in floats.",
)
@click.option("--with-backbone", is_flag=True, help="onnx: the whole pipeline, from the frames of a video.")
@click.option("--weights", help="Of the backbone: auto (timm downloads), none, or a file.")
@click.option("--out", required=True, type=common.PATH, help="File to write.")
def export(model: Path, form: str, quantize: str, out: Path, with_backbone: bool, weights: str | None) -> None:
    """Write the final model of a run as a file for other programs.

    torch: the weights of an nn.LSTM, nn.GRU or nn.RNN and an nn.Linear under torch's own names, as safetensors;
    the inputs that are read and the class names stand as JSON in its metadata. `harvib prune` reads it too.

    onnx: standard operators, batch and time of any size; `harvib evaluate` reads it too, and `harvib quantize`
    measures it in 8 and 4 bits.

    onnx --with-backbone: raw frames to logits in one file, and the same in two beside it, NAME-backbone.onnx and
    NAME-model.onnx. The backbone's last layer shrinks to the features that the model reads.

    torchscript: one file for torch.jit.load, which needs no harvib, batch and time of any size; `harvib evaluate`
    reads it too.

    executorch: a program whose method `step` takes a frame and a state to logits and the next state.

    c: one file of C99 that needs nothing but expf, and its header beside it; clips frame by frame.
    """
    click.echo(export_run(model, form, out, quantize, with_backbone, weights))
