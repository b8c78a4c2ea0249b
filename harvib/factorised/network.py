"""A matrix as a tensor network: the einsum of its cores, of any format of harvib/factorised/shapes.py.

A product with x contracts x with the cores in the order that opt_einsum finds, or goes through the matrix rebuilt,
whichever costs less. Each bond of more than one index has a VIB mask. Dropping an index of a bond
slices every core that has it, and a kept index's mean goes into the first of them: both exact.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import opt_einsum
import torch
from torch import Tensor, nn

from harvib.errors import InputError
from harvib.factorised.base import Factor, Matrix, Slim, entry_deviation
from harvib.factorised.shapes import NETWORKS, labels
from harvib.masks import VIBMask

_CLIP, _STEP = "clip", "step"

_ENTRY = 64
"""What writing and reading an entry of an intermediate costs beside one operation of a matrix product."""
_READ = 256
"""What an entry of x costs that is contracted mode by mode, not row by row; both measured on one core."""


class TensorNetwork(Matrix):
    """The matrix whose cores are normal with such a variance that its entries have variance 1 / columns."""

    def __init__(self, factor: Factor) -> None:
        super().__init__(factor)
        self.network = NETWORKS[factor.kind](len(factor.rows), len(factor.columns))
        bonds = self.network.bonds
        if len(bonds) != len(factor.ranks):
            raise ValueError(f"{factor.kind} with these modes has {len(bonds)} bonds: {factor}")
        sizes = dict(zip(self.network.rows, factor.rows, strict=True))
        sizes |= dict(zip(self.network.columns, factor.columns, strict=True))
        self.sizes = sizes | dict(zip(bonds, factor.ranks, strict=True))
        deviation = entry_deviation(self.columns, math.prod(factor.ranks), len(self.network.cores))
        self.cores = nn.ParameterList(
            deviation * torch.randn([self.sizes[label] for label in core]) for core in self.network.cores
        )

    def parameter_count(self) -> int:
        """The entries of the cores."""
        return sum(core.numel() for core in self.cores)

    def masked(self) -> TensorNetwork:
        copied = copy.deepcopy(self)
        for bond in self.network.bonds:
            if self.sizes[bond] > 1:
                copied.masks[bond] = VIBMask(self.sizes[bond])
        return copied

    def left(self, kept: Mapping[str, int]) -> Factor:
        ranks = tuple(kept.get(bond, self.sizes[bond]) for bond in self.network.bonds)
        return dataclasses.replace(self.factor, ranks=ranks)

    def smallest(self) -> Factor:
        return self.left(dict.fromkeys(self.network.bonds, 1))

    def dense(self) -> Tensor:
        return self._rebuilt({bond: mask.hard() for bond, mask in self.of_masks().items()})

    def drawn(self) -> Tensor:
        if not self.training:
            return self.dense()
        return self._rebuilt({bond: mask.one_draw() for bond, mask in self.of_masks().items()})

    def forward(self, x: Tensor) -> Tensor:
        masks = self.of_masks()
        if self.training and masks:
            return self._a_draw_a_clip(x, {bond: mask(len(x)) for bond, mask in masks.items()})
        hard = {bond: mask.hard() for bond, mask in masks.items()}
        rows = x.reshape(-1, self.columns)
        plan = _plan(self._equation([_STEP]), self._shapes((len(rows),)))
        if self._rebuilds(plan, len(rows)):
            return nn.functional.linear(x, self._rebuilt(hard))
        x_modes = rows.view(-1, *self.factor.columns)
        result = plan(x_modes, *self._masked_cores(hard), dtype=self._work())
        return result.reshape(*x.shape[:-1], self.rows)

    def macs(self, steps: int) -> int:
        plan = _plan(self._equation([_STEP]), self._shapes((steps,)))
        if self._rebuilds(plan, steps):
            return self.rebuilding_macs() + steps * self.rows * self.columns
        return plan.macs([(steps, *self.factor.columns), *(core.shape for core in self.cores)])

    def rebuilding_macs(self) -> int:
        plan = _plan(self._equation(None), self._shapes(None))
        return plan.macs([core.shape for core in self.cores])

    @torch.no_grad()
    def compacted(self, rows: Tensor, inputs: Tensor, scale: Tensor) -> Slim:
        if len(inputs) != self.columns or not bool((scale == 1).all()):
            raise ValueError("a tensor network reads all of its inputs as they are")
        hard = {bond: mask.hard() for bond, mask in self.of_masks().items()}
        kept = {bond: factor.nonzero().squeeze(1) for bond, factor in hard.items()}
        if dead := [bond for bond, indices in kept.items() if not len(indices)]:
            raise InputError(
                f"no rank is left in bond {dead[0]} after VIB training: the penalty is too strong, lower --beta"
            )
        cores = self._masked_cores({bond: factor.double() for bond, factor in hard.items()})
        small = TensorNetwork(self.left({bond: len(indices) for bond, indices in kept.items()}))
        small = small.to(self.cores[0])
        for target, core, names in zip(small.cores, cores, self.network.cores, strict=True):
            for axis, label in enumerate(names):
                if label in kept:
                    core = core.index_select(axis, kept[label])  # noqa: PLW2901 - sliced axis by axis
            target.copy_(core)
        return Slim(small, rows)

    @property
    def equation(self) -> str:
        """The einsum of the cores that the matrix is, its row modes before its column modes."""
        return self._equation(None)

    def contractions(self) -> tuple[str, tuple[tuple[int, ...], ...]]:
        """The einsum of one x, its columns as modes, and the cores, and the cheapest order of its contractions.

        Each names operands by their places among those left; their result goes behind these.
        """
        plan = _plan(self._equation([]), self._shapes(()))
        return plan.equation, plan.path

    def _masked_cores(self, factors: Mapping[str, Tensor]) -> list[Tensor]:
        """The cores, the first that has a bond times its factors: (r,), or (B, r) for a core a clip."""
        cores: list[Tensor] = list(self.cores)
        for number, (core, names) in enumerate(zip(cores, self.network.cores, strict=True)):
            for bond in self._bonds_of(number, factors):
                shape = [self.sizes[label] if label == bond else 1 for label in names]
                core = core * factors[bond].view(*factors[bond].shape[:-1], *shape)  # noqa: PLW2901
            cores[number] = core
        return cores

    def _bonds_of(self, number: int, factors: Mapping[str, Tensor]) -> list[str]:
        """The bonds whose factors go into this core: those that no core before it has."""
        before = {label for core in self.network.cores[:number] for label in core}
        return [label for label in self.network.cores[number] if label in factors and label not in before]

    def _rebuilt(self, factors: Mapping[str, Tensor]) -> Tensor:
        plan = _plan(self._equation(None), self._shapes(None))
        return plan(*self._masked_cores(factors)).reshape(self.rows, self.columns)

    def _work(self) -> torch.dtype:
        """What products with x run in: under autocast its dtype, as a dense product does."""
        core = self.cores[0]
        reduced = torch.is_autocast_enabled(core.device.type) and core.dtype == torch.float32
        return torch.get_autocast_dtype(core.device.type) if reduced else core.dtype

    def _rebuilds(self, plan: _Plan, steps: int) -> bool:
        """Whether the matrix and its product with so many steps cost less than the plan of the contractions."""
        rebuilding = _plan(self._equation(None), self._shapes(None)).cost + 2.0 * steps * self.rows * self.columns
        return plan.cost + _READ * steps * self.columns > rebuilding

    def _a_draw_a_clip(self, x: Tensor, factors: Mapping[str, Tensor]) -> Tensor:
        """(B, T, columns) with factors (B, r) on bonds, to (B, T, rows)."""
        clips, steps, _ = x.shape
        own = [bool(self._bonds_of(number, factors)) for number in range(len(self.cores))]
        plan = _plan(self._equation([_CLIP, _STEP], own), self._shapes((clips, steps), own))
        x_modes = x.reshape(clips, steps, *self.factor.columns)
        result = plan(x_modes, *self._masked_cores(factors), dtype=self._work())
        return result.reshape(clips, steps, self.rows)

    def _equation(self, lead: Sequence[str] | None, own: Sequence[bool] = ()) -> str:
        """Of x, with the labels `lead` before its modes, and the cores; without lead of the cores alone.

        `own`: which cores each clip has its own of.
        """
        network = self.network
        operands = [list(core) for core in network.cores]
        for core, each in zip(operands, own or [False] * len(operands), strict=True):
            core[:0] = [_CLIP] if each else []
        result = [*network.rows, *network.columns]
        if lead is not None:
            operands = [[*lead, *network.columns], *operands]
            result = [*lead, *network.rows]
        letters = {label: opt_einsum.get_symbol(at) for at, label in enumerate(labels(operands))}
        sides = ["".join(letters[label] for label in names) for names in operands]
        return f"{','.join(sides)}->{''.join(letters[label] for label in result)}"

    def _shapes(self, lead: tuple[int, ...] | None, own: Sequence[bool] = ()) -> tuple[tuple[int, ...], ...]:
        """Of the operands of `_equation`; sizes of batches are rounded up, for plans hardly depend on them."""
        cores = [tuple(core.shape) for core in self.cores]
        if lead is None:
            return tuple(cores)
        rounded = tuple(1 << (size - 1).bit_length() for size in lead)
        cores = [
            (rounded[0], *core) if each else core
            for core, each in zip(cores, own or [False] * len(cores), strict=True)
        ]
        return ((*rounded, *self.factor.columns), *cores)


@dataclass(frozen=True, eq=False)
class _Plan:
    """An einsum and the order of its contractions; `cost` is in multiplications and additions.

    Called with a dtype it computes in that; autocast would give the contractions operands of two dtypes.
    """

    equation: str
    path: tuple[tuple[int, ...], ...]
    cost: float

    def __call__(self, *operands: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        given = operands if dtype is None else [operand.to(dtype) for operand in operands]
        with torch.autocast(operands[0].device.type, enabled=False):
            result: Tensor = opt_einsum.contract(self.equation, *given, optimize=self.path)
        return result

    def macs(self, shapes: Sequence[Sequence[int]]) -> int:
        """Multiply-accumulates with operands of these shapes: of a contraction one a place of all its labels."""
        names, result = self.equation.split("->")
        operands = [set(labels) for labels in names.split(",")]
        sizes = dict(zip(names.replace(",", ""), itertools.chain(*shapes), strict=True))
        total = 0
        for pair in self.path:
            taken = [operands.pop(place) for place in sorted(pair, reverse=True)]
            together = set().union(*taken)
            total += math.prod(sizes[label] for label in together) if len(taken) > 1 else 0
            operands.append(together & set().union(result, *operands))
        return total


@lru_cache(maxsize=4096)
def _plan(equation: str, shapes: tuple[tuple[int, ...], ...]) -> _Plan:
    """The cheapest order of contractions, where an entry of an intermediate costs _ENTRY operations."""
    search = opt_einsum.DynamicProgramming(minimize=f"combo-{_ENTRY}")
    path, info = opt_einsum.contract_path(equation, *shapes, shapes=True, optimize=search)
    return _Plan(equation, tuple(path), float(info.opt_cost) + _ENTRY * float(sum(info.size_list)))
