"""A model that sees a clip row by row and tells its logits at each: those of the clip so far.

`Stream` carries the state from row to row, so that a row costs the same whenever it comes and a stream needs no
end. What cannot be carried on (a cell that reads clips backwards, a model that pools frames, an ONNX file) is
computed anew over all rows so far: `Replay`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from harvib.errors import InputError
from harvib.kernels import Carried
from harvib.models import SequenceClassifier

MOST_ROWS = 4096
"""Rows that `Replay` holds: what it computes at each grows with them."""


class Running(Protocol):
    """Rows in, logits of all rows since the last restart out."""

    carries: bool
    """Whether a row costs the same however many came before."""

    def see(self, row: Tensor) -> Tensor:
        """One row of features (D,) to logits (C,). Raises InputError where it is not of the model's size."""

    def restart(self) -> None:
        """Forget all rows."""


class Stream:
    """A causal model of recurrent cells or their like, in evaluation, with the weights that it has at first.

    At each step the logits equal `model(rows so far)` up to rounding. Raises InputError where the model has to see
    a whole clip.
    """

    carries = True

    def __init__(self, model: nn.Module) -> None:
        if (why := why_not(model)) is not None:
            raise InputError(f"no stream of it: {why}")
        assert isinstance(model, SequenceClassifier)
        self._model = model.eval()
        with torch.inference_mode():
            self._step = model.recurrent.stepper()
        self._averages = model.spec.readout == "mean"
        self.restart()

    def restart(self) -> None:
        self._carried: list[Carried] = []
        # In float64: a stream may be long.
        self._total: Tensor | float = 0.0
        self._count = 0

    @torch.inference_mode()
    def see(self, row: Tensor) -> Tensor:
        x = self._model.read(_checked(row, self._model.spec.features).to(self._model.selection.device)[None, None])
        state, self._carried = self._step(x[0], self._carried)
        self._count += 1
        if self._averages:
            self._total = self._total + state.double()
            state = (self._total / self._count).to(state.dtype)
        logits: Tensor = self._model.head(state)[0]
        return logits


class Replay:
    """Any model: at each row it runs over all rows so far, at most MOST_ROWS of them."""

    carries = False

    def __init__(self, model: nn.Module, features: int, device: torch.device) -> None:
        self._model, self._features, self._device = model.eval(), features, device
        self._rows: list[Tensor] = []

    def restart(self) -> None:
        self._rows.clear()

    @torch.inference_mode()
    def see(self, row: Tensor) -> Tensor:
        if len(self._rows) == MOST_ROWS:
            raise InputError(
                f"{MOST_ROWS:,} rows: this model runs over all rows so far at each; say --restart-every "
                f"{MOST_ROWS} or less"
            )
        self._rows.append(_checked(row, self._features).to(self._device))
        lengths = torch.tensor([len(self._rows)], device=self._device)
        logits: Tensor = self._model(torch.stack(self._rows)[None], lengths)[0]
        return logits


def running(model: Any, features: int, device: torch.device) -> Running:
    """A stream of a model of so many features a row that carries its state where it can, else runs anew."""
    return Stream(model) if why_not(model) is None else Replay(model, features, device)


def why_not(model: nn.Module) -> str | None:
    """Why a model cannot carry its state from row to row; None where it can."""
    if not isinstance(model, SequenceClassifier):
        return "it pools the frames of a clip" if hasattr(model, "spec") else "its file has no state to carry on"
    return None if model.recurrent.causal else "it reads clips backwards too"


def _checked(row: Tensor | Sequence[float], features: int) -> Tensor:
    values = torch.as_tensor(row)
    if values.shape != (features,):
        raise InputError(f"a row of shape {tuple(values.shape)}; the model was made for {features} values")
    return values
