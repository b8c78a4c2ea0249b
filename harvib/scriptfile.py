"""Models in TorchScript files that harvib wrote, read back: torch alone runs them.

Such a file holds a program, and whoever loads it runs that: only a file that says it is harvib's is loaded, and
saying so proves nothing. Take them from people you trust.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
import zlib
from pathlib import Path

import torch
from torch import Tensor, nn

from harvib.errors import InputError
from harvib.filed import FileClassifier
from harvib.weights import ModelCard

FORMAT, VERSION = "harvib-torchscript", 1
SUFFIX = ".pt"
TOLD = "harvib.json"
"""The name under which a file tells of itself: torch.jit.load gives it as one of the `_extra_files`."""
_LARGEST = 16 << 20
"""Bytes that this may have."""
DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, LookupError, RuntimeError)
"""What zipfile and PyTorch raise on damaged archives."""


class ScriptClassifier(FileClassifier):
    """By torch."""

    def __init__(self, module: nn.Module, features: int, classes: int, parameters: dict[str, int]) -> None:
        super().__init__(features, classes, parameters)
        self.module = module

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        found: Tensor = self.module(x.float(), lengths.long())
        return found


def load_script(path: Path) -> tuple[ScriptClassifier, ModelCard]:
    """Read a TorchScript file of harvib; InputError, one line, where it is missing, damaged or another's."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    return read_script(data, str(path))


def read_script(data: bytes, where: str) -> tuple[ScriptClassifier, ModelCard]:
    """The same from the bytes of a file; `where` names it in errors."""
    told = _told(data, where)
    if told.get("format") != FORMAT:
        raise InputError(f"{where}: not a TorchScript file of harvib (no format in its metadata)")
    if told.get("version") != str(VERSION):
        raise InputError(f"{where}: version {told.get('version')}; this program reads {VERSION}: update it")
    try:
        card = ModelCard.told(told)
        parameters = {str(kind): int(count) for kind, count in json.loads(told["parameters"]).items()}
        features = int(told["features"])
        with warnings.catch_warnings():
            as_before()
            module = torch.jit.load(io.BytesIO(data), map_location="cpu")
        # What a clip of one step gives tells whether the program is that of its classes.
        with torch.no_grad():
            found = module(torch.zeros(1, 1, features), torch.ones(1, dtype=torch.long))
        if found.shape != (1, len(card.classes)):
            raise ValueError("its outputs do not fit its class names")
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        first = str(error).strip().partition("\n")[0]
        raise InputError(f"{where}: cannot be understood: {first}: file damaged") from error
    return ScriptClassifier(module.eval(), features, len(card.classes), parameters), card


def as_before() -> None:
    """Within warnings.catch_warnings: not again what PyTorch says at each call: the format has a successor."""
    warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", FutureWarning)


def _told(data: bytes, where: str) -> dict[str, str]:
    """What a file tells of itself, read without running anything; empty where it is another's."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [name for name in archive.namelist() if name.endswith(f"/extra/{TOLD}")]
            if not names:
                return {}
            with archive.open(names[0]) as stream:
                text = stream.read(_LARGEST)
            # PyTorch does not look at the sums.
            if (bad := archive.testzip()) is not None:
                raise InputError(f"{where}: its {bad} is not what was written: file damaged")
        told = json.loads(text)
    except DAMAGE as error:
        raise InputError(f"{where}: not a readable TorchScript file: {error}") from error
    if not isinstance(told, dict) or not all(isinstance(value, str) for value in told.values()):
        raise InputError(f"{where}: not a readable TorchScript file: its {TOLD} is no table of texts")
    return told
