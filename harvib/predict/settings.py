"""What a user may choose about predictions; without torch's and FFmpeg's weight, for the command line."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from harvib.errors import InputError

_AT_LEAST = {"topk": 1, "interval": 0, "restart_every": 0, "frames": 0, "workers": -1}


@dataclass(frozen=True)
class PredictSettings:
    """How predictions are made; validated when made. Times are in seconds."""

    topk: int = field(default=5, metadata={"help": "Labels that are told, the likeliest first."})
    weights: str = field(
        default="",
        metadata={"help": "The backbone's weights, where those of the cache came from a file."},
    )
    stream: bool = field(
        default=False,
        metadata={"help": "A running prediction: a line a sampled frame, state carried over."},
    )
    interval: int = field(
        default=0,
        metadata={
            "help": "Live with --stream, for models of uniform or random frames: every so many frames one is seen."
        },
    )
    restart_every: int = field(
        default=0, metadata={"help": "With --stream: forget after so many sampled frames; 0: never."}
    )
    frames: int = field(default=0, metadata={"help": "Live: end after so many frames; 0: at its end."})
    seconds: float = field(
        default=0.0, metadata={"help": "Live: end after so many seconds of video; 0: at its end."}
    )
    fps: float = field(default=25.0, metadata={"help": "Frames a second of standard input, which does not tell."})
    overlay: str = field(
        default="", metadata={"help": "Write the one video (.mp4, .mkv, .mov) with the running prediction on it."}
    )
    workers: int = field(
        default=-1,
        metadata={"help": "Decoding processes; -1: one a core; 0: none, a bad clip may then end the command."},
    )
    clip_timeout: float = field(default=120.0, metadata={"help": "Seconds a clip may take to decode."})

    def __post_init__(self) -> None:
        for name, low in _AT_LEAST.items():
            if getattr(self, name) < low:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least {low}")
        # Written so that NaN fails too.
        if not 0 <= self.seconds < float("inf"):
            raise InputError(f"--seconds {self.seconds:g}: must be at least 0")
        if not 0.001 <= self.fps <= 1000:
            raise InputError(f"--fps {self.fps:g}: must be from 0.001 to 1000")
        if not self.clip_timeout > 0:
            raise InputError(f"--clip-timeout {self.clip_timeout:g}: must be more than 0")
        for name in ("interval", "restart_every"):
            if getattr(self, name) and not self.stream:
                raise InputError(f"--{name.replace('_', '-')} goes with --stream: leave it out, or say --stream")

    def require_no_live_options(self) -> None:
        """Raise InputError where something was asked for that only a live source has."""
        for item in fields(self):
            if item.name in ("interval", "frames", "seconds", "fps") and getattr(self, item.name) != item.default:
                raise InputError(
                    f"--{item.name} is for a camera or standard input: of a file the model's own sampling "
                    "takes the frames; leave it out"
                )
