"""What Ctrl-C and SIGTERM do: they wait while files are written, and are not lost in a destructor.

Python raises what they mean wherever it happens to be, also inside of the calls by which HDF5 writes to its file.
The library then holds objects that it can neither flush nor close, and complains about each as the process ends.

In a destructor, or in the callback of a weak reference, Python reports what is raised, and drops it. h5py has such
a callback for each object that it lets go of. As compiled code lets no signal in, that callback often is the first
to do so: one signal in ten that came while shards were written and read back was lost.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_AGAIN = 0.1
"""Seconds until an interruption that was dropped comes again: by then Python has left where it was dropped."""


@contextmanager
def held_back() -> Iterator[Callable[[], None]]:
    """Keep signals that Python handles out of the block; they take effect when what it yields is called, or after.

    Also after an error, which is then the context of the interruption. Does nothing in other threads than the main
    one, which no signal interrupts.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    holding = True
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ours = {number: handler for number, handler in handlers.items() if callable(handler)}

    def heard(number: int, frame: FrameType | None) -> None:
        # The handlers are not changed at one stroke: one that stays behind must not hold back for ever.
        if holding:
            came.append(number)
        else:
            ours[signal.Signals(number)](number, frame)

    def let_in() -> None:
        if came:
            number = came.pop()
            came.clear()
            ours[signal.Signals(number)](number, None)

    try:
        for number in ours:
            signal.signal(number, heard)
        yield let_in
    finally:
        holding = False
        for number, handler in ours.items():
            signal.signal(number, handler)
        let_in()


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """In the block SIGTERM raises KeyboardInterrupt as Ctrl-C does, and one that Python drops comes again.

    For commands: their process is theirs, and they run in its main thread.
    """
    hook = sys.unraisablehook

    def again(dropped: UnraisableHookArgs) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            hook(dropped)
            return
        # As SIGTERM, whichever it was: Ctrl-C may have another meaning by now, or be ignored. After the block,
        # when Python does not handle SIGTERM any more, this does nothing.
        timer = threading.Timer(_AGAIN, _thread.interrupt_main, (signal.SIGTERM,))
        timer.daemon = True
        timer.start()

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, before)
