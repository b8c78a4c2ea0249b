"""Who extracts: this process, one process a GPU, or a cluster by way of joblib.

Chunks of clips are handed out; workers write shards into the folder, which all of them must see, and this process
lists them in the manifest as they come. A worker that dies costs its chunk, which another one does again.
"""

from __future__ import annotations

import importlib
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import joblib

from harfeat.chunks import Described, Done, Job, describe, run_chunk, visible_devices, with_absolute_paths
from harfeat.datasets import Clip
from harfeat.errors import InputError
from harfeat.extraction import Destination, Record, backbone_of, extract_clips
from harfeat.settings import PIXELS, ExtractSettings

_CHUNK = 64
"""Clips in a chunk at most: what a dying worker can cost."""
_ROUNDS = 3
"""How often workers may die without one more chunk getting done."""

_PACKAGES = {"dask": "distributed", "ray": "ray", "spark": "joblibspark"}

Deaths = tuple[type[Exception], ...]

Recover = Callable[[], set[str]]
"""Takes in shards that were written and not yet reported; the names of all clips that are done."""


class Backend(Protocol):
    """Whoever extracts."""

    def describe(self) -> Described:
        """The recipe, and what is told of the model; raises InputError."""

    def run(
        self,
        clips: Sequence[Clip],
        destination: Destination,
        record: Record,
        advance: Callable[[int], object],
        recover: Recover,
    ) -> None:
        """Extract clips into shards; `record` hears of shards and failures as they come, `advance` of clips."""


class Here:
    """The process itself, with its decoding processes."""

    def __init__(self, settings: ExtractSettings) -> None:
        self._settings, self._backbone = settings, backbone_of(settings)

    def describe(self) -> Described:
        """The recipe and the model's provenance."""
        return Described.of(self._settings, self._backbone)

    def run(
        self,
        clips: Sequence[Clip],
        destination: Destination,
        record: Record,
        advance: Callable[[int], object],
        recover: Recover,
    ) -> None:
        """Extract clips into shards."""
        del recover
        extract_clips(clips, self._backbone, self._settings, destination, record, lambda: advance(1))


