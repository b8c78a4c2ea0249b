"""Which source frames of a clip are used: pure index arithmetic, no pixels.

A clip gives one main stream by `rule`, and `views` more that are drawn at random for training. A rule asks for
positions that count from the clip's first frame; what a position past the last frame becomes is `short`'s affair.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from typing import Any

import numpy as np

from harfeat.errors import InputError

FRAMES = 25
"""Frames a clip where none are asked for, in the rules of a fixed number."""

MAX_FRAMES = 1_000_000
_SHORT = ("repeat", "wrap", "error")
RGB, FLOW = STREAMS = ("rgb", "flow")
"""What is taken at a sampled frame: its picture, or the optical flow from it to the next one."""
_INTERVAL_RULES, _LIMITED_RULES = ("first", "dense"), ("fps", "dense", "all")


class SamplingError(ValueError):
    """The rule cannot be applied to this clip; the text is the reason, in one line.

    Not an `InputError`: the clip is recorded as failed and the run goes on.
    """


@dataclass(frozen=True)
class View:
    """What one stream takes of a clip: indices (T,) int64 in [0, N), and whether it is mirrored left to right."""

    indices: np.ndarray
    flip: bool = False


@dataclass(frozen=True)
class SamplingSettings:
    """How the frames of every clip are chosen. Raises InputError, naming the option, for what makes no sense."""

    rule: str = field(
        default="uniform",
        metadata={
            "help": "uniform: the middles of equal segments; first: from the start, --interval apart; random: "
            "interval and start drawn, half of the clips mirrored; fps: --fps a second; dense: every "
            "--interval-th to the end; all.",
            "choices": ("uniform", "first", "random", "fps", "dense", "all"),
        },
    )
    frames: int = field(
        default=0,
        metadata={
            "help": "Frames a clip. 0: 25 for uniform, first, random and views; no limit for fps, dense, all."
        },
    )
    interval: int = field(default=1, metadata={"help": "first, dense: step from frame to frame."})
    max_interval: int = field(
        default=0, metadata={"help": "random, views: largest step that is drawn. 0: the largest that fits."}
    )
    fps: float = field(default=0.0, metadata={"help": "fps: frames a second of the clip's own time."})
    short: str = field(
        default="repeat",
        metadata={
            "help": "A clip with fewer frames than asked for: repeat its last (uniform: each in its place), "
            "wrap to its start, or count it as failed.",
            "choices": _SHORT,
        },
    )
    views: int = field(
        default=0,
        metadata={"help": "Training views a clip, drawn as random does and stored beside the main stream."},
    )
    flip: bool = field(default=True, metadata={"help": "random, views: mirror half of what is drawn."})
    seed: int = field(default=0, metadata={"help": "Seed of random and views."})
    stream: str = field(
        default=RGB,
        metadata={
            "help": "What is taken at each frame: rgb, its picture; flow, the optical flow from it to the next.",
            "choices": STREAMS,
        },
    )

    def __post_init__(self) -> None:
        for item in fields(self):  # they may come from the provenance in a stranger's file
            value, kinds = (
                getattr(self, item.name),
                (float, int) if item.type == "float" else (type(item.default),),
            )
            if type(value) not in kinds:
                raise InputError(f"sampling: {item.name} must be of type {item.type}, not {type(value).__name__}")
        if self.rule not in SAMPLERS:
            raise InputError(f"--sampling {self.rule}: choose one of {', '.join(SAMPLERS)}")
        if self.short not in _SHORT:
            raise InputError(f"--short {self.short}: choose one of {', '.join(_SHORT)}")
        if self.stream not in STREAMS:
            raise InputError(f"--stream {self.stream}: choose one of {', '.join(STREAMS)}")
        for name, low, high in (
            ("frames", 0, MAX_FRAMES),
            ("interval", 1, MAX_FRAMES),
            ("max_interval", 0, MAX_FRAMES),
            ("views", 0, 1000),
            ("seed", 0, 2**63 - 1),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"--{name.replace('_', '-')} {value}: must be from {low} to {high}")
        # Where an option would have no effect, its user expects other frames than these.
        if self.interval != 1 and self.rule not in _INTERVAL_RULES:
            raise InputError(f"--interval {self.interval} does not go with --sampling {self.rule}: leave one out")
        if self.max_interval and not self.draws:
            raise InputError(f"--max-interval {self.max_interval} needs --sampling random or --views")
        if self.rule == "fps" and not 0.001 <= self.fps <= 1000:
            raise InputError(f"--fps {self.fps:g}: --sampling fps needs a rate from 0.001 to 1000")
        if self.rule != "fps" and self.fps != 0:
            raise InputError(f"--fps {self.fps:g} does not go with --sampling {self.rule}: leave one out")

    @property
    def draws(self) -> bool:
        """Whether anything is drawn at random."""
        return self.rule == "random" or self.views > 0

    @property
    def fixed_frames(self) -> int:
        """T of uniform, first, random and of every training view."""
        return self.frames or FRAMES

    def recipe(self) -> dict[str, Any]:
        """The settings that decide which frames come out; what has no effect is left out."""
        drawn = {"max_interval": self.max_interval, "flip": self.flip, "seed": self.seed}
        recipe: dict[str, Any] = {"rule": self.rule} if self.stream == RGB else {"rule": self.rule, "stream": FLOW}
        if self.rule in _LIMITED_RULES:
            recipe["limit"] = self.frames
        else:
            recipe |= {"frames": self.fixed_frames, "short": self.short}
        if self.rule in _INTERVAL_RULES:
            recipe["interval"] = self.interval
        if self.rule == "fps":
            recipe["fps"] = self.fps
        if self.rule == "random":
            recipe |= drawn
        if self.views:
            recipe["views"] = {"count": self.views, "frames": self.fixed_frames, "short": self.short, **drawn}
        return recipe

    @classmethod
    def of_recipe(cls, recipe: object) -> SamplingSettings:
        """Settings that have this recipe. Raises InputError where none have: altered, or of a newer version."""
        told = dict(recipe) if isinstance(recipe, Mapping) else {}
        views = told.get("views", {})
        if not isinstance(views, Mapping):
            raise InputError("sampling: views must hold what is drawn: file altered")
        names = ("rule", "stream", "frames", "short", "interval", "fps", "max_interval", "flip", "seed")
        found: dict[str, Any] = {
            name: told.get(name, views.get(name)) for name in names if name in told or name in views
        }
        if "limit" in told:
            found["frames"] = told["limit"]
        if views:
            found["views"] = views.get("count")
        settings = cls(**found)
        if settings.recipe() != recipe:
            raise InputError("sampling: a recipe that no settings of this version give: file altered, or newer")
        return settings

    @property
    def main(self) -> SamplingSettings:
        """The same without training views."""
        return replace(self, views=0, max_interval=self.max_interval if self.rule == "random" else 0)

    def stream_names(self) -> tuple[str, ...]:
        """The main stream's name and those of the training views, in the order of `plan`."""
        return (self.stream, *(f"{self.stream}-view-{number}" for number in range(1, self.views + 1)))


