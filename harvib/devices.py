"""Where a model runs, and what to call that machine beside a figure."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from harvib.errors import InputError


def best_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_of(name: str) -> torch.device:
    """A device by name; `auto` is the GPU where there is one. InputError where it cannot be used here."""
    if name == "auto":
        return best_device()
    try:
        device = torch.device(name)
        # There and back: `meta` takes tensors but holds no numbers.
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: cannot be used here: {reason}") from error
    return device


def lacks_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, of the GPU or not: of the latter torch only says so in words."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def machine() -> str:
    """The processor, its number of cores and its SIMD level, in one line."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    name = next(names, platform.processor() or platform.machine())
    return f"{name}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, {platform.system()}"
