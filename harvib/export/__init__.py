"""Trained models as files for other programs: one file here a format, and one line in FORMATS.

An exporter takes the model of a finished run, its card and the file to write. It writes the file whole or not at
all, says in one line what it wrote, and raises InputError where the format cannot hold the model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from harvib.errors import InputError
from harvib.export.c import write_c
from harvib.export.torch import to_torch, write_torch
from harvib.models import SequenceClassifier, recurrent
from harvib.onnxfile import needs_onnx
from harvib.rundir import RunFolder, model_file
from harvib.weights import ModelCard, load_model

Exporter = Callable[[SequenceClassifier, ModelCard, Path], str]


def _onnx(model: SequenceClassifier, card: ModelCard, out: Path) -> str:
    needs_onnx()
    from harvib.export.onnx import write_onnx  # noqa: PLC0415 - an extra

    return write_onnx(model, card, out)


def _pipeline(run: Path, out: Path, weights: str | None) -> str:
    from harvib.export.pipeline import write_pipeline  # noqa: PLC0415 - timm takes a second to import

    return write_pipeline(run, out, weights)


FORMATS: dict[str, Exporter] = {"torch": write_torch, "onnx": _onnx, "c": write_c}

__all__ = ["FORMATS", "Exporter", "export_run", "to_torch"]


def export_run(model: Path, form: str, out: Path, with_backbone: bool = False, weights: str | None = None) -> str:
    """Write the final model of a run folder, or a model file, to `out`; the line that says what was written.

    `with_backbone`: the pipeline that begins at frames (`harvib.export.pipeline`); `weights` are its backbone's.
    Raises InputError where there is no such model or format, or where `out` cannot be written.
    """
    if form not in FORMATS:
        raise InputError(f"--format {form}: choose one of {', '.join(FORMATS)}")
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: " + ("is a folder" if out.is_dir() else "its folder does not exist"))
    if model.is_dir() and (folder := RunFolder(model)).report_path.is_file() and not folder.is_finished():
        raise InputError(f"{model}: interrupted before its final model; repeat its command, then export")
    if with_backbone != (form == "onnx" and with_backbone) or (weights is not None and not with_backbone):
        raise InputError("--with-backbone needs --format onnx, and --weights needs --with-backbone")
    try:
        if with_backbone:
            return _pipeline(model, out, weights)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written: {error.strerror or error}") from error
    file = model_file(model)
    network, card = load_model(file)
    instead = f"; {file} holds its weights, and `harvib.weights.load_model` makes a torch module of them"
    try:
        return FORMATS[form](recurrent(network, f"--format {form}", instead), card, out)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written: {error.strerror or error}") from error
