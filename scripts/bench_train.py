"""Speed of a training step of the VIB-LSTM, as ratios measured in one run; a table, and JSON.

    python scripts/bench_train.py

A step is forward, loss, backward and AdamW, from features in memory. The variants take turns on the same clips,
`--rounds` times, and medians are told, so that another load on the machine falls on all of them:

- vib: harvib's masked classifier as `harvib train` trains it, with masks on the input and on all four gates drawn
  anew for each clip, and the KL of them in the loss.
- torch: torch.nn.LSTM, the mean over its states and an nn.Linear; cross entropy. No masks, no standardisation.
- loop: the same masked classifier, its recurrence as one writes it first, a cell called step after step under
  autograd.

Precision bfloat16 is torch.autocast around the forward pass, of all three. That vib and loop compute the same is
checked on the way: from the same draws, the relative difference of their losses and of their gradients (the
largest over the weights, by norm) stands in the JSON.

No GPU has been measured: there was none. `--device cuda` times the same three there, waiting for the device.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.nn import functional

from harfeat.provenance import versions
from harvib.cells import shape_of
from harvib.cells.lstm import GATES, MaskedLSTM
from harvib.cells.stack import Layer
from harvib.devices import device_of, machine
from harvib.errors import InputError
from harvib.models import ModelSpec, SequenceClassifier
from harvib.objectives import LossWeights, loss_terms

SIZES = "2048x2048x25x32,2048x512x25x64,4096x256x25x32"
QUICK = "32x16x5x4"
CLASSES = 11
PARTS = ("forward", "backward", "optimizer")
AIMS = {"torch": "at most 1.5", "loop": "at least 2.5"}


@dataclass(frozen=True)
class Size:
    """Inputs D, hidden units H, steps T and clips B."""

    inputs: int
    hidden: int
    steps: int
    batch: int

    @classmethod
    def parse(cls, text: str) -> Size:
        """From e.g. 2048x512x25x64; click.BadParameter where it is something else."""
        try:
            inputs, hidden, steps, batch = (int(number) for number in text.split("x"))
        except ValueError as error:
            raise click.BadParameter(f"{text!r} is not DxHxTxB, e.g. 2048x512x25x64") from error
        if min(inputs, hidden, steps, batch) < 1:
            raise click.BadParameter(f"{text!r}: all four must be at least 1")
        return cls(inputs, hidden, steps, batch)


class TorchLSTM(nn.Module):
    """What the VIB-LSTM is measured against."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.lstm = nn.LSTM(size.inputs, size.hidden, batch_first=True)
        self.head = nn.Linear(size.hidden, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0].mean(1))


class LoopedLSTM(MaskedLSTM):
    """The masked LSTM step after step; the same weights, masks and draws."""

    def forward(self, x: Tensor) -> Tensor:
        z_i, z_f, z_g, z_o = (self.masks[gate](len(x)) for gate in GATES)
        h = c = x.new_zeros(len(x), self.hidden_size)
        states = []
        for step in x.unbind(1):
            sums = functional.linear(step, self.weight_ih, self.bias_ih)
            sums = sums + functional.linear(h, self.weight_hh, self.bias_hh)
            i, f, g, o = sums.chunk(4, dim=1)
            c = z_f * torch.sigmoid(f) * c + z_i * torch.sigmoid(i) * (z_g * torch.tanh(g))
            h = z_o * torch.sigmoid(o) * torch.tanh(c)
            states.append(h)
        return torch.stack(states, dim=1)


@dataclass(frozen=True, eq=False)
class Variant:
    """A model, what it is trained to, and its optimiser."""

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: torch.optim.Optimizer

    def step(self, x: Tensor, labels: Tensor, autocast: torch.autocast) -> dict[str, float]:
        """One training step; seconds by part."""
        times = [_now(x.device)]
        with autocast:
            loss = self.loss(x, labels)
        times.append(_now(x.device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        times.append(_now(x.device))
        self.optimizer.step()
        times.append(_now(x.device))
        return {part: after - before for part, before, after in zip(PARTS, times, times[1:], strict=False)}


def variants_of(size: Size, seed: int, device: torch.device) -> dict[str, Variant]:
    """The three, with random weights from the seed; vib and loop start equal."""
    torch.manual_seed(seed)
    spec = ModelSpec("lstm", "masked", size.inputs, size.inputs, shape_of(size.hidden), CLASSES)
    vib, loop = SequenceClassifier(spec), SequenceClassifier(spec)
    looped = LoopedLSTM(nn.LSTM(size.inputs, size.hidden, batch_first=True))
    (layer,) = loop.recurrent.layers
    assert isinstance(layer, Layer)
    layer.cells["0"] = looped
    loop.load_state_dict(vib.state_dict())
    lengths = torch.full((size.batch,), size.steps, device=device)
    weights = LossWeights(beta=1e-6, beta_input=1e-6)

    def masked(model: SequenceClassifier, x: Tensor, labels: Tensor) -> Tensor:
        return loss_terms(model, model(x, lengths), labels, None, weights)[0]

    plain = TorchLSTM(size)
    losses: dict[str, tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]] = {
        "vib": (vib, partial(masked, vib)),
        "torch": (plain, lambda x, labels: functional.cross_entropy(plain(x), labels)),
        "loop": (loop, partial(masked, loop)),
    }
    found = {}
    for name, (model, loss) in losses.items():
        model.to(device).train()
        found[name] = Variant(model, loss, torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True))
    return found


