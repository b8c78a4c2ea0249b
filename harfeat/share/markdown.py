"""Markdown of cards, in which names come from strangers: none of them becomes markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from json import dumps
from typing import Any


def plain(text: str) -> str:
    """Text as Markdown shows it, in one line."""
    for character in "\\|<>[]*_`#":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, its cells taken as they are, never as markup."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(plain(cell) for cell in line) + " |" for line in lines) + "\n"


def fenced(text: str, language: str = "") -> str:
    """A block of code that ends where `text` ends, whatever is in it."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}\n"


def flat(fields: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested fields as rows of a table: names with dots, values as text or JSON."""
    for key, value in sorted(fields.items()):
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else dumps(value)
