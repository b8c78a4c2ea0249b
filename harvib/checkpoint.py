"""The state of an unfinished stage on disk, for an exact resume; safetensors only, no pickle."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from harvib.classifier import Classifier
from harvib.errors import InputError
from harvib.weights import write_tensors

_FILE = "state.safetensors"


@dataclass(frozen=True, eq=False)
class Best:
    """The best epoch so far, counted from 1: (validation score, -loss) and its weights."""

    score: tuple[float, float]
    weights: dict[str, Tensor]
    epoch: int


@dataclass(frozen=True, eq=False)
class Progress:
    """Where a stage stands: epochs done, the best of them, and what else its parts remember, by name."""

    epoch: int = 0
    best: Best | None = None
    memory: dict[str, Tensor] = field(default_factory=dict)


class Checkpoint:
    """The `last/` folder of a run; saves at most every `interval` seconds."""

    def __init__(self, folder: Path, interval: float = 20.0) -> None:
        self.path = folder / _FILE
        self._interval = interval
        self._saved = time.monotonic()

    def position(self) -> tuple[str, int] | None:
        """(stage, epochs done) of the saved state; None without one."""
        if not self.path.is_file():
            return None
        state, _ = self._read()
        return state["stage"], state["epoch"]

    def save(
        self,
        stage: str,
        progress: Progress,
        model: Classifier,
        optimizer: torch.optim.Optimizer,
        now: bool = False,
    ) -> None:
        """Save the state of a stage between two epochs, if it is time to, or `now`."""
        if not now and time.monotonic() - self._saved < self._interval:
            return
        best = progress.best
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        for index, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{slot}": value for slot, value in slots.items()}
        if best is not None:
            tensors |= {f"best.{name}": value for name, value in best.weights.items()}
        tensors |= {f"memory.{name}": value for name, value in progress.memory.items()}
        state = {"stage": stage, "epoch": progress.epoch}
        state |= {"best": None if best is None else [*best.score, best.epoch]}
        write_tensors(self.path, tensors, {"state": json.dumps(state)})
        self._saved = time.monotonic()

    def restore(self, stage: str, model: Classifier, optimizer: torch.optim.Optimizer) -> Progress:
        """Load the state of this stage; nothing is done where none of it is saved."""
        found = self.position()
        if found is None or found[0] != stage:
            return Progress()
        state, tensors = self._read()
        model.load_state_dict(_under("model.", tensors))
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in _under("optimizer.", tensors).items():
            index, slot = name.split(".", 1)
            slots.setdefault(int(index), {})[slot] = value
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
        best = None
        if state["best"] is not None:
            score, loss, epoch = state["best"]
            best = Best((score, loss), _under("best.", tensors), epoch)
        return Progress(state["epoch"], best, _under("memory.", tensors))

    def _read(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        try:
            with safe_open(self.path, "pt") as file:
                state = json.loads((file.metadata() or {})["state"])
                if "best" not in state:
                    raise ValueError("an earlier harvib wrote it")
                return state, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise InputError(f"{self.path}: damaged; delete it to begin its stage again ({error})") from error

    def clear(self) -> None:
        """Forget the state: the run is finished."""
        if self.path.parent.is_dir():
            shutil.rmtree(self.path.parent)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
