"""Models in ONNX files that harvib wrote, read back: a file says all by itself, and onnxruntime runs it.

What a file may hold is what harvib writes: operators of ONNX's own domain and numbers within the file. References
to other files and functions of other domains are refused before anything runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harvib.errors import InputError
from harvib.filed import FileClassifier
from harvib.weights import ModelCard

FORMAT, VERSION = "harvib-onnx", 1
SUFFIX = ".onnx"


class OnnxClassifier(FileClassifier):
    """By onnxruntime on the CPU with torch's threads."""

    def __init__(self, session: Any, features: int, classes: int, parameters: dict[str, int], where: str) -> None:
        super().__init__(features, classes, parameters)
        self._session = session
        self._where = where

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        given = {"features": x.float().cpu().numpy(), "lengths": lengths.long().cpu().numpy()}
        try:
            return torch.from_numpy(self._session.run(["logits"], given)[0])
        except Exception as error:  # onnxruntime's errors have no common class but this
            told = " ".join(str(error).split())
            raise InputError(f"{self._where}: cannot be run: {told:.200}: file damaged") from error


def load_onnx(path: Path) -> tuple[OnnxClassifier, ModelCard]:
    """Read an ONNX file that harvib wrote; InputError, one line, where it is missing, damaged or another's."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    return read_onnx(data, str(path))


def read_onnx(data: bytes, where: str) -> tuple[OnnxClassifier, ModelCard]:
    """The same from the bytes of a file; `where` names it in errors."""
    proto, told = _parsed(data, where)
    if told.get("format", "").startswith("harvib-pipeline"):
        raise InputError(
            f"{where}: it begins at the frames of a video; name the run, or NAME-model.onnx beside it"
        )
    if told.get("format") != FORMAT:
        raise InputError(f"{where}: not an ONNX file of harvib (no format in its metadata)")
    if told.get("version") != str(VERSION):
        raise InputError(f"{where}: version {told.get('version')}; this program reads {VERSION}: update it")
    _require_plain(proto, where)
    try:
        card = ModelCard.told(told)
        parameters = {str(kind): int(count) for kind, count in json.loads(told["parameters"]).items()}
        opened = session(data)
        shapes = {item.name: item.shape for item in (*opened.get_inputs(), *opened.get_outputs())}
        features, classes = shapes["features"][2], shapes["logits"][1]
        if type(features) is not int or classes != len(card.classes) or shapes["lengths"] != ["B"]:
            raise ValueError("its inputs and outputs do not fit its class names")
    except Exception as error:  # onnxruntime's errors have no common class but this
        raise InputError(f"{where}: cannot be understood: {str(error).splitlines()[0]}: file damaged") from error
    return OnnxClassifier(opened, features, classes, parameters, where), card


def session(model: bytes | Path) -> Any:
    """An ONNX file in onnxruntime, on the CPU, with torch's threads; its errors have no common class."""
    import onnxruntime  # noqa: PLC0415 - an extra

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    # Errors are raised all the same; only what is fatal is printed.
    options.log_severity_level = 4
    source = str(model) if isinstance(model, Path) else model
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def read_metadata(path: Path) -> dict[str, str]:
    """What an ONNX file of any kind that harvib writes tells of itself; InputError as of `load_onnx`."""
    try:
        proto, told = _parsed(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if not told.get("format", "").startswith("harvib-"):
        raise InputError(f"{path}: not an ONNX file of harvib (no format in its metadata)")
    _require_plain(proto, str(path))
    return told


def _parsed(data: bytes, where: str) -> tuple[Any, dict[str, str]]:
    needs_onnx()
    import onnx  # noqa: PLC0415 - an extra
    from google.protobuf.message import DecodeError  # noqa: PLC0415 - comes with onnx

    try:
        proto = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise InputError(f"{where}: not a readable ONNX file: {error}") from error
    told = {item.key: item.value for item in proto.metadata_props}
    if any(isinstance(part, bytes) for pair in told.items() for part in pair):  # what is no UTF-8
        raise InputError(f"{where}: its metadata is no text: file damaged")
    return proto, told


def needs_onnx() -> None:
    """Raise InputError where onnx or onnxruntime is not installed."""
    try:
        import onnx  # noqa: F401, PLC0415 - an extra
        import onnxruntime  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise InputError("ONNX files need onnx and onnxruntime: pip install 'harfeat[quantize]'") from error


def _require_plain(proto: Any, where: str) -> None:
    graphs = [proto.graph]
    for graph in graphs:
        for node in graph.node:
            if node.domain not in ("", "ai.onnx"):
                raise InputError(f"{where}: operator {node.domain}.{node.op_type} is none of ONNX: not harvib's")
            graphs += [item.g for item in node.attribute if item.HasField("g")]
            graphs += [inner for item in node.attribute for inner in item.graphs]
        inner = [item.t for node in graph.node for item in node.attribute if item.HasField("t")]
        if any(tensor.external_data or tensor.data_location for tensor in (*graph.initializer, *inner)):
            raise InputError(f"{where}: it refers to data in another file: not harvib's")
    if proto.functions:
        raise InputError(f"{where}: it brings functions of its own: not harvib's")
