"""What a runtime offers to a benchmark: whether it is here, a model made ready in it, and what that takes.

A runtime is a file here and a line in RUNTIMES. It takes one model of one stream; `harvib.bench.subject` puts the
streams of a fused run together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from harvib.bench.timing import Frames
from harvib.classifier import Classifier
from harvib.weights import ModelCard


class UnavailableError(Exception):
    """A runtime is not here, or has no form of a model; the text tells why, in a few words."""


@dataclass(frozen=True)
class Shipped:
    """What a device gets: `bytes` of it, `what` that is, further figures of the same by name."""

    bytes: int
    what: str
    parts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Resident:
    """How a child process loads and runs the model: a loader of harvib/resident.py and what it is given."""

    loader: str
    arguments: Mapping[str, Any]


class Prepared(ABC):
    """One model in one runtime, ready to be called.

    `clips`: how often a call goes through its batch in a loop of its own, 0 where it has none; `static`, of models
    without a runtime, the bytes of memory that they need in all, by kind.
    """

    shipped: Shipped
    resident: Resident
    clips: int = 0
    static: Mapping[str, int] | None = None

    @abstractmethod
    def ready(self, features: Tensor, lengths: Tensor) -> Any:
        """Features (B, T, D) float32 and lengths (B,) as `clip` takes them."""

    @abstractmethod
    def clip(self, given: Any) -> Any:
        """A batch; this is what is timed."""

    @abstractmethod
    def logits(self, result: Any) -> Tensor:
        """What `clip` gave, or `see` of `frames`, as (B, C)."""

    def frames(self) -> Frames | None:
        """The model frame by frame, with its state; None where the runtime has no such form."""
        return None


class Runtime(ABC):
    """A way to run models. `title` names it in tables; `exact`: its logits are those of the Python model."""

    title: str
    exact: bool = True

    def require(self) -> None:  # noqa: B027 - most are always here
        """Raise UnavailableError where it cannot be had here."""

    @abstractmethod
    def prepare(self, model: Classifier, card: ModelCard, folder: Path, name: str) -> Prepared:
        """A model of one stream, its files written into `folder` under `name`.

        Raises UnavailableError where it has no such form.
        """

    def about(self) -> str:
        """What else must be known of it, such as its version."""
        return ""
