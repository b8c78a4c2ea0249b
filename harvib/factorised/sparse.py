"""A sparse matrix: any of its entries may be zero, and a VIB mask on each decides which are.

Its plain form is dense. Masked, an entry is W_rc * z_rc, so that what leaves is single connections and no group of
them: the finest granularity of the bottleneck, and that of sparse variational dropout (Molchanov et al., ICML
2017), with the prior of VIBNet. Where few of thousands of inputs matter to each output, and not the same ones to
all, a budget of entries goes further than one of whole inputs.

Compact it holds the entries that stay, each with its place. An entry counts as one parameter. Its place is no
parameter, as the index of an input that a dense matrix keeps is none, but there is one for every entry; bytes on
disk tell (harvib/factorised/sparse.py: `places`, four bytes an entry; sixteen bits would do).

A draw a clip would need a matrix a clip. The product with x is drawn instead (the local reparametrisation of
Kingma et al., NIPS 2015): normal with mean sum_c W_rc mu_rc x_c and variance sum_c (W_rc sigma_rc x_c)^2, with one
draw a clip and row for all steps. For a single step that is the same distribution exactly.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from harvib.errors import InputError
from harvib.factorised.base import Factor, Matrix, Slim, entry_deviation
from harvib.masks import VIBMask
from harvib.noise import normal

ENTRIES = "entries"
_TINY = 1e-12
_ENTRY = 10
_STEPS = 30
"""So many steps of a dense product cost as much as placing the entries."""


class SparseMatrix(Matrix):
    """`ranks` of its factor is one number, how many entries it has: all rows * columns of them, or those left.

    `weight` (rows, columns), or (entries,) at the `places` row * columns + column, ascending.
    """

    drops_inputs = True
    masks_inputs = False
    places: Tensor | None

    def __init__(self, factor: Factor) -> None:
        super().__init__(factor)
        whole = self.rows * self.columns
        if len(factor.rows) > 1 or len(factor.columns) > 1 or len(factor.ranks) != 1 or factor.ranks[0] > whole:
            raise ValueError(f"no such sparse matrix: {factor}")
        few = factor.ranks[0] < whole
        shape = factor.ranks if few else (self.rows, self.columns)
        self.weight = nn.Parameter(entry_deviation(self.columns, 1, 1) * torch.randn(shape))
        self.register_buffer("places", torch.arange(factor.ranks[0], dtype=torch.int32) if few else None)

    def parameter_count(self) -> int:
        """The entries."""
        return self.weight.numel()

    def macs(self, steps: int) -> int:
        """One an entry and step."""
        return steps * self.parameter_count()

    def rebuilding_macs(self) -> int:
        return 0

    def masked(self) -> SparseMatrix:
        copied = copy.deepcopy(self)
        copied.masks[ENTRIES] = VIBMask(self.weight.numel())
        return copied

    def left(self, kept: Mapping[str, int]) -> Factor:
        return dataclasses.replace(self.factor, ranks=(kept.get(ENTRIES, self.factor.ranks[0]),))

    def smallest(self) -> Factor:
        return self.left({ENTRIES: 1})

    def dense(self) -> Tensor:
        return self._placed(self.weight * self._of_mask(VIBMask.hard))

    def drawn(self) -> Tensor:
        return self._placed(self.weight * self._of_mask(VIBMask.one_draw)) if self.training else self.dense()

    def forward(self, x: Tensor) -> Tensor:
        mask = self._mask()
        if self.places is not None and not self.training and self._is_cheaper_by_entry(x.shape[:-1].numel()):
            return self._by_entry(x, self.places.long())
        if mask is None or not self.training:
            return linear(x, self.dense())
        spread = torch.exp(0.5 * mask.log_variance).view_as(self.weight)
        variance = linear(x.square(), self._placed((self.weight * spread).square()))
        draw = normal(len(x), self.weight.new_empty(self.rows))
        mean = linear(x, self._placed(self.weight * mask.mu.view_as(self.weight)))
        return mean + torch.sqrt(variance + _TINY) * draw[:, None]

    def squares(self) -> dict[str, Tensor]:
        return {ENTRIES: self.weight.detach().square().flatten()}

    def needed(self, rows: Tensor) -> Tensor:
        return self.dense().detach()[rows].any(0).nonzero().squeeze(1)

    def reached(self, rows: Tensor, columns: Tensor) -> dict[str, Tensor]:
        grid = (rows[:, None] & columns).flatten()
        return {ENTRIES: grid if self.places is None else grid[self.places.long().to(grid.device)]}

    @torch.no_grad()
    def compacted(self, rows: Tensor, inputs: Tensor, scale: Tensor) -> Slim:
        """The entries of these rows and inputs that are not zero, each times the scale of its column."""
        whole = (self.dense().double() * scale)[rows][:, inputs]
        places = whole.flatten().nonzero().squeeze(1)
        if not len(places):
            raise InputError("no entry of the sparse matrix is left: the penalty is too strong, lower --beta")
        left = Factor(self.factor.kind, (len(rows),), (len(inputs),), (len(places),))
        small = SparseMatrix(left).to(self.weight)
        small.weight.copy_(whole.flatten()[places].view_as(small.weight))
        if small.places is not None:
            small.places.copy_(places)
        return Slim(small, torch.arange(len(rows), device=rows.device))

    def _is_cheaper_by_entry(self, steps: int) -> bool:
        """Measured on a CPU: an entry and step costs ten times what placing an entry of the dense matrix does."""
        return _ENTRY * self.weight.numel() * steps < self.rows * self.columns * (1 + steps / _STEPS)

    def _by_entry(self, x: Tensor, places: Tensor) -> Tensor:
        """As a device computes it, a product an entry."""
        products = x[..., places % self.columns] * self.weight.to(x.dtype)
        zeros = products.new_zeros(*x.shape[:-1], self.rows)
        return zeros.index_add(-1, places // self.columns, products)

    def _placed(self, entries: Tensor) -> Tensor:
        """Entries like `weight` to (rows, columns)."""
        if self.places is None:
            return entries
        zeros = entries.new_zeros(self.rows * self.columns)
        return zeros.index_copy(0, self.places.long(), entries).view(self.rows, self.columns)

    def _mask(self) -> VIBMask | None:
        return self.of_masks().get(ENTRIES)

    def _of_mask(self, factors: Callable[[VIBMask], Tensor]) -> Tensor:
        """What the mask multiplies the entries by, like `weight`."""
        mask = self._mask()
        return torch.ones_like(self.weight) if mask is None else factors(mask).view_as(self.weight)


def sparse(rows: int, columns: int) -> Factor:
    """The description of one with all its entries."""
    return Factor("sparse", (rows,), (columns,), (rows * columns,))
