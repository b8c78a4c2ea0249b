"""Reads stretches of files of records into a folder of shards, in this process or in several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from contextlib import contextmanager
from pathlib import Path

from pebble import ProcessExpired, ProcessPool

from harfeat.cache.folder import WorkFolder
from harfeat.errors import InputError
from harfeat.interruptions import held_back
from harfeat.ledger import Ledger
from harfeat.processes import leave_interrupts, worker_context
from harfeat.stretches import Done, Job, Task, read_stretch, stamp_of

_Submit = Callable[[Task], "Future[Done]"]


def read_all(
    job: Job, ledger: Ledger, folder: WorkFolder, workers: int, advance: Callable[[], object] = lambda: None
) -> None:
    """Read whatever the ledger still asks for; `advance` hears of each stretch. Raises InputError.

    `workers` processes read a file each; up to 1: this process does.
    """
    flying: dict[Future[Done], Task] = {}
    with _readers(job, workers) as submit:
        while True:
            busy = {task.path for task in flying.values()}
            while len(flying) < max(1, workers) and (task := ledger.next_task(busy)) is not None:
                flying[submit(task)] = task
                busy.add(task.path)
            if flying:
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    _take(_outcome(future, flying.pop(future)), ledger, folder)
                    advance()
            elif surplus := ledger.surplus():
                ledger.drop(surplus)
                _drop(surplus, folder)
            else:
                return


def refuse_changed(files: Sequence[Path], ledger: Ledger) -> None:
    """Raise InputError where a file is no longer what it was when it was read."""
    stamps = {path.name: stamp_of(path) for path in files}
    changed = sorted(
        {done.stretch.file for done in ledger.in_order() if done.stretch.stamp != stamps[done.stretch.file]}
    )
    if changed:
        raise InputError(
            f"{changed[0]} changed while it was read ({len(changed)} files): the same command reads it again"
        )


def _take(done: Done, ledger: Ledger, folder: WorkFolder) -> None:
    given_up = ledger.add(done)
    if given_up == [done]:
        # Not listed yet.
        (folder.path / done.shard).unlink()
        return
    _drop(given_up, folder)
    folder.add([done.entry] if done.entry else [], done.failures)


def _drop(given_up: Sequence[Done], folder: WorkFolder) -> None:
    folder.retry(failure.name for done in given_up for failure in done.failures)
    folder.drop(done.shard for done in given_up)


@contextmanager
def _readers(job: Job, workers: int) -> Iterator[_Submit]:
    if workers < 2:
        yield lambda task: _finished(read_stretch(job, task))
        return
    pool = ProcessPool(workers, context=worker_context(__name__), initializer=leave_interrupts)

    def submit(task: Task) -> Future[Done]:
        # The first starts the processes; one that Ctrl-C left half started would begin when nobody is left.
        with held_back():
            future: Future[Done] = pool.schedule(read_stretch, args=(job, task))
            return future

    try:
        yield submit
    finally:
        pool.stop()
        pool.join()


def _finished(done: Done) -> Future[Done]:
    future: Future[Done] = Future()
    future.set_result(done)
    return future


def _outcome(future: Future[Done], task: Task) -> Done:
    try:
        return future.result()
    except ProcessExpired as error:
        raise InputError(
            f"{task.path}: the process that read it died (exit code {error.exitcode}); fewer --workers take less "
            "memory, and the same command resumes"
        ) from error
    except BrokenExecutor as error:
        raise InputError(
            "the reading processes do not start: a script must call this below `if __name__ == '__main__':`; "
            "--workers 1 reads without processes"
        ) from error
