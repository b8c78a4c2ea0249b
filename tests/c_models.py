"""Models that were exported as C, compiled with all warnings as errors and called through ctypes."""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from rounded import rounded
from torch import Tensor

from harvib.export.c import to_c
from harvib.models import SequenceClassifier
from harvib.weights import ModelCard

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wvla", "-Wshadow", "-Wdouble-promotion")
COMPILER = shutil.which("gcc") or shutil.which("cc")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler (gcc or cc) is installed")

_COUNT = itertools.count()
_Floats = ctypes.POINTER(ctypes.c_float)


def compiled(source: Path, *flags: str, out: str = "", compiler: str = "") -> Path:
    """The object or library that a compiler makes of a file with these flags; no warning passes."""
    # A loaded library stays loaded under its name.
    target = source.with_name(out or f"{next(_COUNT)}.so")
    command = [compiler or str(COMPILER), *STRICT, *(flags or ("-O2", "-shared", "-fPIC")), "-o", str(target)]
    done = subprocess.run(
        [*command, str(source), "-lm"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return target


class CModel:
    """Its four functions with numpy arrays."""

    def __init__(self, library: Path, name: str, features: int, classes: int) -> None:
        self.library = ctypes.CDLL(str(library))
        self.name, self.features, self.classes = name, features, classes

    def call(self, which: str, *arguments: object) -> None:
        function = self.library[f"{self.name}_{which}"]
        function.restype = None
        function(*arguments)

    def clip(self, features: np.ndarray) -> np.ndarray:
        rows, logits = np.ascontiguousarray(features, np.float32), np.full(self.classes + 1, 7, np.float32)
        self.call("clip", _at(rows), ctypes.c_size_t(len(rows)), _at(logits))
        assert logits[-1] == 7, "written behind its end"
        return logits[:-1]

    def names(self) -> list[str]:
        found = (ctypes.c_char_p * self.classes).in_dll(self.library, f"{self.name}_classes")
        return [(name or b"").decode() for name in found]

    def text(self, which: str) -> str:
        return ctypes.string_at(
            ctypes.addressof(ctypes.c_char.in_dll(self.library, f"{self.name}_{which}"))
        ).decode()


class Stream:
    """A state of so many bytes between bytes that must stay."""

    def __init__(self, model: CModel, size: int) -> None:
        self._model, self._size = model, size
        # Whatever stood there before.
        self._room = (ctypes.c_ubyte * (size + 16))(*[0xA5] * (size + 16))
        self._state = ctypes.byref(self._room, 8)
        self.begin()

    def begin(self) -> None:
        self._model.call("init", self._state)

    def see(self, frame: np.ndarray) -> None:
        row = np.ascontiguousarray(frame, np.float32)
        self._model.call("step", self._state, _at(row))

    def logits(self) -> np.ndarray:
        found = np.zeros(self._model.classes, np.float32)
        self._model.call("logits", self._state, _at(found))
        around = [*self._room[:8], *self._room[self._size + 8 :]]
        assert around == [0xA5] * 16, "written outside of the state"
        return found


def _at(values: np.ndarray) -> object:
    return values.ctypes.data_as(_Floats)


def built(small: SequenceClassifier, card: ModelCard, folder: Path, quantize: str = "none") -> tuple[CModel, int]:
    """The compiled C of a model, and the bytes of its state as the exporter tells them."""
    name = f"m{next(_COUNT)}"
    files = to_c(small, card, name, f"{name}.h", quantize)
    (folder / f"{name}.h").write_text(files.header)
    (folder / f"{name}.c").write_text(files.source)
    library = compiled(folder / f"{name}.c")
    return CModel(library, name, small.spec.features, small.spec.classes), files.state


def assert_equal(
    small: SequenceClassifier,
    card: ModelCard,
    folder: Path,
    lengths: tuple[int, ...] = (1, 2, 9),
    quantize: str = "none",
) -> None:
    """Whole clips and streams have the logits of the Python model, at the end and at every frame before.

    With int8 the Python model is the one with the values that the codes stand for.
    """
    model, size = built(small, card, folder, quantize)
    small = rounded(small) if quantize == "int8" else small
    for length in lengths:
        x = torch.randn(1, length, small.spec.features)
        stream = Stream(model, size)
        for step in range(length):
            stream.see(x[0, step].numpy())
            assert_close(stream.logits(), logits_of(small, x[:, : step + 1]))
        assert np.array_equal(stream.logits(), model.clip(x[0].numpy()))


@torch.no_grad()
def logits_of(small: SequenceClassifier, x: Tensor) -> np.ndarray:
    found: np.ndarray = small(x, torch.tensor([x.shape[1]]))[0].numpy()
    return found


def assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert float(np.abs(ours - theirs).max()) <= 1e-5 * max(1.0, float(np.abs(theirs).max()))
