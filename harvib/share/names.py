"""Which files of a run folder travel: names that are known, within sizes that are. Nothing else is sent or taken.

Programs never travel, TorchScript and C among them, nor what only training needs: last/, maps/, tensorboard/.
"""

from __future__ import annotations

import re

CONFIG, REPORT, MODEL, BACKBONE = "config.json", "report.json", "model.safetensors", "backbone.safetensors"
METRICS, BENCH, QUANTIZE, PAGE = "metrics.csv", "bench.json", "quantize.json", "report.html"
ONNX = ".onnx"

FINAL = (CONFIG, REPORT, METRICS, MODEL, BACKBONE, BENCH, QUANTIZE, PAGE)
"""What is about the final model, beside the ONNX files, as far as a run has it."""

STAGES = ("plain.safetensors", "masked.safetensors", "plain-block.safetensors", "masked-block.safetensors")
"""The models that the final one came from."""

_MIB = 1 << 20
_LIMITS = {".json": 32 * _MIB, ".csv": 256 * _MIB, ".html": 256 * _MIB, ONNX: 2048 * _MIB, ".safetensors": 1 << 36}
"""The most bytes of a file, by its suffix. JSON becomes objects many times its size in memory."""

_ONNX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,80}\.onnx")
_STREAM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,80}")
_OTHERS = ("last", "maps", "tensorboard")


def is_stream(name: str) -> bool:
    """Whether the folder of a fused run's stream may be called so: a plain word that no other folder has."""
    return _STREAM.fullmatch(name) is not None and name.lower() not in _OTHERS


def divided(name: str) -> tuple[str, str]:
    """The stream ("" for none) and the rest of a file's name."""
    stream, _, rest = name.rpartition("/")
    return stream, rest


def travels(name: str) -> bool:
    """Whether this is the name of a file of a run folder, or of a stream of it, that may be sent and taken."""
    stream, rest = divided(name)
    known = rest in FINAL or rest in STAGES or _ONNX.fullmatch(rest) is not None
    return known and (is_stream(stream) if "/" in name else True)


def is_page(name: str) -> bool:
    """Whether this is a page, which is for people who see the address: a stranger's could hold programs."""
    return divided(name)[1] == PAGE


def limit_of(name: str) -> int:
    """The most bytes that a file with this name may have."""
    return _LIMITS[name[name.rindex(".") :]]
