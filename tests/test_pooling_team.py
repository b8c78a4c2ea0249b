"""Batch normalisation of a batch that processes share: statistics and gradients are those of the whole batch.

As a program, under torchrun, it prints how far they are from those of one process.
"""

from __future__ import annotations

from pathlib import Path

import torch
from pooling_models import clips, plain_model
from test_distributed import torchrun
from torch import Tensor

from harvib.data import Batch
from harvib.distributed import ALONE, Team, joined
from harvib.noise import sharing

SIZES = (5, 2, 1)
"""Clips, for three processes: some have none of their own, and one clip has no variance."""


def of_a_step(team: Team, size: int) -> Tensor:
    """The gradients and moving statistics of a step on a batch of so many clips."""
    model = plain_model("dbof", 1, bags=2, bag_frames=3).train()
    x, lengths = clips(7, [3, 5, 1, 4, 2][:size])
    own, share = team.own(Batch(x, lengths, torch.zeros(size), torch.arange(size)))
    torch.manual_seed(3)
    with sharing(share):
        odds = model(own.features, own.lengths)
    odds.square().mean().backward()
    team.sum_gradients(model.parameters(), share.part)
    gradients = [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
    return torch.cat([*gradients, *(value.flatten().double() for value in model.buffers())])


def test_a_step_of_three_processes_is_that_of_one() -> None:
    started = torchrun(Path(__file__), processes=3)
    printed, errors = started.communicate(timeout=100)
    assert started.returncode == 0, errors
    far = [float(line) for line in printed.split()]
    assert len(far) == 3 * len(SIZES)
    assert max(far) < 1e-10


if __name__ == "__main__":
    alone = {size: of_a_step(ALONE, size) for size in SIZES}
    with joined(torch.device("cpu")) as found:
        far = [float((of_a_step(found, size) - values).abs().max()) for size, values in alone.items()]
        print("\n".join(map(str, far)) + "\n", end="", flush=True)
