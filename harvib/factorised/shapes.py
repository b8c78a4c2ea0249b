"""The tensor networks by name: which cores there are and which indices each of them has.

An index is a row mode `m1`, `m2`, ... (the first holds the gates), a column mode `n1`, ..., or a bond. Bonds stand
in the order in which a `Factor` lists its ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harvib.errors import InputError


@dataclass(frozen=True)
class Network:
    """The labels of each core's indices; what labels the cores share, and no mode of the matrix, is a bond."""

    cores: tuple[tuple[str, ...], ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]

    @property
    def bonds(self) -> tuple[str, ...]:
        """The labels that are summed over, in order of their first appearance."""
        modes = {*self.rows, *self.columns}
        return tuple(dict.fromkeys(label for core in self.cores for label in core if label not in modes))


def _modes(letter: str, count: int) -> tuple[str, ...]:
    return tuple(f"{letter}{number}" for number in range(1, count + 1))


def tt(rows: int, columns: int) -> Network:
    """Tensor train matrix: core k is r_{k-1} x m_k x n_k x r_k, both ends open (Yang et al., ICML 2017)."""
    _paired("tt", rows, columns)
    bonds = ["", *_modes("r", rows - 1), ""]
    cores = tuple(
        tuple(label for label in (bonds[k - 1], f"m{k}", f"n{k}", bonds[k]) if label) for k in range(1, rows + 1)
    )
    return Network(cores, _modes("m", rows), _modes("n", columns))


def tr(rows: int, columns: int) -> Network:
    """Tensor ring: one core a column mode, then one a row mode, each r x mode x r (Pan et al., AAAI 2019).

    Bond 1 lies between the last core and the first, bond 2 between the first two.
    """
    modes = (*_modes("n", columns), *_modes("m", rows))
    bonds = _modes("r", len(modes))
    cores = tuple((bonds[k], mode, bonds[(k + 1) % len(modes)]) for k, mode in enumerate(modes))
    return Network(cores, _modes("m", rows), _modes("n", columns))


def bt(rows: int, columns: int) -> Network:
    """Block term: a sum of blocks, each a Tucker core r1 x ... x rd and d factors m_k x n_k x r_k (Ye, CVPR 2018).

    The block is an index that all cores share, and the first bond.
    """
    _paired("bt", rows, columns)
    ranks = _modes("r", rows)
    factors = tuple(("block", f"m{k}", f"n{k}", f"r{k}") for k in range(1, rows + 1))
    return Network((("block", *ranks), *factors), _modes("m", rows), _modes("n", columns))


def ht(rows: int, columns: int) -> Network:
    """Hierarchical Tucker: leaves m_k x n_k x r in a balanced binary tree of transfer cores (Yin et al., 2020).

    A transfer core has a bond to its parent, but the root, and one to each of its two children. The 1,245 weights
    that the paper prints for UCF11 do not follow from its modes with one rank for all leaves and one for all other
    bonds, wherever the gates stand; with free ranks dozens of choices give that number, so none is the paper's.
    """
    _paired("ht", rows, columns)
    cores: list[tuple[str, ...]] = []

    def grow(first: int, last: int, above: tuple[str, ...]) -> None:
        if first == last:
            cores.append((f"m{first}", f"n{first}", *above))
            return
        middle = (first + last) // 2
        below = f"r{first}-{middle}", f"r{middle + 1}-{last}"
        cores.append((*above, *below))
        grow(first, middle, (below[0],))
        grow(middle + 1, last, (below[1],))

    grow(1, rows, ())
    return Network(tuple(cores), _modes("m", rows), _modes("n", columns))


def cp(rows: int, columns: int) -> Network:
    """Canonical polyadic: a sum of products of one matrix r x mode for each mode; all share the one bond."""
    modes = (*_modes("n", columns), *_modes("m", rows))
    return Network(tuple(("r1", mode) for mode in modes), _modes("m", rows), _modes("n", columns))


def lowrank(rows: int, columns: int) -> Network:
    """Rows x r times r x columns."""
    if (rows, columns) != (1, 1):
        raise InputError("lowrank: has one mode of rows and one of columns")
    return Network((("m1", "r1"), ("r1", "n1")), ("m1",), ("n1",))


NETWORKS: dict[str, Callable[[int, int], Network]] = {
    "tt": tt, "bt": bt, "tr": tr, "ht": ht, "cp": cp, "lowrank": lowrank,
}  # fmt: skip
"""From the numbers of row and column modes."""


def _paired(kind: str, rows: int, columns: int) -> None:
    if rows != columns:
        raise InputError(f"{kind}: needs as many unit modes as input modes, not {rows} and {columns}")


def labels(cores: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """All labels, each once."""
    return tuple(dict.fromkeys(label for core in cores for label in core))
