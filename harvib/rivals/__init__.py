"""The methods of `harvib compare`: by name a recipe each, in files by kind of model."""

from __future__ import annotations

from harvib.rivals.base import TRIALS, NoModelError, Rival, Task
from harvib.rivals.clusters import CLUSTERS
from harvib.rivals.factorised import FACTORISED
from harvib.rivals.feedforward import FEEDFORWARD
from harvib.rivals.pooled import POOLED
from harvib.rivals.recurrent import RECURRENT

METHODS: dict[str, Rival] = {**RECURRENT, **POOLED, **FEEDFORWARD, **CLUSTERS, **FACTORISED}

__all__ = ["METHODS", "TRIALS", "NoModelError", "Rival", "Task"]
