"""Clips decoded ahead of the model, in processes that may be killed, delivered in the order of asking."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import BrokenExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

from harfeat.decode.records import DecodeError
from harfeat.decode.worker import Prepared, initialise, run, worker_context
from harfeat.errors import InputError
from harfeat.interruptions import held_back
from harfeat.preprocess import TransformConfig
from harfeat.sampling import SamplingSettings

Found = TypeVar("Found")


def prepared_clips(
    paths: Sequence[Path], sampling: SamplingSettings, transform: TransformConfig, workers: int, timeout: float
) -> Generator[Prepared | DecodeError, None, None]:
    """Decode and prepare clips; the rest as of `each_of`."""
    return each_of(run, ((str(path), sampling, transform) for path in paths), workers, timeout)


def each_of(
    work: Callable[..., Found], clips: Iterable[tuple[Any, ...]], workers: int, timeout: float
) -> Generator[Found | DecodeError, None, None]:
    """What `work` finds in each clip, in `workers` processes; 0 works in this one, without protection.

    Yields one result a clip, which are the arguments of `work`, in order. A clip that takes longer than `timeout`
    seconds, or whose decoder crashes, becomes a DecodeError, and the others go on. At most 2 * workers + 2 clips
    are in memory. Raises InputError where no process starts.
    """
    if workers == 0:
        yield from (_here(work, clip) for clip in clips)
        return
    pool = ProcessPool(workers, context=worker_context(), initializer=initialise)
    waiting: deque[Any] = deque()
    try:
        for clip in clips:
            # The first starts the processes; one that Ctrl-C left half started would begin when nobody is left.
            with held_back():
                waiting.append(pool.schedule(work, args=clip, timeout=timeout))
            if len(waiting) > 2 * workers + 1:
                yield _outcome(waiting.popleft(), timeout)
        while waiting:
            yield _outcome(waiting.popleft(), timeout)
    except BrokenExecutor as error:
        raise InputError(
            "the decoding processes do not start: a script must call this below `if __name__ == '__main__':`, "
            "and there must be memory for them; --workers 0 decodes without processes"
        ) from error
    finally:
        # Also on Ctrl-C and when the caller stops early: no process is left behind.
        pool.stop()
        pool.join()


def _here(work: Callable[..., Found], clip: tuple[Any, ...]) -> Found | DecodeError:
    try:
        return work(*clip)
    except DecodeError as error:
        return error


def _outcome(future: Any, timeout: float) -> Any:
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, DecodeError):
        return error
    if isinstance(error, FutureTimeoutError):
        return DecodeError(f"decoding took longer than {timeout:g} s and was stopped")
    if isinstance(error, ProcessExpired):
        return DecodeError(f"the decoder crashed (exit code {error.exitcode})")
    if isinstance(error, (InputError, BrokenExecutor)) or not isinstance(error, Exception):
        raise error
    # What a library raises on a broken file, against its own word, costs that file, not the run.
    text = " ".join(str(error).split())
    return DecodeError(f"decoding failed unexpectedly, which deserves a report: {type(error).__name__}: {text}")
