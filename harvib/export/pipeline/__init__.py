"""A run's model with what stands before it: from the frames of a video to logits, in onnxruntime alone."""

from __future__ import annotations

from pathlib import Path

from harvib.errors import InputError
from harvib.export.made import Exported
from harvib.export.pipeline.front import FrameBackbone, Pipeline, pipeline_of
from harvib.onnxfile import needs_onnx

__all__ = ["FrameBackbone", "Pipeline", "exported_pipeline", "pipeline_of"]


def exported_pipeline(run: Path, out: Path, quantize: str = "none", weights: str | None = None) -> Exported:
    """See `harvib.export.pipeline.files`; InputError too where an extra is not installed."""
    needs_onnx()
    try:
        import onnxscript  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise InputError("--with-backbone needs onnxscript: pip install 'harfeat[quantize]'") from error
    from harvib.export.pipeline import files  # noqa: PLC0415 - an extra

    return files.exported_pipeline(run, out, quantize, weights)
