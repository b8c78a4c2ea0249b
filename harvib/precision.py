"""In which numbers a model is trained: forward and backward in half precision where asked for, the rest float32.

Weights, masks, optimiser, KL, loss and gradients of the weights are float32 in every case (torch.autocast casts
what a matrix product reads, not what is stored), and so is every evaluation. float16 has a narrow range, so its
gradients are computed of the loss times a scale that torch's GradScaler finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from harvib.errors import InputError

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


def dtype_of(name: str, device: torch.device) -> torch.dtype:
    """The numbers that `name` means on a device; `auto` is bfloat16 on GPUs that compute in it, else float32.

    Raises InputError where the device has no use for them.
    """
    if name == "auto":
        if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16
        return torch.float32
    if name == "float16" and device.type != "cuda":
        raise InputError(f"--precision float16: needs a GPU, this run is on {device}; say bfloat16 or float32")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


class Arithmetic:
    """One stage's forward and backward in `dtype`."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype, self._device = dtype, device
        self._scaler = torch.amp.GradScaler(device.type) if dtype == torch.float16 else None

    def forward(self) -> AbstractContextManager[Any]:
        """The context of a forward pass."""
        if self._dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self._device.type, self._dtype)

    @property
    def scale(self) -> float:
        """What `backward` multiplies the gradients by, until `step` undoes it."""
        return 1.0 if self._scaler is None else float(self._scaler.get_scale())

    def backward(self, loss: Tensor) -> None:
        """Gradients of the loss, scaled where float16 needs it."""
        (loss if self._scaler is None else self._scaler.scale(loss)).backward()

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, clip_norm: float) -> bool | None:
        """Clip the gradients and step; whether the weights moved, None where training has diverged.

        float16 gradients that overflow are no divergence: the step is left out and the scale halved, until
        nothing is left to halve.
        """
        if self._scaler is None:
            if not torch.isfinite(nn.utils.clip_grad_norm_(model.parameters(), clip_norm)):
                return None
            optimizer.step()
            return True
        self._scaler.unscale_(optimizer)
        finite = bool(torch.isfinite(nn.utils.clip_grad_norm_(model.parameters(), clip_norm)))
        # Its own look at the gradients agrees with the norm, or sees one overflow less: a sum of finite squares.
        if finite:
            self._scaler.step(optimizer)
        before = 0.0 if finite else self._scaler.get_scale()
        self._scaler.update()
        if finite:
            return True
        if self._scaler.get_scale() >= before:
            self._scaler.update(before / 2)
        return False if before > 1 else None

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: scale and steps since it last changed; empty without a scale."""
        if self._scaler is None:
            return {}
        found = self._scaler.state_dict()
        return {"scaler": torch.tensor([found["scale"], found["_growth_tracker"]], dtype=torch.float64)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up from `state`."""
        if self._scaler is not None and "scaler" in state:
            scale, tracker = state["scaler"].tolist()
            fresh = self._scaler.state_dict()
            self._scaler.load_state_dict({**fresh, "scale": scale, "_growth_tracker": int(tracker)})
