"""Models as C: one file of C99 and its header, for devices that have no more than a compiler."""

from __future__ import annotations

from pathlib import Path

from harvib.classifier import Classifier
from harvib.errors import InputError
from harvib.export.c.model import to_c
from harvib.export.c.text import identifier
from harvib.export.made import Exported
from harvib.export.torch import compact_form
from harvib.models import recurrent
from harvib.weights import ModelCard

__all__ = ["c_files", "to_c"]


def c_files(model: Classifier, card: ModelCard, out: Path, quantize: str) -> Exported:
    """A model as C, `out` and the header beside it; a plain or masked one is compacted first.

    Names in it begin with that of the file. Raises InputError as `to_c` does, and for names that no C source can
    have or include.
    """
    model = recurrent(model, "--format c", "; say --format onnx")
    header = out.with_suffix(".h")
    if out.suffix != ".c":
        raise InputError(f"--out {out}: with --format c it ends in .c; the header goes beside it")
    if not header.name.isprintable() or any(bad in header.name for bad in ('"', "\\", "??")):
        raise InputError(f"--out {str(out)!r}: C cannot include its header: leave out quotes, \\ and ??")
    if header.is_dir():
        raise InputError(f"--out {out}: its header, {header}, is a folder")
    small = compact_form(model)
    name = identifier(out.stem)
    files = to_c(small, card, name, header.name, quantize)
    told = (
        f"{out} and {header.name}: C99, {name}_clip and {name}_step, inputs {small.spec.inputs:,} of "
        f"{small.spec.features:,}, {files.constants:,} bytes of constants, {files.state:,} bytes a state"
    )
    return Exported({out: files.source.encode(), header: files.header.encode()}, told)
