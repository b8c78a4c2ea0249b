"""What a check of a cache says: one line each, with how bad it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harfeat.errors import printable

OK, NOTE, WARNING, PROBLEM = "ok", "note", "warning", "problem"

SHOWN = 5
"""So many names stand in a line; the rest is counted."""


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    `level` is OK; NOTE (good to know); WARNING (sound, but a figure made with it may mislead); or PROBLEM
    (damaged, altered, or not what it says it is). `check` is the check's short name.
    """

    level: str
    check: str
    text: str

    def __str__(self) -> str:
        return printable(f"{self.level:<8} {self.check}: {self.text}")


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