class Joblib:
    """Processes that joblib knows how to reach. `deaths` are the errors by which they tell that one has died."""

    def __init__(self, job: Job, jobs: int, deaths: Deaths, streaming: bool) -> None:
        self._job, self._jobs, self._deaths, self._streaming = job, jobs, deaths, streaming
        self._name = f"--backend {job.settings.backend}"

    def describe(self) -> Described:
        """What one of the workers makes of the settings."""
        try:
            found: Described = self._parallel("list")([joblib.delayed(describe)(self._job)])[0]
        except self._deaths as error:
            raise InputError(f"{self._name}: no worker answers ({_told(error)})") from error
        return found

    def run(
        self,
        clips: Sequence[Clip],
        destination: Destination,
        record: Record,
        advance: Callable[[int], object],
        recover: Recover,
    ) -> None:
        """Extract clips into shards. Raises InputError where workers keep dying."""
        left = {clip.name: replace(clip, path=clip.path.absolute()) for clip in clips}
        rounds = 0
        while left:
            before = len(left)
            try:
                for done in self._results(list(left.values()), destination):
                    record(done.entries, done.failures)
                    advance(sum(left.pop(name, None) is not None for name in done.names))
            except self._deaths as error:
                found = left.keys() & recover()
                for name in found:
                    del left[name]
                advance(len(found))
                rounds = rounds + 1 if len(left) == before else 0
                if rounds >= _ROUNDS:
                    raise InputError(
                        f"{self._name}: workers keep dying ({_told(error)}); fewer --jobs or --workers take less "
                        f"memory; the same command resumes, {len(left)} clips are left"
                    ) from error

    def _results(self, clips: Sequence[Clip], destination: Destination) -> Iterator[Done]:
        with self._parallel("generator_unordered" if self._streaming else "list") as parallel:
            size = max(1, min(_CHUNK, -(-len(clips) // (4 * parallel._effective_n_jobs()))))
            chunks = [clips[first : first + size] for first in range(0, len(clips), size)]
            yield from parallel(joblib.delayed(run_chunk)(self._job, destination, chunk) for chunk in chunks)

    def _parallel(self, form: str) -> Any:
        return joblib.Parallel(n_jobs=self._jobs, batch_size=1, return_as=form)


@contextmanager
def backend_of(settings: ExtractSettings) -> Iterator[Backend]:
    """Whoever the settings name; several devices are shared out among as many processes. Raises InputError."""
    devices = tuple(name.strip() for name in settings.device.split(","))
    if settings.backend == "local" and settings.device == "auto":
        devices = ("cpu",) if settings.model == PIXELS else visible_devices()
    if settings.backend == "local" and len(devices) == 1:
        yield Here(settings)
        return
    with ExitStack() as stack:
        yield _joblib(with_absolute_paths(settings), () if devices == ("auto",) else devices, stack)


def _joblib(settings: ExtractSettings, devices: tuple[str, ...], stack: ExitStack) -> Joblib:
    token = secrets.token_hex(6)
    if settings.backend in ("local", "loky"):
        seen = devices or visible_devices()
        cores = joblib.cpu_count()
        jobs = settings.jobs if settings.jobs > 0 else len(seen) if len(seen) > 1 or seen != ("cpu",) else cores
        stack.callback(_forget_claims, token, len(seen))
        stack.enter_context(joblib.parallel_config("loky"))
        return Joblib(Job(settings, seen, max(1, cores // jobs), token), jobs, (BrokenExecutor,), True)
    package = _PACKAGES[settings.backend]
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise InputError(
            f"--backend {settings.backend}: {package} is not installed: pip install 'harfeat[{settings.backend}]'"
        ) from error
    start = {"dask": _dask, "ray": _ray, "spark": _spark}[settings.backend]
    jobs, deaths = start(module, settings, stack)
    return Joblib(Job(settings, devices, 0, token), jobs, deaths, settings.backend == "dask")


def _forget_claims(token: str, devices: int) -> None:
    """Remove the files by which processes of this machine shared out the devices."""
    for number in range(devices):
        (Path(tempfile.gettempdir()) / f"harfeat-{token}-{number}.lock").unlink(missing_ok=True)


def _dask(distributed: Any, settings: ExtractSettings, stack: ExitStack) -> tuple[int, Deaths]:
    """A running cluster by its scheduler's address; without one, a cluster of processes on this machine."""
    local = {"n_workers": settings.jobs if settings.jobs > 0 else joblib.cpu_count(), "threads_per_worker": 1}
    try:
        client = distributed.Client(settings.scheduler, timeout=30) if settings.scheduler else None
        client = client or distributed.Client(dashboard_address=None, **local)
        stack.enter_context(client)
        client.wait_for_workers(1, timeout=60)
    except (OSError, ValueError) as error:  # TimeoutError is an OSError
        raise InputError(f"--scheduler {settings.scheduler}: no Dask cluster answers ({_told(error)})") from error
    joblib.register_parallel_backend("harfeat-dask", _dask_backend())
    stack.enter_context(joblib.parallel_config("harfeat-dask", client=client))
    return -1, (distributed.KilledWorker, distributed.CancelledError, distributed.comm.CommClosedError)


def _dask_backend() -> type[Any]:
    """Joblib's backend for Dask, but also a single worker does the jobs itself.

    Where joblib hears of one job at a time it runs all of them in the calling process, which may have no GPU, and
    would die of what is to kill only a worker. A worker takes two jobs one after the other just as well.
    """
    from joblib._dask import DaskDistributedBackend  # noqa: PLC0415

    class Backend(DaskDistributedBackend):
        def effective_n_jobs(self, n_jobs: int) -> int:
            return max(2, super().effective_n_jobs(n_jobs))

    return Backend


def _ray(ray: Any, settings: ExtractSettings, stack: ExitStack) -> tuple[int, Deaths]:
    from ray.util.joblib import register_ray  # noqa: PLC0415

    try:
        ray.init(address=settings.scheduler or None, log_to_driver=False, logging_level="ERROR",
                 num_cpus=settings.jobs if settings.jobs > 0 and not settings.scheduler else None)  # fmt: skip
    except (ConnectionError, ValueError) as error:
        raise InputError(f"--scheduler {settings.scheduler}: no Ray cluster answers ({_told(error)})") from error
    stack.callback(ray.shutdown)
    register_ray()
    stack.enter_context(joblib.parallel_config("ray"))
    return settings.jobs, (ray.exceptions.RayError,)


def _spark(joblibspark: Any, settings: ExtractSettings, stack: ExitStack) -> tuple[int, Deaths]:
    from py4j.protocol import Py4JError  # noqa: PLC0415
    from pyspark.sql import SparkSession  # noqa: PLC0415

    builder = SparkSession.builder.appName("harfeat")
    session = (builder.master(settings.scheduler) if settings.scheduler else builder).getOrCreate()
    stack.callback(session.stop)
    joblibspark.register_spark()
    stack.enter_context(joblib.parallel_config("spark"))
    return settings.jobs, (Py4JError,)


def _told(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
