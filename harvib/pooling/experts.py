"""A mixture of logistic experts for each class, with a dummy among them; or, without experts, a linear layer.

    p_c = sum_e g_ce sigmoid(w_ce h + b_ce)        g_c = softmax over E experts and a dummy of the gates v_c h

The dummy always says no. Abu-El-Haija et al., "YouTube-8M: a large-scale video classification benchmark", 2016
(arXiv 1609.08675). The result is the log-odds of p: log p - log(1 - p), and 1 - p is a sum of positive terms too,
so neither loses digits, and the binary cross entropy on logits is that of p.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from harvib.factorised.base import Factor, Matrix
from harvib.pooling.matrices import LEAVE_SCALE, layer_factor, matrix_of, outline, reduced


@dataclass(frozen=True)
class ExpertsShape:
    """`gates` is None without experts; `scaled`: a scale that does not fold stands before a compact one."""

    classes: int
    experts: int
    units: Factor
    gates: Factor | None
    scaled: bool = False

    def __post_init__(self) -> None:
        rows = self.classes * max(1, self.experts)
        gates = None if self.gates is None else self.gates.size[0]
        if self.units.size[0] != rows or gates != (self.classes * (self.experts + 1) if self.experts else None):
            raise ValueError(f"no such experts: {self}")
        if self.gates is not None and self.gates.size[1] != self.units.size[1]:
            raise ValueError(f"no such experts: {self}")

    @classmethod
    def fresh(cls, kind: str, inputs: int, classes: int, experts: int, factors: int = 1) -> ExpertsShape:
        """With matrices of one kind."""
        gates = layer_factor(kind, classes * (experts + 1), inputs, factors) if experts else None
        return cls(classes, experts, layer_factor(kind, classes * max(1, experts), inputs, factors), gates)

    def size(self) -> int:
        """Parameters."""
        matrices = [factor for factor in (self.units, self.gates) if factor is not None]
        left = self.units.size[1] if self.scaled else 0
        return sum(outline(factor).parameter_count() for factor in matrices) + self.units.size[0] + left

    def left(self, inputs: int, factors: bool) -> ExpertsShape:
        """With so many of the inputs; `factors`: with those that masks leave where they do not fold.

        Both matrices become dense where that is less, or none: what does not fold stands before both.
        """
        every = [factor for factor in (self.units, self.gates) if factor is not None]
        fewer = [dataclasses.replace(factor, columns=(inputs,)) for factor in every]
        if sum(factor.size[0] * inputs for factor in every) < sum(outline(f).parameter_count() for f in fewer):
            fewer = [layer_factor("dense", factor.size[0], inputs) for factor in every]
        units, gates = fewer[0], fewer[1] if len(fewer) > 1 else None
        return ExpertsShape(self.classes, self.experts, units, gates, factors and units.kind in LEAVE_SCALE)


class Experts(nn.Module):
    """(B, H) to log-odds (B, C)."""

    scale: nn.Parameter | None

    def __init__(self, shape: ExpertsShape) -> None:
        super().__init__()
        self.shape = shape
        self.units = matrix_of(shape.units)
        self.gates = None if shape.gates is None else matrix_of(shape.gates)
        self.bias = nn.Parameter(torch.zeros(shape.units.size[0]))
        self.register_parameter("scale", nn.Parameter(torch.ones(self.units.columns)) if shape.scaled else None)

    def forward(self, x: Tensor) -> Tensor:
        if self.scale is not None:
            x = x * self.scale
        units = self.units(x) + self.bias
        units = units.to(torch.promote_types(units.dtype, torch.float32))
        if self.gates is None:
            return units
        classes, experts = self.shape.classes, self.shape.experts
        gates = self.gates(x).to(units.dtype).view(-1, classes, experts + 1).log_softmax(2)
        units, dummy = units.view(-1, classes, experts), gates[..., experts:]
        yes = torch.logsumexp(gates[..., :experts] + logsigmoid(units), 2)
        no = torch.logsumexp(torch.cat([gates[..., :experts] + logsigmoid(-units), dummy], 2), 2)
        return yes - no

    def parameter_count(self) -> int:
        """Of both matrices, the experts' bias, and a scale that is left."""
        matrices = [self.units, *([] if self.gates is None else [self.gates])]
        left = 0 if self.scale is None else self.scale.numel()
        return sum(matrix.parameter_count() for matrix in matrices) + self.bias.numel() + left

    def macs(self) -> int:
        """Of one clip."""
        return self.units.macs(1) + (0 if self.gates is None else self.gates.macs(1))

    @torch.no_grad()
    def compacted(self, inputs: Tensor, scale: Tensor) -> Experts:
        """The same of the inputs (K,) alone, each times its entry of `scale` (H,) in float64."""
        becomes_dense = self.shape.left(len(inputs), False).units.kind == "dense"
        units, *gates_of = [
            reduced(matrix, torch.arange(matrix.rows, device=inputs.device), inputs, scale, becomes_dense)
            for matrix in (self.units, self.gates)
            if isinstance(matrix, Matrix)
        ]
        gates, left = gates_of[0] if gates_of else None, units.scale
        shape = self.shape.left(len(inputs), left is not None)
        small = Experts(shape).to(self.bias)
        small.units, small.gates = units.matrix, None if gates is None else gates.matrix
        small.bias.copy_(self.bias)
        if small.scale is not None and left is not None:
            small.scale.copy_(left)
        return small

    def use_hard_scales(self) -> None:
        """Put one for the scale that is left; it is gone then."""
        self.scale = None
        self.shape = dataclasses.replace(self.shape, scaled=False)
