"""Models as TorchScript: one file that torch.jit.load runs, with nothing of harvib, on any batch and time.

PyTorch means torch.export as the successor of this format and warns so. That takes no recurrence over a time of
any length: of nn.LSTM too it makes as many steps as its example has (torch 2.14), so that
harvib/export/executorch.py goes frame by frame.

TorchScript reads annotations, so the modules here that hold what it compiles have them as objects, not as text.
"""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path

import torch
from torch import nn

from harvib.classifier import Classifier
from harvib.export.made import Exported, metadata_of
from harvib.export.script.model import script_module
from harvib.export.script.weights import floats, int8
from harvib.export.torch import compact_form
from harvib.scriptfile import FORMAT, TOLD, VERSION, as_before
from harvib.weights import ModelCard

__all__ = ["script_file", "to_script"]


def script_file(model: Classifier, card: ModelCard, out: Path, quantize: str) -> Exported:
    """A model as TorchScript; a plain or masked one is compacted first."""
    small = compact_form(model)
    eight = ", weights in 8 bits" if quantize == "int8" else ""
    line = f"{out}: TorchScript, inputs {small.spec.inputs:,} of {small.spec.features:,}{eight}"
    return Exported({out: to_script(small, card, quantize)}, line)


@torch.no_grad()
def to_script(small: Classifier, card: ModelCard, quantize: str = "none") -> bytes:
    """A compact model as the bytes of a file, its weights as floats or in `int8`.

    Raises InputError where a part of the model has not been written.
    """
    module = script_module(small, int8 if quantize == "int8" else floats)
    told = metadata_of(small, card, FORMAT, VERSION)
    told |= {"features": str(small.spec.features), "quantize": quantize}
    return _bytes(module, json.dumps(told, sort_keys=True))


def _bytes(module: nn.Module, told: str) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        as_before()
        torch.jit.save(torch.jit.script(module), stream, _extra_files={TOLD: told})
    return stream.getvalue()
