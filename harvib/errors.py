"""The one error a user of harvib can cause."""

from __future__ import annotations


class InputError(ValueError):
    """Wrong use or bad input; the text says in one line what is wrong, where, and what to do.

    The command line prints it and ends with exit code 2. What a stranger's file calls its parts cannot break the
    one line, or command the terminal: see `printable`.
    """

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))


def printable(text: str) -> str:
    """The text with line ends, escape codes and bytes that are no UTF-8 written out as in Python's source."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
