"""Pooling models in TorchScript: the equations of harvib/pooling in evaluation.

Clips of different lengths stay padded; what stands beyond a clip's length is put at zero where it would count.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from harvib.export.numbers import array, normed
from harvib.export.script.weights import Held, Rows, rebuilt
from harvib.pooling.block import Block
from harvib.pooling.dbof import DBoF
from harvib.pooling.experts import Experts
from harvib.pooling.gating import ContextGating
from harvib.pooling.model import PoolingClassifier
from harvib.pooling.netfv import NetFV, deviation
from harvib.pooling.netvlad import TINY, NetVLAD
from harvib.pooling.pool import Pool


class Pooled(nn.Module):
    """Streams side by side, experts, context gating."""

    def __init__(self, small: PoolingClassifier, held: Held) -> None:
        super().__init__()
        self.widths = list(small.spec.widths)
        self.pools = nn.ModuleList(_pool(stream.pool, held) for stream in small.parts())
        self.layers = nn.ModuleList(Normed(stream.fc, held) for stream in small.parts())
        self.experts = (
            Mixture(small.experts, held) if small.experts.gates is not None else Odds(small.experts, held)
        )
        self.gating = nn.Identity() if small.gating is None else Gating(small.gating, held)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        inside = (torch.arange(x.size(1), device=x.device) < lengths[:, None])[:, :, None]
        x = torch.where(inside, x, torch.zeros_like(x))
        streams = x.split(self.widths, 2)
        described: list[Tensor] = []
        for number, pool in enumerate(self.pools):
            described.append(pool(streams[number], inside, lengths))
        units: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            units.append(nn.functional.relu6(layer(described[number])))
        return self.gating(self.experts(torch.cat(units, dim=1)))


class Normed(nn.Module):
    """A matrix, and batch normalisation of what it gives."""

    before: Tensor | None
    by: Tensor
    shift: Tensor

    def __init__(self, block: Block, held: Held) -> None:
        super().__init__()
        weight = rebuilt(block.matrix, held)
        self.weight = weight if block.rows is None else Rows(weight, block.rows.cpu().clone())
        by, shift = normed(block.norm)
        self.register_buffer("by", torch.from_numpy(by))
        self.register_buffer("shift", torch.from_numpy(shift))
        self.register_buffer("before", None if block.scale is None else block.scale.detach().cpu().clone())

    def forward(self, x: Tensor) -> Tensor:
        before = self.before
        if before is not None:
            x = x * before
        return nn.functional.linear(x, self.weight()) * self.by + self.shift


class Largest(nn.Module):
    """DBoF: of each cluster the largest value of a clip's frames, or the mean over all draws of some of them."""

    def __init__(self, pool: DBoF, held: Held) -> None:
        super().__init__()
        self.assign, self.draws = Normed(pool.assign, held), pool.bags.frames

    def forward(self, x: Tensor, inside: Tensor, lengths: Tensor) -> Tensor:
        values = nn.functional.relu6(self.assign(x))
        # No value is below the zeros that pad.
        values = torch.where(inside, values, torch.zeros_like(values))
        if self.draws == 0:
            return values.amax(1)
        steps = x.size(1)
        place = torch.arange(1, steps + 1, device=x.device) - (steps - lengths[:, None])
        upper = (place.clamp(min=0).double() / lengths[:, None]).pow(self.draws)
        lower = ((place - 1).clamp(min=0).double() / lengths[:, None]).pow(self.draws)
        ascending = values.sort(1)[0]
        return (ascending * (upper - lower).to(values.dtype)[:, :, None]).sum(1)


