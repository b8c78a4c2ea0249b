"""`harfeat weights`."""

from __future__ import annotations

from pathlib import Path

import click

from harfeat.weights import export_weights


@click.command("weights")
@click.option("--model", required=True, help="Any timm model.")
@click.option("--weights", default="auto", show_default=True, help="auto (timm downloads), none, or a file.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="safetensors file to write.")
def weights_command(model: str, weights: str, out: Path) -> None:
    """Write a model's weights, checked, under timm's names: what `harvib train --videos` starts from."""
    source = export_weights(model, weights, out)
    click.echo(f"{out} written: {model}, tensors sha256 {source.tensors_sha256}")
