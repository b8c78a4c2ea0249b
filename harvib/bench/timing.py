"""How calls are timed: in turns on the same random clips, so that what the machine does falls on all alike.

In each turn everything that is measured gets the same clip. Its first call counts apart, as `cold`: since its last
turn the others have filled the processor's caches, as a backbone does between two clips. The call right after it
is `warm`. Some turns before the first that counts warm up what is compiled or loaded late. Random features do: the
work of a dense recurrent model is the same for all values.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from harvib.bench.settings import BenchSettings

WARM_UP_ROUNDS = 5

Runner = Callable[..., object]
"""One call of what is measured: features (B, T, D) and lengths (B,), or what a fused model takes, to anything."""
Clock = Callable[[], float]


@dataclass(frozen=True)
class Taken:
    """Seconds of the counted calls, one a turn: `cold` of the first in it, `warm` of the one right after."""

    cold: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)


class Frames(Protocol):
    """A model that sees a clip frame by frame and keeps its state from one to the next.

    `calls`: how often one `see` goes through its frame.
    """

    calls: int

    def begin(self) -> None:
        """A new clip."""

    def rows(self, clip: Any) -> Sequence[Any]:
        """The clip's frames, as `see` takes them."""

    def see(self, row: Any) -> object:
        """One more frame, and the logits of those so far."""


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads within the block, and as many as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def random_clips(features: int, settings: BenchSettings) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of standard normal features (B, T, D) with their lengths (B,), a function of the seed."""
    generator = torch.Generator().manual_seed(settings.seed)
    lengths = torch.full((settings.batch,), settings.steps)
    while True:
        yield torch.randn(settings.batch, settings.steps, features, generator=generator), lengths


@torch.inference_mode()
def interleaved(
    runners: Mapping[str, Runner],
    clips: Iterator[tuple[Any, ...]],
    repeats: int,
    clock: Clock = time.perf_counter,
    ready: Mapping[str, Callable[..., tuple[Any, ...]]] | None = None,
) -> dict[str, Taken]:
    """Seconds of `repeats` turns of every runner on the same batches, after a warm-up.

    `ready` makes a runner's own arguments of a batch, which is not timed.
    """
    taken = {name: Taken() for name in runners}
    with _undisturbed():
        for turn in range(WARM_UP_ROUNDS + repeats):
            batch = next(clips)
            for name, runner in runners.items():
                arguments = ready[name](*batch) if ready else batch
                begun = clock()
                runner(*arguments)
                between = clock()
                runner(*arguments)
                ended = clock()
                if turn >= WARM_UP_ROUNDS:
                    taken[name].cold.append(between - begun)
                    taken[name].warm.append(ended - between)
    return taken


@torch.inference_mode()
def by_frame(
    streams: Mapping[str, Frames], clips: Iterator[Any], repeats: int, clock: Clock = time.perf_counter
) -> dict[str, Taken]:
    """Seconds of every frame of `repeats` clips, seen in turns; the first frame of each clip is the cold one."""
    taken = {name: Taken() for name in streams}
    with _undisturbed():
        for turn in range(WARM_UP_ROUNDS + repeats):
            clip = next(clips)
            for name, stream in streams.items():
                rows = stream.rows(clip)
                stream.begin()
                seconds = []
                # The first once more, so that a clip of one frame has a warm one.
                for row in (rows[0], *rows):
                    begun = clock()
                    stream.see(row)
                    seconds.append(clock() - begun)
                if turn >= WARM_UP_ROUNDS:
                    taken[name].cold.append(seconds[0])
                    taken[name].warm.extend(seconds[1:])
    return taken


def per_clip(taken: Taken, clips: int) -> dict[str, float]:
    """Median and 95th percentile in ms per clip, of calls with so many clips each, and the cold calls' median."""
    warm, cold = (np.asarray(seconds) * 1000 / clips for seconds in (taken.warm, taken.cold))
    return {
        "median_ms": float(np.median(warm)),
        "p95_ms": float(np.percentile(warm, 95)),
        "cold_ms": float(np.median(cold)),
    }


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Without the garbage collector, which stops whoever happens to run."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
