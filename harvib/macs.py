"""Multiply-accumulates of a model, from its shapes alone.

Counted are the products with weight matrices: of every cell those with its inputs and with its states, once a
step, and the head, once a clip. Not counted is what costs no product with a matrix: gates, standardisation, masks,
means over time. A mean over time with a linear head therefore costs nothing a step.
"""

from __future__ import annotations

from dataclasses import dataclass

from harvib.classifier import Classifier

COUNTED = (
    "Multiply-accumulates (MACs) are those of the products with weight matrices: inputs and states once a step, "
    "the head once a clip; elementwise work and means over time are not counted. Of a structured matrix they are "
    "those of the way its product takes: contractions, transforms, or the matrix rebuilt."
)


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of the cells by step, and of a whole clip with the head.

    A structured matrix may be rebuilt once a clip: `step` then has its share of that, rounded.
    """

    step: int
    clip: int


def macs_of(model: Classifier, steps: int) -> Macs:
    """Of a model on one clip of `steps` steps, each cell by its own count."""
    before, head = model.macs(steps)
    return Macs(round(before / steps), before + head)
