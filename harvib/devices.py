"""Where a model runs."""

from __future__ import annotations

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
