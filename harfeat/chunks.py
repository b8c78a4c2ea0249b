"""What a worker of `harfeat.backends` runs: a few clips, from their paths to shards in the shared folder.

A worker process builds its model once, decodes in killable processes of its own, and sends back no features: only
which shards it wrote and which clips failed.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from harfeat.backbone import Backbone, build_backbone
from harfeat.cache import Failure
from harfeat.cache.fingerprint import differing_fields
from harfeat.cache.manifest import FileEntry
from harfeat.datasets import Clip
from harfeat.errors import InputError
from harfeat.extraction import Destination, FrameModel, backbone_of, extract_clips, recipe_of
from harfeat.settings import PIXELS, ExtractSettings

_ONE_AT_A_TIME = threading.Lock()
"""A worker of Dask may have several threads, but its model and its cores are busy with one chunk."""

_claimed: dict[str, tuple[FileLock, str]] = {}


@dataclass(frozen=True)
class Job:
    """What all chunks of a run have in common.

    `devices` are shared out among the processes of a machine; empty: all GPUs there, else the CPU. `cores` may be
    used by one worker; 0: as many as Dask gives it threads, else one. `token` names the run.
    """

    settings: ExtractSettings
    devices: tuple[str, ...]
    cores: int
    token: str


@dataclass(frozen=True)
class Described:
    """What a worker makes of the settings: recipe, what is told of the model beside it, a note for the user."""

    recipe: dict[str, Any]
    provenance: dict[str, Any]
    note: str | None

    @classmethod
    def of(cls, settings: ExtractSettings, backbone: FrameModel) -> Described:
        """What this backbone makes of them."""
        return cls(recipe_of(settings, backbone), backbone.provenance(), backbone.note)


@dataclass(frozen=True)
class Done:
    """A finished chunk: the names of its clips, the shards they are in, those that failed."""

    names: tuple[str, ...]
    entries: tuple[FileEntry, ...]
    failures: tuple[Failure, ...]


def visible_devices() -> tuple[str, ...]:
    """All GPUs that PyTorch sees here, or the CPU."""
    return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count())) or ("cpu",)


def describe(job: Job) -> Described:
    """The recipe as it is on the workers' machines; raises InputError."""
    with _ONE_AT_A_TIME, _few_cores(job.cores):
        backbone = _backbone(job, None)
        return Described.of(job.settings, backbone)


def run_chunk(job: Job, destination: Destination, clips: Sequence[Clip]) -> Done:
    """Extract a few clips into shards. Raises InputError where this worker would extract otherwise than others."""
    entries: list[FileEntry] = []
    failures: list[Failure] = []

    def record(written: Sequence[FileEntry], failed: Sequence[Failure]) -> None:
        entries.extend(written)
        failures.extend(failed)

    with _ONE_AT_A_TIME, _few_cores(job.cores), _children_allowed():
        backbone = _backbone(job, destination.recipe.get("precision"))
        if difference := differing_fields(destination.recipe, recipe_of(job.settings, backbone)):
            raise InputError(f"a worker on {os.uname().nodename} extracts otherwise ({'; '.join(difference)})")
        extract_clips(clips, backbone, job.settings, destination, record)
    return Done(tuple(clip.name for clip in clips), tuple(entries), tuple(failures))


def _backbone(job: Job, precision: str | None) -> FrameModel:
    settings = job.settings
    if settings.model == PIXELS:  # needs no device, and is built at once
        return backbone_of(settings)
    devices = job.devices or visible_devices()
    device = devices[0] if precision is None else _claim(devices, job.token)
    return _built(settings.model, settings.weights, device, precision or settings.precision, settings.batch)


@lru_cache(maxsize=1)
def _built(model: str, weights: str, device: str, precision: str, batch: int) -> Backbone:
    return build_backbone(model, weights, device, precision, batch)


def _claim(devices: Sequence[str], token: str) -> str:
    """A device that no other process of this run on this machine has, as long as there is one."""
    if len(devices) == 1:
        return devices[0]
    if token not in _claimed:
        for number, device in enumerate(devices):
            # The system lets go of the lock of a process that dies, so what takes its place gets its device.
            lock = FileLock(Path(tempfile.gettempdir()) / f"harfeat-{token}-{number}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            _claimed.clear()
            _claimed[token] = (lock, device)
            break
        else:
            return devices[os.getpid() % len(devices)]
    return _claimed[token][1]


@contextmanager
def _few_cores(cores: int) -> Iterator[None]:
    """Have joblib, and so whoever asks it how many threads and processes to start, count this worker's cores."""
    name = "LOKY_MAX_CPU_COUNT"
    before = os.environ.get(name)
    os.environ[name] = str(cores or _threads_of_dask() or 1)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _threads_of_dask() -> int:
    try:
        from distributed import get_worker  # noqa: PLC0415

        return int(get_worker().state.nthreads)
    except (ImportError, ValueError):  # ValueError: not inside a worker of Dask
        return 0


@contextmanager
def _children_allowed() -> Iterator[None]:
    """Let this worker start the processes that decode.

    Python forbids it to a daemonic process, such as a worker of Dask under its nanny, because such children could
    outlive it; these end by themselves when their pipe closes. And loky leaves a name for how to start processes
    that a child does not know.
    """
    if multiprocessing.get_start_method(allow_none=True) not in (None, *multiprocessing.get_all_start_methods()):
        multiprocessing.set_start_method("spawn", force=True)
    config: dict[str, Any] = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    before = config.get("daemon")
    config["daemon"] = False
    try:
        yield
    finally:
        config["daemon"] = before


def with_absolute_paths(settings: ExtractSettings) -> ExtractSettings:
    """The settings as a process with another working directory can use them."""
    weights = settings.weights
    if weights not in ("auto", "none"):
        weights = str(Path(weights).absolute())
    return replace(settings, root=settings.root.absolute(), out=settings.out.absolute(), weights=weights)