def plan(settings: SamplingSettings, source_frames: int, fps: float, key: str) -> tuple[View, ...]:
    """What each stream takes of one clip, the main stream first, then the training views.

    Args:
        settings: the rule and its numbers.
        source_frames: N, the exact number of frames in the clip.
        fps: the clip's frames a second, NaN where unknown; only the rule `fps` asks.
        key: stands for the clip in every draw: the SHA-256 of its bytes, so that equal videos are drawn alike
            whatever their names and companions.

    Returns:
        One view a name in `settings.stream_names()`.

    Raises:
        SamplingError: the clip has no frames, or for flow a single one, is too short under `--short error`, or has
            no rate for `fps`.
    """
    if source_frames < 1:
        raise SamplingError("the clip has no frames")
    if settings.stream == FLOW and source_frames < 2:
        raise SamplingError("the clip has a single frame, so there is no optical flow")
    main = SAMPLERS[settings.rule](settings, _Source(source_frames, fps, key, 0))
    drawn = (_random(settings, _Source(source_frames, fps, key, view)) for view in range(1, settings.views + 1))
    return (main, *drawn)


def later_frames(indices: np.ndarray, source_frames: int) -> np.ndarray:
    """(T,) the second frame of each pair whose flow stands for a sampled frame; the first is the one before it.

    Frame t pairs with t + 1; the last frame, which has none after it, is itself the second of its pair.
    """
    return np.minimum(indices + 1, source_frames - 1)


def sample(rule: str, source_frames: int, frames: int) -> np.ndarray:
    """(T,) int64: the main stream's indices by `rule` with `frames` and nothing else set."""
    if frames < 1:
        raise InputError(f"cannot sample {frames} frames a clip: ask for 1 or more")
    return plan(SamplingSettings(rule, frames), source_frames, math.nan, "")[0].indices


