"""All settings of an extraction, in frozen dataclasses; the command-line options come from their fields."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harfeat.datasets import REGISTRY, Dataset, DatasetOptions, load_dataset
from harfeat.errors import InputError
from harfeat.sampling import SamplingSettings

MOST_BATCH = 1 << 16
"""Frames in a batch at most: they are in memory at once."""

PIXELS = "pixels"
"""The model that is none: frames themselves, resized (`harfeat.pixels`)."""
_PIXEL_SIZE = (160, 120)  # of VIB-LSTM's end-to-end models: 57,600 values
_LARGEST_SIDE = 4096
_ALLOWED_WITH_PIXELS = {
    "weights": ("auto", "none"),
    "precision": ("auto", "float32"),
    "dtype": ("auto", "uint8"),
    "device": ("auto", "cpu"),
}


def option(text: str, default: Any = dataclasses.MISSING, **limits: Any) -> Any:
    """A field with its help text and its limits: `low`, `high` (allowed), `above` (not allowed), `choices`."""
    return field(default=default, metadata={"help": text, **limits})


def check_limits(settings: Any) -> None:
    """Compare the fields of a settings dataclass with the limits in their metadata; raises InputError."""
    for item in dataclasses.fields(settings):
        value, named = getattr(settings, item.name), f"--{item.name.replace('_', '-')}"
        choices, low, above, high = (item.metadata.get(key) for key in ("choices", "low", "above", "high"))
        if choices is not None and value not in choices:
            raise InputError(f"{named} {value}: choose one of {', '.join(choices)}")
        # Written so that NaN fails too.
        if low is not None and not value >= low:
            raise InputError(f"{named} {value}: must be at least {low}")
        if above is not None and not value > above:
            raise InputError(f"{named} {value}: must be more than {above}")
        if high is not None and not value <= high:
            raise InputError(f"{named} {value}: must be at most {high}")


@dataclass(frozen=True)
class ExtractSettings:
    """Settings of `harfeat extract`; validated when made. Times are in seconds."""

    dataset: str = option("Kind of data set; `harfeat datasets` explains.", choices=tuple(REGISTRY))
    root: Path = option("Folder with the class folders.")
    out: Path = option("X.h5: one packed file; else a folder for shards. Repeat the command to resume.")
    model: str = option("Any timm model; pixels: the frames themselves, as uint8.", "tf_efficientnet_lite0")
    weights: str = option("auto (timm downloads), none, or a file.", "auto")
    sampling: SamplingSettings = SamplingSettings()
    splits_dir: Path | None = option("Folder of official lists (needed for hmdb51).", None)
    group_pattern: str | None = option("folder: regular expression whose first group names a clip's group.", None)
    test_groups: tuple[str, ...] = ()
    split_seed: int = option("Seed of the splits 'random' and 'group'.", 0, low=0)
    limit: int = option("About so many clips, of all classes; 0: all.", 0, low=0)
    dtype: str = option(
        "Type in which features are stored; auto: float16, of pixels uint8.",
        "auto",
        choices=("auto", "float16", "float32", "uint8"),
    )
    size: str = option("pixels: WxH to which each whole frame is resized; 160x120 where not said.", "")
    device: str = option("auto (all GPUs, else the CPU), cpu, cuda, cuda:0,cuda:1, ...", "auto")
    precision: str = option(
        "Arithmetic of the model; auto: the fastest that keeps the features.",
        "auto",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    batch: int = option("Frames in a batch, filled across clips.", 32, low=1, high=MOST_BATCH)
    workers: int = option(
        "Decoding processes; -1: one a core; 0: none, a bad clip may then end the run.", -1, low=-1
    )
    clip_timeout: float = option("Seconds a clip may take.", 120.0, above=0)
    retry_failed: bool = option("Try clips again that failed in an earlier run.", False)
    max_failures: int = option("Clips that may fail without an exit code of 1.", 0, low=0)
    shard: str = option(
        "Slice I/N of the clips, I from 1; auto: the scheduler's array, where in one; none: all.", "auto"
    )
    backend: str = option(
        "Who extracts: this machine, or a cluster that sees the same files.",
        "local",
        choices=("local", "loky", "dask", "ray", "spark"),
    )
    jobs: int = option("Processes of the backend; -1: one a core or GPU, or all that the cluster has.", -1, low=-1)
    scheduler: str = option("Address of the cluster; without: one on this machine.", "")
    part_seconds: float = 30.0
    """How often a shard is written: what a kill can cost."""

    def __post_init__(self) -> None:
        check_limits(self)
        self._check_pixels()

    @property
    def stored_dtype(self) -> str:
        """The type that `dtype` means."""
        return ("uint8" if self.model == PIXELS else "float16") if self.dtype == "auto" else self.dtype

    @property
    def pixel_size(self) -> tuple[int, int]:
        """Width and height of the frames that `--model pixels` stores. Raises InputError."""
        if not self.size:
            return _PIXEL_SIZE
        match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", self.size)
        sides = (int(match[1]), int(match[2])) if match else (0, 0)
        if not all(1 <= side <= _LARGEST_SIDE for side in sides):
            raise InputError(f"--size {self.size}: say WxH, as in 160x120, each from 1 to {_LARGEST_SIDE}")
        return sides

    def _check_pixels(self) -> None:
        if self.model != PIXELS:
            if self.size:
                raise InputError(
                    f"--size {self.size} needs --model pixels: leave it out, {self.model} has its own"
                )
            if self.dtype == "uint8":
                raise InputError("--dtype uint8 needs --model pixels: say float16 or float32")
            return
        _ = self.pixel_size
        for name, allowed in _ALLOWED_WITH_PIXELS.items():
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"--{name} {getattr(self, name)} does not go with --model pixels, which has no network and "
                    "stores uint8: leave it out"
                )


def dataset_of(settings: ExtractSettings) -> Dataset:
    """The data set that the settings name; raises InputError."""
    options = DatasetOptions(
        settings.splits_dir, settings.group_pattern, settings.test_groups, settings.split_seed
    )
    return load_dataset(settings.dataset, settings.root, options)
