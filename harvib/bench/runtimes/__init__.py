"""Where models run: a file here and a line in RUNTIMES each."""

from __future__ import annotations

from harvib.bench.runtimes.base import Prepared, Runtime, UnavailableError
from harvib.bench.runtimes.c import C, CLoop
from harvib.bench.runtimes.eager import Eager
from harvib.bench.runtimes.onnx import Int8Dynamic, Int8Weights, Onnx
from harvib.bench.runtimes.scripted import TorchScript
from harvib.errors import InputError

REFERENCE = "torch"

RUNTIMES: dict[str, Runtime] = {
    REFERENCE: Eager(),
    "torchscript": TorchScript(),
    "onnx": Onnx(),
    "onnx-int8": Int8Weights(),
    "onnx-int8-dynamic": Int8Dynamic(),
    "c": C(),
    "c-loop": CLoop(),
    "c-int8": C("int8"),
    "c-int8-loop": CLoop("int8"),
}

__all__ = ["REFERENCE", "RUNTIMES", "Prepared", "Runtime", "UnavailableError", "about", "chosen"]


def chosen(names: str) -> list[str]:
    """Runtimes by `--runtimes a,b`, in the order of RUNTIMES; empty: all. torch is always there, to compare with.

    Raises InputError.
    """
    asked = [word.strip() for word in names.split(",")] if names.strip() else list(RUNTIMES)
    if unknown := [name for name in asked if name not in RUNTIMES]:
        raise InputError(f"--runtimes {names}: {unknown[0] or 'nothing'}: choose from {', '.join(RUNTIMES)}")
    return [name for name in RUNTIMES if name in asked or name == REFERENCE]


def about(name: str) -> str:
    """What a runtime is here: its version, or why it cannot be had."""
    runtime = RUNTIMES[name]
    try:
        runtime.require()
    except UnavailableError as error:
        return str(error)
    return runtime.about()
