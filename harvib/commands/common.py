"""Options that several commands have, each a decorator."""

from __future__ import annotations

from pathlib import Path

import click

PATH = click.Path(path_type=Path)

finished_run = click.option("--model", required=True, type=PATH, help="Folder of a finished run.")
run_or_file = click.option("--model", required=True, type=PATH, help="Run folder or model file.")
one_cache = click.option("--features", required=True, type=PATH, help="Cache made by harfeat: file or folder.")
split_to_train_on = click.option(
    "--split", required=True, help="Name of a split in the cache; `harfeat info` lists them."
)
device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
allow_missing = click.option(
    "--allow-missing", is_flag=True, help="Train although the cache lacks clips of its data set."
)
tensorboard = click.option(
    "--tensorboard", is_flag=True, help="Write the figures of metrics.csv for TensorBoard too."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
