"""Trained models as files for other programs: one file here a format, and one line in FORMATS.

A format makes bytes of the model of a finished run, its card, the name of the file and how weights are stored, and
says in one line what they are; it raises InputError where it cannot hold the model. Files are written whole or not
at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harvib.classifier import Classifier
from harvib.errors import InputError
from harvib.export.c import c_files
from harvib.export.made import QUANTIZE, Exported, Exporter
from harvib.export.torch import to_torch, torch_file
from harvib.onnxfile import needs_onnx
from harvib.rundir import RunFolder, model_file
from harvib.weights import ModelCard, load_model, write_together


@dataclass(frozen=True)
class Format:
    """`suffix` is what a file's name ends in by custom."""

    export: Exporter
    suffix: str


def _onnx(model: Classifier, card: ModelCard, out: Path, quantize: str) -> Exported:
    needs_onnx()
    from harvib.export.onnx import onnx_file  # noqa: PLC0415 - an extra

    return onnx_file(model, card, out, quantize)


def _torchscript(model: Classifier, card: ModelCard, out: Path, quantize: str) -> Exported:
    from harvib.export.script import script_file  # noqa: PLC0415 - rarely asked for

    return script_file(model, card, out, quantize)


def _pipeline(run: Path, out: Path, quantize: str, weights: str | None) -> Exported:
    from harvib.export.pipeline import exported_pipeline  # noqa: PLC0415 - timm takes a second to import

    return exported_pipeline(run, out, quantize, weights)


def _executorch(model: Classifier, card: ModelCard, out: Path, quantize: str) -> Exported:
    from harvib.export.executorch import executorch_file  # noqa: PLC0415 - rarely asked for

    return executorch_file(model, card, out, quantize)


FORMATS: dict[str, Format] = {
    "torch": Format(torch_file, ".safetensors"),
    "onnx": Format(_onnx, ".onnx"),
    "torchscript": Format(_torchscript, ".pt"),
    "executorch": Format(_executorch, ".pte"),
    "c": Format(c_files, ".c"),
}

__all__ = ["FORMATS", "QUANTIZE", "Exported", "Exporter", "Format", "export_run", "exported_bytes", "to_torch"]


def exported_bytes(
    model: Classifier, card: ModelCard, form: str, quantize: str = "none", name: str = "model"
) -> dict[str, bytes]:
    """The files that `form` makes of a model, by their names, which begin with `name`; the first is the model's.

    `quantize` is one of QUANTIZE. Raises InputError where there is no such format, or it cannot hold the model.
    """
    _require_known(form, quantize)
    chosen = FORMATS[form]
    found = chosen.export(model, card, Path(f"{name}{chosen.suffix}"), quantize)
    return {path.name: data for path, data in found.files.items()}


def export_run(
    model: Path,
    form: str,
    out: Path,
    quantize: str = "none",
    with_backbone: bool = False,
    weights: str | None = None,
) -> str:
    """Write the final model of a run folder, or a model file, to `out`; the line that says what was written.

    `with_backbone`: the pipeline that begins at frames (`harvib.export.pipeline`); `weights` are its backbone's.
    Raises InputError where there is no such model or format, or where `out` cannot be written.
    """
    _require_known(form, quantize)
    if not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: its folder does not exist")
    if out.exists() and not out.is_file():
        # Writing ends in a new name for the whole file, which would take the place of a device too.
        raise InputError(f"--out {out}: is a {'folder' if out.is_dir() else 'device or the like'}")
    if model.is_dir() and (folder := RunFolder(model)).report_path.is_file() and not folder.is_finished():
        raise InputError(f"{model}: interrupted before its final model; repeat its command, then export")
    if with_backbone and form != "onnx":
        raise InputError(f"--with-backbone: a pipeline is written with --format onnx, not {form}")
    if weights is not None and not with_backbone:
        raise InputError(f"--weights {weights}: are those of the backbone: say --with-backbone, or leave it out")
    if with_backbone:
        found = _pipeline(model, out, quantize, weights)
    else:
        found = FORMATS[form].export(*load_model(model_file(model)), out, quantize)
    try:
        write_together(found.files)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written: {error.strerror or error}") from error
    return found.told


def _require_known(form: str, quantize: str) -> None:
    if form not in FORMATS:
        raise InputError(f"--format {form}: choose one of {', '.join(FORMATS)}")
    if quantize not in QUANTIZE:
        raise InputError(f"--quantize {quantize}: choose one of {', '.join(QUANTIZE)}")
