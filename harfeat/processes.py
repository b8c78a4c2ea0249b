"""How worker processes start."""

from __future__ import annotations

import multiprocessing
import signal
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext


def worker_context(preload: str) -> BaseContext:
    """How to start workers: never by a plain fork, which copies locks that threads of the parent hold.

    A fork server imports the module `preload` once, so that a worker replacing a killed one starts at once; where
    the system has none, every worker starts afresh.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
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


def leave_interrupts() -> None:
    """In a worker: Ctrl-C is left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