class Described(nn.Module):
    """NetVLAD and, with deviations, NetFV."""

    described: Tensor | None
    scale: Tensor | None

    def __init__(self, pool: NetVLAD, held: Held) -> None:
        super().__init__()
        self.assign, self.tiny = Normed(pool.assign, held), TINY
        self.centres = held(array(pool.centres))
        second = array(deviation(pool.roots)) if isinstance(pool, NetFV) else None
        self.deviation = held(second if second is not None else np.zeros((1, 1), np.float32))
        self.second = second is not None
        chosen = pool.described
        self.register_buffer("described", None if chosen is None else chosen.cpu().clone())
        self.register_buffer("scale", None if pool.scale is None else pool.scale.detach().cpu().clone())

    def forward(self, x: Tensor, inside: Tensor, lengths: Tensor) -> Tensor:
        belongs = self.assign(x).softmax(2)
        described = self.described
        if described is not None:
            belongs = belongs.index_select(2, described)
        belongs = torch.where(inside, belongs, torch.zeros_like(belongs)).transpose(1, 2)
        mass, first, centres = belongs.sum(2, keepdim=True), belongs.matmul(x), self.centres()
        found = (first - mass * centres)[:, :, None]
        if self.second:
            deviation = self.deviation()
            squares = belongs.matmul(x * x) - 2 * centres * first + mass * centres * centres
            ours = (squares / (deviation * deviation) - mass)[:, :, None]
            found = torch.cat([found / deviation[:, None], ours], dim=2)
        found = nn.functional.normalize(found, 2.0, 3)
        scale = self.scale
        if scale is not None:
            found = found * scale[:, None, None]
        length = (found * found).sum(dim=[1, 3], keepdim=True).sqrt()
        return (found / length.clamp(min=self.tiny)).flatten(1)


class Odds(nn.Module):
    """Log-odds as a linear layer gives them."""

    before: Tensor | None
    bias: Tensor

    def __init__(self, experts: Experts, held: Held) -> None:
        super().__init__()
        self.units = rebuilt(experts.units, held)
        self.register_buffer("bias", experts.bias.detach().cpu().clone())
        self.register_buffer("before", None if experts.scale is None else experts.scale.detach().cpu().clone())

    def forward(self, x: Tensor) -> Tensor:
        before = self.before
        if before is not None:
            x = x * before
        return nn.functional.linear(x, self.units(), self.bias)


class Mixture(nn.Module):
    """The log-odds of a mixture of experts and a dummy."""

    before: Tensor | None
    bias: Tensor

    def __init__(self, experts: Experts, held: Held) -> None:
        super().__init__()
        assert experts.gates is not None
        self.units, self.gates = rebuilt(experts.units, held), rebuilt(experts.gates, held)
        self.classes, self.count = experts.shape.classes, experts.shape.experts
        self.register_buffer("bias", experts.bias.detach().cpu().clone())
        self.register_buffer("before", None if experts.scale is None else experts.scale.detach().cpu().clone())

    def forward(self, x: Tensor) -> Tensor:
        before = self.before
        if before is not None:
            x = x * before
        units = nn.functional.linear(x, self.units(), self.bias).view(-1, self.classes, self.count)
        gates = nn.functional.linear(x, self.gates()).view(-1, self.classes, self.count + 1).log_softmax(2)
        own, dummy = gates[:, :, : self.count], gates[:, :, self.count :]
        yes = torch.logsumexp(own + logsigmoid(units), 2)
        no = torch.logsumexp(torch.cat([own + logsigmoid(-units), dummy], 2), 2)
        return yes - no


class Gating(nn.Module):
    """Each class's log-odds, gated by what all classes' probabilities are."""

    by: Tensor
    shift: Tensor

    def __init__(self, gating: ContextGating, held: Held) -> None:
        super().__init__()
        self.matrix = rebuilt(gating.matrix, held)
        by, shift = normed(gating.norm)
        self.register_buffer("by", torch.from_numpy(by))
        self.register_buffer("shift", torch.from_numpy(shift))

    def forward(self, odds: Tensor) -> Tensor:
        gate = nn.functional.linear(odds.sigmoid(), self.matrix()) * self.by + self.shift
        yes, no = logsigmoid(odds), logsigmoid(-odds)
        return yes + logsigmoid(gate) - torch.logaddexp(no, yes + logsigmoid(-gate))


def _pool(pool: Pool, held: Held) -> nn.Module:
    if isinstance(pool, DBoF):
        return Largest(pool, held)
    assert isinstance(pool, NetVLAD)
    return Described(pool, held)
