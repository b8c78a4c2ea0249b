"""Models as C: one file of C99 and its header, for devices that have no more than a compiler."""

from __future__ import annotations

from pathlib import Path

from harvib.errors import InputError
from harvib.export.c.model import to_c
from harvib.export.c.text import identifier
from harvib.export.torch import compact_form
from harvib.models import SequenceClassifier
from harvib.weights import ModelCard, write_together

__all__ = ["to_c", "write_c"]


def write_c(model: SequenceClassifier, card: ModelCard, out: Path) -> str:
    """Write a model as C, `out` and the header beside it; a plain or masked one is compacted first.

    Names in it begin with that of the file. Raises InputError as `to_c` does, and for names that no C source can
    have or include.
    """
    header = out.with_suffix(".h")
    if out.suffix != ".c":
        raise InputError(f"--out {out}: with --format c it ends in .c; the header goes beside it")
    if not header.name.isprintable() or any(bad in header.name for bad in ('"', "\\", "??")):
        raise InputError(f"--out {str(out)!r}: C cannot include its header: leave out quotes, \\ and ??")
    if header.is_dir():
        raise InputError(f"--out {out}: its header, {header}, is a folder")
    small = compact_form(model)
    name = identifier(out.stem)
    files = to_c(small, card, name, header.name)
    write_together({header: files.header.encode(), out: files.source.encode()})
    return (
        f"{out} and {header.name}: C99, {name}_clip and {name}_step, inputs {small.spec.inputs:,} of "
        f"{small.spec.features:,}, {files.constants:,} bytes of constants, {files.state:,} bytes a state"
    )
