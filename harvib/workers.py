"""Jobs by way of joblib: on this machine, or on a cluster that joblib reaches by its name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import ExitStack
from typing import Any, TypeVar

import joblib

from harvib.errors import InputError

PACKAGES = {"loky": "joblib", "dask": "distributed", "ray": "ray", "spark": "joblibspark"}
"""Backends by name, each with the package that it needs."""

Job = TypeVar("Job")
Result = TypeVar("Result")


def check(jobs: int, backend: str, scheduler: str) -> None:
    """Raise InputError where `results` could not begin: a wrong number, or a backend that is not installed."""
    if backend not in PACKAGES:
        raise InputError(f"--backend {backend}: choose one of {', '.join(PACKAGES)}")
    if jobs < 0:
        raise InputError(f"--jobs {jobs}: must be at least 0")
    if scheduler and backend not in ("dask", "ray"):
        raise InputError(f"--scheduler {scheduler}: --backend {backend} takes none")
    try:
        importlib.import_module(PACKAGES[backend])
    except ImportError as error:
        raise InputError(
            f"--backend {backend}: {PACKAGES[backend]} is not installed: pip install 'harfeat[{backend}]'"
        ) from error


def results(
    work: Callable[[Job], Result], given: Sequence[Job], jobs: int, backend: str = "loky", scheduler: str = ""
) -> Iterator[Result]:
    """The results of all jobs, as they come. `jobs` at a time; 0: as many as there are cores.

    `scheduler` is the address of a Dask or Ray cluster; without one they start on this machine, and Spark takes
    the master of its own settings. One job on loky stays in this process. Raises InputError where the backend is
    not installed or not reached, or where its workers die.
    """
    check(jobs, backend, scheduler)
    jobs = jobs or joblib.cpu_count()
    with ExitStack() as stack:
        deaths = _entered(backend, jobs, scheduler, stack)
        # Ray and Spark cannot hand results over one by one.
        form = "generator_unordered" if backend in ("loky", "dask") else "list"
        workers = stack.enter_context(
            joblib.Parallel(n_jobs=-1 if backend == "dask" else jobs, batch_size=1, return_as=form)
        )
        try:
            yield from workers(joblib.delayed(work)(job) for job in given)
        except deaths as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"--backend {backend}: a worker died ({reason}); fewer --jobs take less memory; the same command "
                "resumes"
            ) from error


def _entered(backend: str, jobs: int, scheduler: str, stack: ExitStack) -> tuple[type[Exception], ...]:
    """Make the backend joblib's within the stack; the errors by which it tells that a worker has died."""
    if backend == "loky":
        stack.enter_context(joblib.parallel_config("loky", inner_max_num_threads=1))
        return (BrokenExecutor,)
    module: Any = importlib.import_module(PACKAGES[backend])
    if backend == "dask":
        try:
            client = (
                module.Client(scheduler, timeout=30)
                if scheduler
                else module.Client(dashboard_address=None, n_workers=jobs, threads_per_worker=1)
            )
        except (OSError, ValueError) as error:
            raise InputError(f"--scheduler {scheduler}: no Dask cluster answers") from error
        stack.enter_context(client)
        joblib.register_parallel_backend("harvib-dask", _dask_backend())
        stack.enter_context(joblib.parallel_config("harvib-dask", client=client))
        return (module.KilledWorker, module.CancelledError)
    if backend == "ray":
        importlib.import_module("ray.util.joblib").register_ray()
        try:
            module.init(address=scheduler or None, num_cpus=None if scheduler else jobs, log_to_driver=False)
        except (ConnectionError, ValueError) as error:
            raise InputError(f"--scheduler {scheduler}: no Ray cluster answers") from error
        stack.callback(module.shutdown)
    else:
        module.register_spark()
    stack.enter_context(joblib.parallel_config(backend))
    return (module.exceptions.RayError,) if backend == "ray" else (BrokenExecutor,)


def _dask_backend() -> type[Any]:
    """Joblib's backend for Dask, but also a single worker does the jobs itself.

    Where joblib hears of one job at a time it runs all of them in the calling process.
    """
    dask = importlib.import_module("joblib._dask")

    class Backend(dask.DaskDistributedBackend):  # type: ignore[name-defined]
        def effective_n_jobs(self, n_jobs: int) -> int:
            return max(2, super().effective_n_jobs(n_jobs))

    return Backend
