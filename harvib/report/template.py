"""What all pages share: templates, a plot with its heading, and a file that is written whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from harvib.errors import InputError
from harvib.weights import replace_synced


@dataclass(frozen=True)
class Plot:
    """An <svg> or <img> element with its heading and the sentence below it."""

    title: str
    svg: Markup
    caption: str = ""


def template(name: str) -> Template:
    """A template of this folder; whatever is put into it is escaped."""
    environment = Environment(
        loader=PackageLoader("harvib", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def check_out(out: Path) -> None:
    """Raise InputError where no page can be written as `out`."""
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: " + ("is a folder" if out.is_dir() else "its folder does not exist"))


def write_text(out: Path, text: str) -> None:
    """Write a page as `out`, whole or not at all; InputError where that is not possible."""
    temporary = out.with_name(f".{out.name}.part")
    try:
        temporary.write_text(text, encoding="utf-8")
        replace_synced(temporary, out)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written: {error.strerror}") from error
