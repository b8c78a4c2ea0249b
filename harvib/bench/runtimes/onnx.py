"""onnxruntime on ONNX files as `harvib export` and `harvib quantize` write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harvib.bench.runtimes.base import Prepared, Resident, Runtime, Shipped, UnavailableError
from harvib.classifier import Classifier
from harvib.errors import InputError
from harvib.export.torch import compact_form
from harvib.models import recurrent
from harvib.onnxfile import needs_onnx, session
from harvib.weights import ModelCard, write_bytes


class _Session(Prepared):
    def __init__(self, file: Path) -> None:
        self._run = session(file).run
        self.shipped = Shipped(file.stat().st_size, "ONNX")
        self.resident = Resident("onnx", {"file": str(file)})

    def ready(self, features: Tensor, lengths: Tensor) -> Any:
        return {"features": features.contiguous().numpy(), "lengths": lengths.numpy()}

    def clip(self, given: Any) -> Any:
        return self._run(None, given)

    def logits(self, result: Any) -> Tensor:
        return torch.from_numpy(result[0])


class Onnx(Runtime):
    """A float32 graph, or one by a scheme of harvib/quantize/schemes.py."""

    title = "onnxruntime"

    def __init__(self, scheme: str = "") -> None:
        self._scheme = scheme

    def require(self) -> None:
        try:
            needs_onnx()
        except InputError as error:
            raise UnavailableError(str(error)) from error

    def prepare(self, model: Classifier, card: ModelCard, folder: Path, name: str) -> Prepared:
        from harvib.export.matrices import Float32  # noqa: PLC0415 - an extra
        from harvib.export.onnx import to_onnx  # noqa: PLC0415 - an extra
        from harvib.quantize.schemes import SCHEMES  # noqa: PLC0415 - an extra

        file = folder / f"{name}{self._scheme and f'-{self._scheme}'}.onnx"
        try:
            small = compact_form(recurrent(model, "an ONNX form"))
            proto = to_onnx(small, card, SCHEMES[self._scheme] if self._scheme else Float32())
        except InputError as error:
            raise UnavailableError(str(error)) from error
        write_bytes(file, proto.SerializeToString(deterministic=True))
        return _Session(file)

    def about(self) -> str:
        import onnxruntime  # noqa: PLC0415 - an extra

        return f"onnxruntime {onnxruntime.__version__}"


class Int8Weights(Onnx):
    """Weights in 8 bits, products in floats."""

    title, exact = "onnxruntime, int8 weights", False

    def __init__(self) -> None:
        super().__init__("int8-weights")


class Int8Dynamic(Onnx):
    """Products of whole numbers of 8 bits."""

    title, exact = "onnxruntime, int8 products", False

    def __init__(self) -> None:
        super().__init__("int8-dynamic")
