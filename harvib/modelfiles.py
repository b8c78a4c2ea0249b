"""Any file that holds a whole model of harvib, told by how its name ends: a format that is read back, one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from harvib import onnxfile, scriptfile
from harvib.classifier import Classifier
from harvib.errors import InputError
from harvib.filed import FileClassifier
from harvib.weights import ModelCard, load_model

READERS: dict[str, Callable[[Path], tuple[FileClassifier, ModelCard]]] = {
    onnxfile.SUFFIX: onnxfile.load_onnx,
    scriptfile.SUFFIX: scriptfile.load_script,
}
_WRITTEN_ONLY = (".c", ".pte")


def load_any(path: Path) -> tuple[Classifier | FileClassifier, ModelCard]:
    """A model file, or what `harvib export` wrote in a format that is read back; InputError if it is bad."""
    if path.suffix in _WRITTEN_ONLY and path.is_file():
        raise InputError(
            f"{path}: harvib writes such files and does not read them: name the run, or its file that ends in "
            f".safetensors, {' or '.join(READERS)}"
        )
    return READERS.get(path.suffix, load_model)(path)


def features_of(model: Classifier | FileClassifier) -> int:
    """Values a row D that a model takes."""
    return model.features if isinstance(model, FileClassifier) else model.spec.features
