"""Models as ExecuTorch programs: one frame at a time, with the state as an input and an output.

torch.export, which these programs are made by, unrolls a recurrence over as many steps as its example has, so that
a whole clip would be of one length. The program has the method `step` (harvib/export/script/steps.py), and
`harvib`, which gives as JSON what other formats have as metadata.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from harvib.classifier import Classifier
from harvib.errors import InputError
from harvib.export.made import Exported, metadata_of
from harvib.export.script.steps import Stepwise
from harvib.export.script.weights import floats, int8
from harvib.export.torch import compact_form
from harvib.models import SequenceClassifier, recurrent
from harvib.weights import ModelCard

FORMAT, VERSION = "harvib-executorch", 1


def executorch_file(model: Classifier, card: ModelCard, out: Path, quantize: str) -> Exported:
    """A model as an ExecuTorch program; a plain or masked one is compacted first."""
    model = recurrent(model, "--format executorch", "; say --format onnx or torchscript")
    small = compact_form(model)
    data, width = to_executorch(small, card, quantize)
    eight = ", weights in 8 bits" if quantize == "int8" else ""
    inputs = f"inputs {small.spec.inputs:,} of {small.spec.features:,}"
    state = f"one frame a call, a state of {width:,} floats"
    return Exported({out: data}, f"{out}: ExecuTorch, {state}, {inputs}{eight}")


@torch.no_grad()
def to_executorch(small: SequenceClassifier, card: ModelCard, quantize: str = "none") -> tuple[bytes, int]:
    """A compact model as the bytes of a program, and how many floats its state is, zeros before the first frame.

    Raises InputError where executorch is missing, and for cells that run backwards.
    """
    module = Stepwise(small, int8 if quantize == "int8" else floats).eval()
    try:
        from executorch.exir import to_edge_transform_and_lower  # noqa: PLC0415 - an extra
    except (ImportError, OSError) as error:
        # OSError: its libraries are made for one release of torch and do not load beside another.
        raise InputError(
            f"--format executorch: pip install 'harfeat[executorch]', or say --format c ({error})"
        ) from error
    given = torch.zeros(1, small.spec.features), torch.zeros(1, module.width)
    told = metadata_of(small, card, FORMAT, VERSION) | {
        "features": str(small.spec.features),
        "state": str(module.width),
        "quantize": quantize,
    }
    program = to_edge_transform_and_lower(
        {"step": torch.export.export(module, given)},
        constant_methods={"harvib": json.dumps(told, sort_keys=True)},
    )
    return bytes(program.to_executorch().buffer), module.width
