"""torch on the TorchScript file that `harvib export` writes: no Python between the steps of a model."""

from __future__ import annotations

from pathlib import Path

import torch

from harvib.bench.runtimes.base import Prepared, Resident, Runtime, Shipped, UnavailableError
from harvib.bench.runtimes.eager import InTorch
from harvib.classifier import Classifier
from harvib.errors import InputError
from harvib.export import exported_bytes
from harvib.scriptfile import load_script
from harvib.weights import ModelCard, write_bytes


class TorchScript(Runtime):
    """Weights as floats: in 8 bits such files are smaller, not faster."""

    title = "torchscript"

    def prepare(self, model: Classifier, card: ModelCard, folder: Path, name: str) -> Prepared:
        try:
            ((written, data),) = exported_bytes(model, card, "torchscript", name=name).items()
        except InputError as error:
            raise UnavailableError(str(error).removeprefix("--format torchscript: ")) from error
        file = folder / written
        write_bytes(file, data)
        shipped = Shipped(file.stat().st_size, "TorchScript")
        return InTorch(load_script(file)[0].module, shipped, Resident("torchscript", {"file": str(file)}))

    def about(self) -> str:
        return f"torch {torch.__version__}"
