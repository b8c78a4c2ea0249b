"""From the words of a command to a `Factor`: modes and ranks that are named, and balanced ones else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from harvib.errors import InputError
from harvib.factorised.base import Factor
from harvib.factorised.circulant_matrix import CIRCULANTS, circulant
from harvib.factorised.shapes import NETWORKS
from harvib.factorised.sparse import sparse

_USUAL = 8
"""Modes have about this size where nobody says how many there are."""
_UNBALANCED = 4
"""A mode may be so many times larger than it would be if all were equal."""


@dataclass(frozen=True)
class Asked:
    """What of a structured matrix a user can say; empty texts: not said."""

    kind: str
    rank: int = 4
    ranks: str = ""
    input_modes: str = ""
    unit_modes: str = ""
    blocks: int = 2
    factors: int = 1

    def __post_init__(self) -> None:
        for option, text, mark in (
            ("--ranks", self.ranks, ","),
            ("--input-modes", self.input_modes, "x"),
            ("--unit-modes", self.unit_modes, "x"),
        ):
            if numbers(option, text, mark) and self.kind not in NETWORKS:
                raise InputError(f"{option}: a {self.kind} matrix has neither modes nor ranks; leave it out")
        if self.rank != type(self).rank and self.kind not in NETWORKS:
            raise InputError(f"--rank {self.rank}: a {self.kind} matrix has no ranks; leave it out")
        if self.blocks != type(self).blocks and self.kind != "bt":
            raise InputError(f"--blocks {self.blocks}: only block terms have blocks, not {self.kind}")
        if self.factors > 1 and self.kind not in CIRCULANTS:
            raise InputError(f"--factors {self.factors}: only circulant matrices are multiplied, not {self.kind}")


def input_factor(asked: Asked, rows_a_unit: int, units: int, inputs: int) -> Factor:
    """The matrix that reads `inputs`; the rows of a unit, one a gate, multiply its first unit mode.

    Raises InputError.
    """
    rows, columns = _unit_modes(asked, units, inputs), _input_modes(asked, inputs, units)
    return _factor(asked, (rows[0] * rows_a_unit, *rows[1:]), columns, numbers("--ranks", asked.ranks, ","))


def hidden_factor(asked: Asked, rows_a_unit: int, units: int, inputs: int) -> Factor:
    """W_hh of the same kind: the unit modes on both sides, every bond of `rank`. Raises InputError."""
    rows = _unit_modes(asked, units, inputs)
    return _factor(asked, (rows[0] * rows_a_unit, *rows[1:]), rows, ())


def numbers(option: str, text: str, mark: str) -> tuple[int, ...]:
    """Whole numbers above 0 with a mark between them; none where the text is empty. Raises InputError."""
    if not text:
        return ()
    words = text.split(mark)
    if not all(word.isascii() and word.isdigit() and int(word) > 0 for word in words):
        raise InputError(f"{option} {text}: must be whole numbers above 0 with {mark} between them")
    return tuple(int(word) for word in words)


@lru_cache(maxsize=4096)
def balanced(size: int, count: int) -> tuple[int, ...]:
    """`size` as a product of `count` factors with the smallest sum, ascending."""
    if count == 1:
        return (size,)
    found = ((first, *balanced(size // first, count - 1)) for first in _divisors(size))
    return tuple(sorted(min(found, key=sum)))


def _factor(asked: Asked, rows: tuple[int, ...], columns: tuple[int, ...], ranks: tuple[int, ...]) -> Factor:
    network = NETWORKS.get(asked.kind)
    if asked.kind == "sparse":
        return sparse(rows[0], columns[0])
    if network is None:
        return circulant(asked.kind, rows[0], columns[0], asked.factors)
    bonds = network(len(rows), len(columns)).bonds
    free = len(bonds) - (asked.kind == "bt")
    if ranks and len(ranks) != free:
        raise InputError(f"--ranks: {asked.kind} with these modes has {free} bonds, not {len(ranks)}")
    ranks = ranks or (asked.rank,) * free
    return Factor(asked.kind, rows, columns, (asked.blocks, *ranks) if asked.kind == "bt" else ranks)


def _input_modes(asked: Asked, inputs: int, units: int) -> tuple[int, ...]:
    named = numbers("--input-modes", asked.input_modes, "x")
    return _checked("--input-modes", named, inputs, "inputs") or _modes(
        inputs, _count(asked, asked.unit_modes, inputs), "inputs: name their --input-modes, or say --select-inputs"
    )


def _unit_modes(asked: Asked, units: int, inputs: int) -> tuple[int, ...]:
    named = numbers("--unit-modes", asked.unit_modes, "x")
    size = inputs if _paired(asked) else units
    return _checked("--unit-modes", named, units, "units") or _modes(
        units, _count(asked, asked.input_modes, size), "units: name their --unit-modes, or take"
    )


def _checked(option: str, modes: tuple[int, ...], size: int, what: str) -> tuple[int, ...]:
    if modes and math.prod(modes) != size:
        raise InputError(f"{option} {'x'.join(map(str, modes))}: gives {math.prod(modes):,}, not {size:,} {what}")
    return modes


def _paired(asked: Asked) -> bool:
    """Whether there must be as many unit modes as input modes."""
    return asked.kind in ("tt", "bt", "ht")


def _count(asked: Asked, other: str, size: int) -> int:
    """How many modes a side of so many has, the modes of the `other` being named or not."""
    if asked.kind not in NETWORKS or asked.kind == "lowrank":
        return 1
    if _paired(asked) and other:
        return other.count("x") + 1
    return max(2, min(4, round(math.log(size) / math.log(_USUAL))))


def _modes(size: int, count: int, remedy: str) -> tuple[int, ...]:
    modes = balanced(size, count)
    if count == 1 or not _is_unbalanced(size, modes):
        return modes
    near = next(less for less in range(size - 1, 0, -1) if not _is_unbalanced(less, balanced(less, count)))
    raise InputError(f"{size} do not divide into {count} balanced modes; {near} would. Of {remedy} {near}")


def _is_unbalanced(size: int, modes: tuple[int, ...]) -> bool:
    return max(modes) > _UNBALANCED * size ** (1 / len(modes))


def _divisors(size: int) -> Iterator[int]:
    return (number for number in range(1, size + 1) if size % number == 0)
