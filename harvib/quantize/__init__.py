"""Trained models in 8 and 4 bits: numbers, schemes, calibration, and a run's model by each scheme, measured.

One engine serves all schemes: ONNX's standard operators, run by onnxruntime. torchao replaces nn.Linear alone and
leaves recurrent modules as they are. onnxruntime's own tools do not do it either: quantize_dynamic knows the LSTM
but no GRU or RNN, quantize_static does not look into a Scan. So the weights are quantised here, and what runs them
is onnxruntime.

`harvib.quantize.run` needs the extra `quantize`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harvib.quantize.run import quantize_run


def __getattr__(name: str) -> Any:
    """quantize_run, imported on first use: onnxruntime is an extra, and takes its time."""
    if name != "quantize_run":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from harvib.onnxfile import needs_onnx  # noqa: PLC0415 - see above

    needs_onnx()
    from harvib.quantize.run import quantize_run  # noqa: PLC0415 - see above

    return quantize_run


__all__ = ["quantize_run"]
