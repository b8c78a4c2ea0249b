"""How worker processes start."""

from __future__ import annotations

import multiprocessing
import signal
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from multiprocessing.synchronize import RLock


def worker_context(preload: str) -> BaseContext:
    """How to start workers: never by a plain fork, which copies locks that threads of the parent hold.

    A fork server imports the module `preload` once, so that a worker replacing a killed one starts at once; where
    the system has none, every worker starts afresh.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = _keeping_locks()
    context.set_forkserver_preload([preload])
    # Ctrl-C reaches every process of the terminal; while the fork server still imports it would print a traceback.
    # Its helper comes first, since Python lets the signal in again once that has started.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def _keeping_locks() -> BaseContext:
    """A fork server's context that holds its locks as long as it lives.

    pebble lets them go before it ends its workers, and one that has only just been forked, as when there is less
    to do than there are workers, would look for them in vain and print a traceback.
    """

    class Keeping(multiprocessing.context.ForkServerContext):
        def __init__(self) -> None:
            super().__init__()
            self._kept: list[RLock] = []

        def RLock(self) -> RLock:
            lock = super().RLock()
            self._kept.append(lock)
            return lock

    return Keeping()


def leave_interrupts() -> None:
    """In a worker: Ctrl-C is left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
