"""Latency of a run's plain and compact model, measured against each other in one run.

What is measured: one call of the classifier in evaluation mode, from float32 features in memory to logits, in
torch on the CPU. That covers picking and standardising the inputs, the recurrent cell, the readout and the
head. It does NOT cover what comes before a classifier can be called at all: decoding the video and running the
CNN backbone on every frame.

How: the models take turns on the same random clips (plain, compact, plain, ...), so that a change of the
machine's clock or load falls on all of them; some rounds before the first that counts warm them up. Random
features do: the work of a dense recurrent model is the same for all values.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harvib.classifier import Classifier
from harvib.devices import machine
from harvib.errors import InputError
from harvib.fusion import FusedClassifier, load_fused
from harvib.report.table import align
from harvib.rundir import RunFolder, read_json, write_json
from harvib.weights import load_model

WARM_UP_ROUNDS = 5
SCOPE = (
    "This is the classifier alone, on features already in memory: decoding the video and the CNN backbone, "
    "which every clip needs first, are not in it."
)

Runner = Callable[..., object]
"""One call of what is measured: features (B, T, D) and lengths (B,), or what a fused model takes, to anything."""


@dataclass(frozen=True)
class BenchSettings:
    """What `harvib bench` measures on; validated when made."""

    steps: int = field(default=25, metadata={"help": "time steps T of a clip"})
    batch: int = field(default=1, metadata={"help": "clips in a call; times are given per clip"})
    repeats: int = field(default=50, metadata={"help": "calls of each model that count"})
    threads: int = field(default=1, metadata={"help": "threads of torch"})
    seed: int = field(default=0, metadata={"help": "seed of the random clips"})

    def __post_init__(self) -> None:
        for item in fields(self):
            low, value = 0 if item.name == "seed" else 1, getattr(self, item.name)
            if value < low:
                raise InputError(f"--{item.name} {value}: must be at least {low}")


def bench_run(run: Path, settings: BenchSettings) -> dict[str, Any]:
    """Measure the models of a finished run; the result also stands in the run folder as bench.json.

    For each of `plain` and `compact` (a run of the method "plain" has only the former): `median_ms` and
    `p95_ms` per clip, and parameters. `ratio` is the plain median over the compact one. A call of a fused run is
    that of all its streams, one after the other, and the fusion. Raises InputError.
    """
    folder = RunFolder(run)
    states = ["plain", "compact"] if "compact" in folder.report() else ["plain"]
    models = {state: _model(folder, state) for state in states}
    result = measure(models, "plain", settings)
    if "compact" in result:
        result["ratio"] = result["plain"]["median_ms"] / result["compact"]["median_ms"]
    write_json(_file(run), result)
    return result


def measure(
    models: Mapping[str, Classifier | FusedClassifier], widest: str, settings: BenchSettings
) -> dict[str, Any]:
    """Measure models against each other: by name `median_ms` and `p95_ms` per clip, and parameters; then how.

    The clips have the features that the model `widest` takes; one that takes fewer gets the first of them.
    """
    readers = {name: _reader(model) for name, model in models.items()}
    with threads(settings.threads):
        seconds = interleaved(readers, _clips(models[widest], settings), settings.repeats)
    result: dict[str, Any] = {
        name: {**per_clip(taken, settings.batch), "parameters": models[name].parameter_counts()["total"]}
        for name, taken in seconds.items()
    }
    result |= {"settings": asdict(settings), "features": sum(_dims(models[widest])), "scope": SCOPE}
    return result | {"torch": torch.__version__, "machine": machine()}


def _reader(model: Classifier | FusedClassifier) -> Runner:
    """The model, on the first of the features where it reads fewer, as behind a backbone that shrank with it."""
    if not isinstance(model, Classifier):
        return model
    return lambda features, lengths: model(features[..., : model.spec.features], lengths)


def measured(run: Path) -> dict[str, Any] | None:
    """The last result of `bench_run` for this run folder; None where there is none."""
    return read_json(_file(run)) if _file(run).is_file() else None


def medians(result: Mapping[str, Any]) -> dict[str, float]:
    """Median latency in ms per clip of each measured state."""
    return {state: result[state]["median_ms"] for state in ("plain", "compact") if state in result}


def bench_table(result: Mapping[str, Any]) -> str:
    """The result as text: a line a model, the ratio, and what was measured."""
    rows = [["", "parameters", "median ms/clip", "p95 ms/clip"]]
    for state in medians(result):
        figures = result[state]
        rows.append(
            [state, f"{figures['parameters']:,}", f"{figures['median_ms']:.3f}", f"{figures['p95_ms']:.3f}"]
        )
    lines = [align(rows)]
    if "ratio" in result:
        lines.append(f"plain takes {result['ratio']:.1f}x the time of compact (ratio of the medians)")
    return "\n".join([*lines, conditions(result), result["scope"]])


def conditions(result: Mapping[str, Any]) -> str:
    """One sentence: on what the figures of a result were measured."""
    used = result["settings"]
    return (
        f"{used['repeats']} calls each, in turns, of {used['batch']} x {used['steps']} steps x "
        f"{result['features']:,} features; torch {result['torch']}, threads: {used['threads']}, "
        f"{result['machine']}."
    )


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
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of `repeats` calls of every runner, which take turns on the same batches, after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for turn in range(WARM_UP_ROUNDS + repeats):
        arguments = next(clips)
        for name, runner in runners.items():
            started = clock()
            runner(*arguments)
            taken = clock() - started
            if turn >= WARM_UP_ROUNDS:
                seconds[name].append(taken)
    return seconds


def per_clip(seconds: list[float], batch: int) -> dict[str, float]:
    """Median and 95th percentile in ms per clip, of calls with `batch` clips each."""
    milliseconds = np.asarray(seconds) * 1000 / batch
    return {"median_ms": float(np.median(milliseconds)), "p95_ms": float(np.percentile(milliseconds, 95))}


def _model(folder: RunFolder, state: str) -> Classifier | FusedClassifier:
    if folder.streams:
        return load_fused(folder.path, state)[0]
    return load_model({"plain": folder.plain, "compact": folder.model}[state])[0]


def _clips(model: Classifier | FusedClassifier, settings: BenchSettings) -> Iterator[tuple[Any, ...]]:
    """Endless random arguments for a model."""
    if isinstance(model, Classifier):
        yield from random_clips(model.spec.features, settings)
        return
    streams = {name: random_clips(part.spec.features, settings) for name, part in model.models.items()}
    while True:
        yield ({name: next(clips) for name, clips in streams.items()},)


def _dims(model: Classifier | FusedClassifier) -> list[int]:
    """Values in a feature row of each stream."""
    models = [model] if isinstance(model, Classifier) else list(model.models.values())
    return [part.spec.features for part in models]


def _file(run: Path) -> Path:
    return run / "bench.json"