def uniform(source_frames: int, frames: int) -> np.ndarray:
    """The middle frame of each of K equal segments: index k is floor((k + 1/2) N / K).

    Source: test-time segment sampling of TSN (Wang et al., ECCV 2016, arXiv:1608.00859). Computed in whole
    numbers, as (2k + 1) N // 2K, so that no rounding of floats can move an index. Where N < K, frames repeat in
    their place.
    """
    segment = np.arange(frames, dtype=np.int64)
    return (2 * segment + 1) * source_frames // (2 * frames)


@dataclass(frozen=True)
class _Source:
    """One clip as the rules see it, and the number of the view that is drawn."""

    frames: int
    fps: float
    key: str
    view: int


def _uniform(settings: SamplingSettings, source: _Source) -> View:
    frames = settings.fixed_frames
    if source.frames < frames and settings.short != "repeat":
        return View(_inside(np.arange(frames, dtype=np.int64), source.frames, settings.short))
    return View(uniform(source.frames, frames))


def _first(settings: SamplingSettings, source: _Source) -> View:
    """The first K frames at a fixed interval: VIB-LSTM's test rule (Srivastava et al., WACV 2021)."""
    positions = np.arange(settings.fixed_frames, dtype=np.int64) * settings.interval
    return View(_inside(positions, source.frames, settings.short))


def _random(settings: SamplingSettings, source: _Source) -> View:
    """An interval and a start drawn evenly of those that fit, and a flip: VIB-LSTM's training rule.

    The draw is a hash of seed, key and view number, so that no generator's version can change it.
    """
    digest = hashlib.sha256(f"harfeat view\n{settings.seed}\n{source.key}\n{source.view}".encode()).digest()
    frames = settings.fixed_frames
    fitting = (source.frames - 1) // (frames - 1) if frames > 1 else 1
    interval = 1 + _below(max(1, min(fitting, settings.max_interval or fitting)), digest[:8])
    start = _below(max(1, source.frames - (frames - 1) * interval), digest[8:16])
    positions = start + np.arange(frames, dtype=np.int64) * interval
    return View(_inside(positions, source.frames, settings.short), settings.flip and bool(digest[16] & 1))


def _fps(settings: SamplingSettings, source: _Source) -> View:
    """The frame on show at 0, 1/fps, 2/fps, ... seconds, to the end of the clip, at the container's mean rate."""
    if not (math.isfinite(source.fps) and source.fps > 0):
        raise SamplingError("the container states no frame rate, which --sampling fps needs: choose another rule")
    # As fractions, 29.97... is 30000/1001 again and no rounding moves an index.
    ratio = Fraction(source.fps).limit_denominator(MAX_FRAMES) / Fraction(settings.fps).limit_denominator(
        MAX_FRAMES
    )
    if ratio <= 0:
        raise SamplingError(f"the container states {source.fps:g} frames a second: choose another rule than fps")
    count = _limited(math.ceil(source.frames / ratio), settings)
    if count > MAX_FRAMES:
        raise SamplingError(f"--fps {settings.fps:g} makes {count} frames of it: set a lower rate, or --frames")
    return View(np.array([k * ratio.numerator // ratio.denominator for k in range(count)], dtype=np.int64))


def _dense(settings: SamplingSettings, source: _Source) -> View:
    indices = np.arange(0, source.frames, settings.interval, dtype=np.int64)
    return View(indices[: _limited(len(indices), settings)])


def _all(settings: SamplingSettings, source: _Source) -> View:
    return View(np.arange(_limited(source.frames, settings), dtype=np.int64))


def _limited(count: int, settings: SamplingSettings) -> int:
    """A limit keeps the first frames: their spacing stays what was asked for."""
    return min(count, settings.frames) if settings.frames else count


def _inside(positions: np.ndarray, source_frames: int, short: str) -> np.ndarray:
    """Positions (T,) as indices into a clip that may end before them."""
    if positions[-1] < source_frames:
        return positions
    if short == "error":
        raise SamplingError(f"too short: {source_frames} frames, the sampling needs {positions[-1] + 1}")
    return np.minimum(positions, source_frames - 1) if short == "repeat" else positions % source_frames


def _below(bound: int, random_bytes: bytes) -> int:
    """Eight random bytes as a whole number in [0, bound), each as likely to within bound / 2**64."""
    return int.from_bytes(random_bytes, "big") * bound >> 64


SAMPLERS: dict[str, Callable[[SamplingSettings, _Source], View]] = {
    "uniform": _uniform,
    "first": _first,
    "random": _random,
    "fps": _fps,
    "dense": _dense,
    "all": _all,
}
