"""What a user may choose about quantisation; without onnxruntime, so that the command line can tell of it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from harvib.errors import InputError

NAMES = ("int8-weights", "int8-dynamic", "int8-static", "int4-weights")
"""The schemes; harvib/quantize/schemes.py has them in the same order."""


@dataclass(frozen=True)
class QuantizeSettings:
    """How latency is measured, on clips as long as the longest of the test part; validated when made."""

    repeats: int = field(default=50, metadata={"help": "calls of each model that count for its latency"})
    threads: int = field(default=1, metadata={"help": "threads of torch and onnxruntime"})

    def __post_init__(self) -> None:
        for item in fields(self):
            if getattr(self, item.name) < 1:
                raise InputError(f"--{item.name} {getattr(self, item.name)}: must be at least 1")
