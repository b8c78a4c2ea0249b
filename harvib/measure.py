"""What models are chosen by, as reports tell it: accuracy, or GAP@20 where clips have several labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ACCURACY, GAP = "accuracy", "GAP@20"


def score_of(figures: Mapping[str, Any]) -> dict[str, float]:
    """The score by part (validation, test), from the figures of a state in report.json."""
    return dict(figures.get("gap", figures["accuracy"]))


def parts_named(measure: str) -> list[str]:
    """Heads of the columns of both parts' scores; of accuracy the parts alone, as they have always been called."""
    return [part if measure == ACCURACY else f"{part} {measure}" for part in ("validation", "test")]


def measure_of(report: Mapping[str, Any]) -> str:
    """What the score is called; what was written before there were several labels does not tell."""
    return str(report.get("measure", ACCURACY))
