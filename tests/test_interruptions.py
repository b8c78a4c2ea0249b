"""Ctrl-C and SIGTERM come through: late where files are written, and also where Python drops what they raise."""

from __future__ import annotations

import gc
import signal
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harfeat import interruptions
from harfeat.interruptions import held_back, sigterm_as_ctrl_c

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)


@pytest.fixture(autouse=True)
def both_interrupt() -> Iterator[None]:
    """Both raise KeyboardInterrupt, as in a command; what a test leaves behind is taken away."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@BOTH
def test_a_signal_waits_until_it_is_let_in_or_the_block_ends(number: signal.Signals) -> None:
    steps = []

    def to_the_end() -> None:
        with held_back():
            signal.raise_signal(number)
            steps.append("still here")

    def let_in_before() -> None:
        with held_back() as let_in:
            let_in()
            signal.raise_signal(number)
            steps.append("here too")
            let_in()
            steps.append("not here")

    for block in (to_the_end, let_in_before):
        with pytest.raises(KeyboardInterrupt):
            block()
    assert steps == ["still here", "here too"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)


@BOTH
@pytest.mark.parametrize("error", [ValueError, OSError, GeneratorExit])
def test_a_signal_is_not_lost_where_the_block_ends_with_an_error(
    number: signal.Signals, error: type[BaseException]
) -> None:
    """Whoever takes the error and goes on would go on for hours."""

    def block() -> None:
        with held_back():
            signal.raise_signal(number)
            raise error

    with pytest.raises(KeyboardInterrupt) as caught:
        block()
    assert isinstance(caught.value.__context__, error)


@BOTH
def test_blocks_within_blocks_wait_for_the_outermost(number: signal.Signals) -> None:
    steps = []

    def block() -> None:
        with held_back():
            with held_back() as let_in:
                signal.raise_signal(number)
                let_in()
                steps.append("inner")
            steps.append("outer")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert steps == ["inner", "outer"]


@pytest.mark.parametrize("call", [0, 1, 2, 3])
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_an_interruption_amid_the_change_of_handlers_leaves_none_that_holds_back(
    first: signal.Signals, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block changes two handlers, and changes them back."""
    plain, calls = signal.signal, 0

    def interrupted(number: int, handler: Any) -> Any:
        nonlocal calls
        before, calls = plain(number, handler), calls + 1
        if calls == call + 1:
            signal.raise_signal(first)
        return before

    monkeypatch.setattr(interruptions.signal, "signal", interrupted)
    with pytest.raises(KeyboardInterrupt), held_back():
        pass
    monkeypatch.undo()
    for number in (signal.SIGINT, signal.SIGTERM):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


def work(seconds: float) -> None:
    """In steps, so that an interruption finds Python code whatever the system."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)


class Thing:
    """Something that a weak reference can be made of."""


def dropped_in_a_callback(action: Callable[[], None]) -> None:
    """`action` runs where h5py lets go of an object: in the callback of a weak reference."""
    thing = Thing()
    kept = weakref.ref(thing, lambda _: action())
    del thing
    assert kept() is None


def dropped_in_a_destructor(action: Callable[[], None]) -> None:
    class Destroyed:
        def __del__(self) -> None:
            action()

    Destroyed()
    gc.collect()


@BOTH
@pytest.mark.parametrize("dropped", [dropped_in_a_callback, dropped_in_a_destructor])
def test_an_interruption_that_python_drops_is_raised_again(
    number: signal.Signals, dropped: Callable[[Callable[[], None]], None], capfd: pytest.CaptureFixture[str]
) -> None:
    reached = False

    def block() -> None:
        nonlocal reached
        dropped(lambda: signal.raise_signal(number))
        reached = True
        work(20)

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), sigterm_as_ctrl_c():
        block()
    assert reached
    assert time.monotonic() < started + 10
    assert capfd.readouterr() == ("", "")


def test_an_interruption_that_is_dropped_again_and_again_comes_through() -> None:
    tries = 0

    def stubborn() -> None:
        nonlocal tries
        tries += 1
        work(10)  # until the interruption that was dropped before falls in here

    def block() -> None:
        dropped_in_a_callback(lambda: signal.raise_signal(signal.SIGTERM))
        for _ in range(3):
            dropped_in_a_callback(stubborn)
        work(20)

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), sigterm_as_ctrl_c():
        block()
    assert tries == 3
    assert time.monotonic() < started + 10


def test_what_else_python_drops_is_told_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: told.append(dropped.exc_type))
    hook, handler = sys.unraisablehook, signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def wrong() -> None:
        raise ValueError

    with sigterm_as_ctrl_c():
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
        dropped_in_a_callback(wrong)
    assert told == [ValueError]
    assert sys.unraisablehook is hook
    assert signal.signal(signal.SIGTERM, handler) is signal.SIG_IGN


def test_an_interruption_that_is_dropped_at_the_very_end_does_not_kill_what_comes_after() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with sigterm_as_ctrl_c():
        dropped_in_a_callback(lambda: signal.raise_signal(signal.SIGTERM))
    work(0.5)
