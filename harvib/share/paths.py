"""What a run tells of the machine it was made on: paths, which are nobody's business and stay here."""

from __future__ import annotations

import html
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import harvib

_ABSOLUTE = re.compile(r"(~?[/\\]|~[A-Za-z]|[A-Za-z]:[/\\]).*", re.DOTALL)
_AS_THEY_ARE = ("classes", "recipe")
"""Fields that models and fingerprints vouch for: they go as they are, or not at all."""


def without_paths(fields: Mapping[str, Any], forbidden: Iterable[str]) -> dict[str, Any]:
    """The fields of a JSON file of a run, of every absolute path the last name alone.

    Within longer texts, such as commands, those below a folder in `forbidden`.
    """
    within = re.compile("|".join(rf"{re.escape(place)}[^\s'\"]*" for place in sorted(forbidden, key=len)[::-1]))

    def of(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: inner if key in _AS_THEY_ARE else of(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [of(item) for item in value]
        if not isinstance(value, str):
            return value
        # Windows' rules know both slashes.
        name = PureWindowsPath(value).name if _ABSOLUTE.fullmatch(value) else value
        return within.sub(lambda found: PureWindowsPath(found[0]).name, name)

    found = of(dict(fields))
    assert isinstance(found, dict)
    return found


def places(run: Path) -> tuple[str, ...]:
    """Folders of this machine that no file may name: those of the run, the user, Python and this program.

    Those that many machines have, such as / and /usr, tell nothing.
    """
    found = (run.absolute(), run.resolve(), Path.home(), Path(sys.prefix), Path(harvib.__file__).parents[1])
    return tuple({str(path) for path in found if len(path.parts) > 2 or path == Path.home() != Path("/")})


def named_in(data: bytes, forbidden: Iterable[str]) -> str | None:
    """Which of these a file names, in UTF-8 or as JSON or HTML write it; None where it names none."""
    for place in forbidden:
        forms = {place, html.escape(place), json.dumps(place)[1:-1]}
        if any(re.search(re.escape(form.encode()) + rb"(?![A-Za-z0-9_.-])", data) for form in forms):
            return place
    return None
