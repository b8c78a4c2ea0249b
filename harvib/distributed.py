"""Several processes that train one model, started by torchrun: who they are, and what they tell each other.

    torchrun --nproc_per_node 2 -m harvib train --features F --split S

Each takes its share of every batch. Gradients are summed with the shares as weights, so a step is that of one
process up to rounding; then every process does the same to the same numbers. What is decided by validation is
decided by the first. Only the first writes: the others work in a copy of the run folder that goes with them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, nn
from torch import distributed as torch_distributed

from harvib.data import Batch
from harvib.errors import InputError
from harvib.noise import Share

_PATIENCE = timedelta(minutes=30)


@dataclass(frozen=True)
class Team:
    """`world` processes, of which this is number `rank`; alone, nothing is exchanged."""

    rank: int = 0
    world: int = 1
    device: torch.device | None = None

    @property
    def first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def own(self, batch: Batch) -> tuple[Batch, Share]:
        """The clips of a batch that are this process's, and which share of it they are.

        Where there are more processes than clips some have none: these compute the first clip, and it counts for
        nothing, so that they draw what the others draw.
        """
        whole = len(batch.labels)
        start, stop = (whole * number // self.world for number in (self.rank, self.rank + 1))
        weight = (stop - start) / whole
        if stop == start:
            start, stop = 0, 1
        mine = Batch(
            batch.features[start:stop],
            batch.lengths[start:stop],
            batch.labels[start:stop],
            batch.positions[start:stop],
        )
        return mine, Share(start, whole, weight)

    def sum_gradients(self, parameters: Iterable[nn.Parameter], weight: float) -> None:
        """Put the weighted sum of all processes' gradients in place of each one's own."""
        if self.world == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        # Nothing times infinity is no number: what counts for nothing must not be added at all.
        flat = flat * weight if weight else torch.zeros_like(flat)
        torch_distributed.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def sum_values(self, values: Mapping[str, float], weight: float) -> dict[str, float]:
        """The weighted sums of all processes' figures; the same names everywhere."""
        if self.world == 1:
            return dict(values)
        found = torch.tensor([value * weight if weight else 0.0 for value in values.values()], dtype=torch.float64)
        return dict(zip(values, self._reduced(found, torch_distributed.ReduceOp.SUM), strict=True))

    def any(self, flag: bool) -> bool:
        """Whether one of the processes says so."""
        if self.world == 1:
            return flag
        return bool(self._reduced(torch.tensor([float(flag)]), torch_distributed.ReduceOp.MAX)[0])

    def of_first(self, values: tuple[float, ...]) -> tuple[float, ...]:
        """What the first process says."""
        if self.world == 1:
            return values
        told = torch.tensor(values if self.first else (0.0,) * len(values), dtype=torch.float64)
        return tuple(self._reduced(told, torch_distributed.ReduceOp.SUM))

    @contextmanager
    def folder(self, path: Path) -> Iterator[Path]:
        """The run folder to work in: `path` for the first process, a copy of it as it is now for the others."""
        if self.world == 1:
            yield path
            return
        with tempfile.TemporaryDirectory(prefix="harvib-") as room:
            mine = path
            if not self.first:
                mine = Path(room) / "run"
                # Nothing else is copied: another folder in this place is about to be refused.
                if (path / "config.json").is_file():
                    shutil.copytree(path, mine, ignore=shutil.ignore_patterns("tensorboard", ".*.part"))
            # Nothing is written before everybody has a copy.
            self.any(False)
            yield mine

    def _reduced(self, values: Tensor, how: torch_distributed.ReduceOp.RedOpType) -> list[float]:
        values = values.to(self.device)
        torch_distributed.all_reduce(values, how)
        return values.tolist()


ALONE = Team()


@contextmanager
def joined(device: torch.device) -> Iterator[Team]:
    """The team that torchrun started, connected; a process of its own is alone.

    `device` says of which kind the processes' devices are: nccl connects GPUs, each process has its own, gloo
    the rest. Raises InputError where there are more processes than GPUs.
    """
    if not torch_distributed.is_torchelastic_launched():
        yield ALONE
        return
    if device.type == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise InputError(
                f"{torch.cuda.device_count()} GPUs for {os.environ['LOCAL_WORLD_SIZE']} processes: lower "
                "--nproc_per_node"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    torch_distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Team(torch_distributed.get_rank(), torch_distributed.get_world_size(), device)
    finally:
        torch_distributed.destroy_process_group()