def measure(size: Size, precision: str, rounds: int, seed: int, device: torch.device) -> dict[str, Any]:
    """Medians of all variants in ms, and the ratios."""
    variants = variants_of(size, seed, device)
    x = torch.randn(size.batch, size.steps, size.inputs, device=device)
    labels = torch.randint(0, CLASSES, (size.batch,), device=device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    agreement = difference(variants["vib"], variants["loop"], x, labels, autocast)
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for turn in range(1 + rounds):
        for name, variant in variants.items():
            parts = variant.step(x, labels, autocast)
            if turn:
                taken[name].append(parts)
    total = {name: statistics.median(sum(parts.values()) for parts in steps) for name, steps in taken.items()}
    return {
        "ms": {name: 1000 * seconds for name, seconds in total.items()},
        "parts_ms": {
            name: {part: 1000 * statistics.median(step[part] for step in steps) for part in PARTS}
            for name, steps in taken.items()
        },
        "vib_to_torch": total["vib"] / total["torch"],
        "loop_to_vib": total["loop"] / total["vib"],
        "difference_to_loop": agreement,
    }


def difference(
    ours: Variant, theirs: Variant, x: Tensor, labels: Tensor, autocast: torch.autocast
) -> dict[str, float]:
    """Of the loss and of the gradients from the same draws, relative; of the gradients the worst weight's."""
    losses, gradients = [], []
    for variant in (ours, theirs):
        torch.manual_seed(0)
        with autocast:
            loss = variant.loss(x, labels)
        losses.append(float(loss.detach()))
        gradients.append(torch.autograd.grad(loss, list(variant.model.parameters())))
    worst = max(float((a - b).norm() / b.norm().clamp_min(1e-30)) for a, b in zip(*gradients, strict=True))
    return {"loss": abs(losses[0] / losses[1] - 1), "gradient": worst}


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _line(size: Size, precision: str, found: dict[str, Any]) -> str:
    shape = f"{size.inputs}x{size.hidden}x{size.steps}x{size.batch}"
    times = "".join(f"{found['ms'][name]:>10.1f}" for name in ("vib", "torch", "loop"))
    return f"{shape:<18}{precision:<10}{times}{found['vib_to_torch']:>11.2f}x{found['loop_to_vib']:>10.2f}x"


@click.command()
@click.option("--sizes", default=SIZES, show_default=True, help="DxHxTxB, with commas between.")
@click.option("--precisions", default="float32,bfloat16", show_default=True)
@click.option("--rounds", default=9, show_default=True, type=click.IntRange(min=1))
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--quick", is_flag=True, help="One round of a tiny size: shows that it runs, measures nothing.")
@click.option("--out", default=Path("bench_train.json"), show_default=True, type=click.Path(path_type=Path))
def main(sizes: str, precisions: str, rounds: int, seed: int, device: str, quick: bool, out: Path) -> None:
    """Measure training steps of the VIB-LSTM, of torch.nn.LSTM and of a masked loop."""
    chosen = [Size.parse(text) for text in (QUICK if quick else sizes).split(",")]
    for precision in precisions.split(","):
        if precision not in ("float32", "bfloat16"):
            raise click.BadParameter(f"--precisions {precision!r}: float32 or bfloat16")
    try:
        place = device_of(device)
    except InputError as error:
        raise click.UsageError(str(error)) from error
    found: dict[str, Any] = {}
    click.echo(f"{'':28}{'ms a step':^30}{'vib takes':>12}{'loop takes':>12}")
    click.echo(f"{'D x H x T x B':<18}{'precision':<10}{'vib':>10}{'torch':>10}{'loop':>10}", nl=False)
    click.echo(f"{'of torch':>12}{'of vib':>11}")
    for size in chosen:
        for precision in precisions.split(","):
            figures = measure(size, precision, 1 if quick else rounds, seed, place)
            found.setdefault(f"{size.inputs}x{size.hidden}x{size.steps}x{size.batch}", {})[precision] = figures
            click.echo(_line(size, precision, figures))
    told = {
        "steps": found,
        "aims": AIMS,
        "command": " ".join(["python", *sys.argv]),
        "machine": machine() if place.type == "cpu" else torch.cuda.get_device_name(place),
        "load_average": os.getloadavg()[0],
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "seed": seed,
        "rounds": 1 if quick else rounds,
    }
    out.write_text(json.dumps(told, indent=2) + "\n")
    click.echo(f"figures: {out}")


if __name__ == "__main__":
    main()
