"""All settings of an extraction, in frozen dataclasses; the command-line options come from their fields."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harfeat.datasets import REGISTRY, Dataset, DatasetOptions, load_dataset
from harfeat.errors import InputError
from harfeat.sampling import SamplingSettings

MOST_BATCH = 1 << 16
"""Frames in a batch at most: they are in memory at once."""


def _option(text: str, default: Any = dataclasses.MISSING, **limits: Any) -> Any:
    """A field with its help text and its limits: `low`, `high` (allowed), `above` (not allowed), `choices`."""
    return field(default=default, metadata={"help": text, **limits})


@dataclass(frozen=True)
class ExtractSettings:
    """Settings of `harfeat extract`; validated when made. Times are in seconds."""

    dataset: str = _option("Kind of data set; `harfeat datasets` explains.", choices=tuple(REGISTRY))
    root: Path = _option("Folder with the class folders.")
    out: Path = _option("X.h5: one packed file; else a folder for shards. Repeat the command to resume.")
    model: str = _option("Any timm model.", "tf_efficientnet_lite0")
    weights: str = _option("auto (timm downloads), none, or a file.", "auto")
    sampling: SamplingSettings = SamplingSettings()
    splits_dir: Path | None = _option("Folder of official lists (needed for hmdb51).", None)
    group_pattern: str | None = _option("folder: regular expression whose first group names a clip's group.", None)
    test_groups: tuple[str, ...] = ()
    split_seed: int = _option("Seed of the splits 'random' and 'group'.", 0, low=0)
    limit: int = _option("About so many clips, of all classes; 0: all.", 0, low=0)
    dtype: str = _option("Type in which features are stored.", "float16", choices=("float16", "float32"))
    device: str = _option("auto (all GPUs, else the CPU), cpu, cuda, cuda:0,cuda:1, ...", "auto")
    precision: str = _option(
        "Arithmetic of the model; auto: the fastest that keeps the features.",
        "auto",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    batch: int = _option("Frames in a batch, filled across clips.", 32, low=1, high=MOST_BATCH)
    workers: int = _option(
        "Decoding processes; -1: one a core; 0: none, a bad clip may then end the run.", -1, low=-1
    )
    clip_timeout: float = _option("Seconds a clip may take.", 120.0, above=0)
    retry_failed: bool = _option("Try clips again that failed in an earlier run.", False)
    max_failures: int = _option("Clips that may fail without an exit code of 1.", 0, low=0)
    shard: str = _option(
        "Slice I/N of the clips, I from 1; auto: the scheduler's array, where in one; none: all.", "auto"
    )
    backend: str = _option(
        "Who extracts: this machine, or a cluster that sees the same files.",
        "local",
        choices=("local", "loky", "dask", "ray", "spark"),
    )
    jobs: int = _option(
        "Processes of the backend; -1: one a core or GPU, or all that the cluster has.", -1, low=-1
    )
    scheduler: str = _option("Address of the cluster; without: one on this machine.", "")
    part_seconds: float = 30.0
    """How often a shard is written: what a kill can cost."""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value, option = getattr(self, item.name), f"--{item.name.replace('_', '-')}"
            choices, low, above, high = (item.metadata.get(key) for key in ("choices", "low", "above", "high"))
            if choices is not None and value not in choices:
                raise InputError(f"{option} {value}: choose one of {', '.join(choices)}")
            # Written so that NaN fails too.
            if low is not None and not value >= low:
                raise InputError(f"{option} {value}: must be at least {low}")
            if above is not None and not value > above:
                raise InputError(f"{option} {value}: must be more than {above}")
            if high is not None and not value <= high:
                raise InputError(f"{option} {value}: must be at most {high}")


def dataset_of(settings: ExtractSettings) -> Dataset:
    """The data set that the settings name; raises InputError."""
    options = DatasetOptions(
        settings.splits_dir, settings.group_pattern, settings.test_groups, settings.split_seed
    )
    return load_dataset(settings.dataset, settings.root, options)
