"""Ctrl-C and SIGTERM wait while HDF5 writes.

Python raises what they mean wherever it happens to be, also inside of the calls by which HDF5 writes to its file.
The library then holds objects that it can neither flush nor close, and complains about each as the process ends.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def held_back() -> Iterator[Callable[[], None]]:
    """Keep signals that Python handles out of the block; they take effect when what it yields is called, or after.

    Does nothing in other threads than the main one, which no signal interrupts.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ours = {number: handler for number, handler in handlers.items() if callable(handler)}

    def let_in() -> None:
        if came:
            number = came.pop()
            came.clear()
            ours[signal.Signals(number)](number, None)

    for number in ours:
        signal.signal(number, lambda got, _: came.append(got))
    try:
        yield let_in
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
    let_in()
