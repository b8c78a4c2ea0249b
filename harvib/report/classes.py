"""What a page tells of each class: how many of its clips are recognised, and what they are taken for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Mistake:
    """The class that clips of another are most often taken for, and how many of them."""

    number: int
    name: str
    clips: int


@dataclass(frozen=True)
class ClassFigures:
    """What the final model does with the test clips of one class; classes are numbered from 1."""

    number: int
    name: str
    clips: int
    right: int
    mistaken: Mistake | None

    @property
    def accuracy(self) -> float | None:
        """Share of its clips that are recognised, 0 to 1; None where the test part has none."""
        return self.right / self.clips if self.clips else None


def class_figures(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> list[ClassFigures]:
    """One line a class, in their order, from (C, C) counts with rows true and columns predicted."""
    lines = []
    for index, (name, row) in enumerate(zip(classes, confusion, strict=True)):
        wrong = [0 if other == index else count for other, count in enumerate(row)]
        worst = max(range(len(row)), key=wrong.__getitem__)
        mistaken = Mistake(worst + 1, classes[worst], wrong[worst]) if wrong[worst] else None
        lines.append(ClassFigures(index + 1, name, sum(row), row[index], mistaken))
    return lines
