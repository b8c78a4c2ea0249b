"""What a user may choose about a benchmark; the command-line options come from these fields."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

from harvib.errors import InputError

USUAL_STEPS = 25
"""Frames of a clip where nothing tells how many: the default of `harfeat extract`."""

MOST_THREADS = 1024
"""With far more the process would die where it makes them."""


@dataclass(frozen=True)
class BenchSettings:
    """What `harvib bench` measures on; validated when made."""

    steps: int = field(
        default=0,
        metadata={
            "help": "time steps T of a clip; 0: the frames of each clip in the run's cache, or "
            f"{USUAL_STEPS} where their number varies"
        },
    )
    batch: int = field(default=1, metadata={"help": "clips in a call; times are given per clip"})
    repeats: int = field(default=50, metadata={"help": "calls of each model that count"})
    threads: int = field(default=1, metadata={"help": "threads of torch and onnxruntime; C has one"})
    seed: int = field(default=0, metadata={"help": "seed of the random clips"})

    def __post_init__(self) -> None:
        for item in fields(self):
            low, value = 0 if item.name in ("seed", "steps") else 1, getattr(self, item.name)
            if value < low:
                raise InputError(f"--{item.name} {value}: must be at least {low}")
        if self.threads > MOST_THREADS:
            raise InputError(f"--threads {self.threads}: must be at most {MOST_THREADS}")


CANDIDATES = "mobilenetv3_small_050,lcnet_050,tf_efficientnet_lite0,resnet18"


@dataclass(frozen=True)
class EndToEnd:
    """What stands before the classifier: which video, which backbone, which others to set beside it.

    `video` None: random frames, and decoding is not measured. `backbone` empty: the run's own.
    """

    video: Path | None = None
    backbone: str = ""
    candidates: tuple[str, ...] = tuple(CANDIDATES.split(","))
