"""How far a cache's labels can be told without the order in time: two linear classifiers, fitted and tested.

Prints the test accuracy of logistic regression on every single frame (tested on each clip's middle frame) and on
the mean over time. A recurrent model that does clearly better than both has used the order of the frames.

The L2 weight is chosen by cross-validation over groups of the training part; the test part is only scored.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import h5py
import numpy as np
import torch
from torch.nn.functional import cross_entropy

from harfeat.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

L2_WEIGHTS = (1e-3, 1e-2, 1e-1)
FOLDS = 3
ITERATIONS = 30


@dataclass(frozen=True, eq=False)
class Clips:
    """One part of a split: frames of V clips, flat.

    `frames` (N, D) float32; `offsets` (V+1,) with clip v at offsets[v]:offsets[v+1]; `labels` (V,) class indices;
    `folds` (V,) the fold of each clip's group, 0..FOLDS-1.
    """

    frames: NDArray[np.float32]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64]
    folds: NDArray[np.int64]

    def every_frame(self) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """(N, D) all frames, with label (N,) and fold (N,) of their clips."""
        lengths = np.diff(self.offsets)
        return self.frames, np.repeat(self.labels, lengths), np.repeat(self.folds, lengths)

    def middle_frame(self) -> NDArray[np.float32]:
        """(V, D): the frame in the middle of each clip (the later one of two)."""
        return self.frames[self.offsets[:-1] + np.diff(self.offsets) // 2]

    def mean_over_time(self) -> NDArray[np.float32]:
        """(V, D): the mean of each clip's frames."""
        sums = np.add.reduceat(self.frames, self.offsets[:-1], axis=0)
        return (sums / np.diff(self.offsets)[:, None]).astype(np.float32)


def read_clips(path: Path, split: str, role: int, seed: int) -> Clips:
    """Read the clips that have `role` (1 train, 2 test) in a split of a cache.

    Raises InputError for a file that is no cache, an unknown split, or clips that cannot be used.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist: name a feature cache with --features")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path} is not an HDF5 file: name a feature cache with --features") from error
    with file:
        if file.attrs.get("format") != "harfeat":
            raise InputError(f"{path} is not a harfeat feature cache: name one with --features")
        if split not in file["splits"]:
            raise InputError(f"{path} has no split {split!r}; it has: {', '.join(file['splits'])}")
        chosen = np.flatnonzero(file["splits"][split][:] == role)
        labels = file["clips/label"][:].astype(np.int64)[chosen]
        groups = file["clips/group"].asstr()[:][chosen]
        offsets = file["streams/rgb/offsets"][:].astype(np.int64)
        lengths = np.diff(offsets)[chosen]
        if not len(chosen) or (labels < 0).any() or (lengths == 0).any():
            raise InputError(
                f"{path}, split {split!r}, role {role}: it needs clips that have one label and at least one frame"
            )
        features = file["streams/rgb/features"]
        frames = np.concatenate([features[offsets[clip] : offsets[clip + 1]] for clip in chosen])
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    return Clips(frames.astype(np.float32), bounds, labels, group_folds(labels, groups, seed))


def group_folds(labels: NDArray[np.int64], groups: NDArray[np.object_], seed: int) -> NDArray[np.int64]:
    """(V,) fold of each clip, 0..FOLDS-1: whole groups, dealt out class by class in random order."""
    first_label = {group: int(label) for group, label in zip(groups[::-1], labels[::-1], strict=True)}
    names = sorted(first_label)
    shuffled = [names[index] for index in np.random.default_rng(seed).permutation(len(names))]
    dealt = {group: turn % FOLDS for turn, group in enumerate(sorted(shuffled, key=first_label.__getitem__))}
    return np.array([dealt[group] for group in groups], np.int64)


@dataclass(frozen=True, eq=False)
class LinearClassifier:
    """Logistic regression on standardised features: weight (D, C), bias (C,), mean and scale (D,)."""

    weight: torch.Tensor
    bias: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor

    def logits(self, features: NDArray[np.float32]) -> torch.Tensor:
        """(V, D) -> (V, C)."""
        return (torch.from_numpy(features) - self.mean) / self.scale @ self.weight + self.bias

    def accuracy(self, features: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
        """The share of (V, D) features whose best class is their label."""
        return float((self.logits(features).argmax(1).numpy() == labels).mean())


def fit(features: NDArray[np.float32], labels: NDArray[np.int64], classes: int, l2: float) -> LinearClassifier:
    """Minimise mean cross-entropy + l2 * ||weight||^2 over (V, D) features by L-BFGS."""
    mean = torch.from_numpy(features.mean(0))
    scale = torch.from_numpy(features.std(0)) + 1e-6
    inputs, targets = (torch.from_numpy(features) - mean) / scale, torch.from_numpy(labels)
    weight = torch.zeros(features.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = cross_entropy(inputs @ weight + bias, targets) + l2 * weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return LinearClassifier(weight.detach(), bias.detach(), mean, scale)


def fit_cross_validated(
    features: NDArray[np.float32], labels: NDArray[np.int64], folds: NDArray[np.int64], classes: int
) -> LinearClassifier:
    """Fit with the L2 weight of L2_WEIGHTS that has the lowest cross-entropy on held-out folds of groups.

    Raises InputError where the training clips are all of one group.
    """
    present = np.unique(folds)
    if len(present) < 2:
        raise InputError("the training clips are of one group: no group can be held out to choose the L2 weight")
    losses = dict.fromkeys(L2_WEIGHTS, 0.0)
    for l2 in L2_WEIGHTS:
        for fold in present:
            held = folds == fold
            logits = fit(features[~held], labels[~held], classes, l2).logits(features[held])
            losses[l2] += float(cross_entropy(logits, torch.from_numpy(labels[held]), reduction="sum"))
    return fit(features, labels, classes, min(losses, key=losses.__getitem__))


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: the products are small, and on a busy machine threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def order_free_accuracies(train: Clips, test: Clips) -> dict[str, float]:
    """Test accuracy of each classifier that does not see the order in time, by its name."""
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    with one_thread():
        frame = fit_cross_validated(*train.every_frame(), classes)
        mean = fit_cross_validated(train.mean_over_time(), train.labels, train.folds, classes)
        return {
            "single frame + linear": frame.accuracy(test.middle_frame(), test.labels),
            "mean over time + linear": mean.accuracy(test.mean_over_time(), test.labels),
        }


@click.command()
@click.option("--features", type=click.Path(path_type=Path), required=True, help="Feature cache (HDF5).")
@click.option("--split", default="group", show_default=True, help="Split of the cache.")
@click.option("--seed", default=0, show_default=True, help="Decides which groups are held out together.")
def main(features: Path, split: str, seed: int) -> None:
    """Print the test accuracy of linear classifiers that do not see the order of the frames."""
    try:
        train, test = (read_clips(features, split, role, seed) for role in (1, 2))
        results = order_free_accuracies(train, test)
    except InputError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    present = len(np.unique(train.labels))
    click.echo(
        f"split {split}: {len(train.labels)} training and {len(test.labels)} test clips, {present} classes, "
        f"chance {1 / present:.1%}"
    )
    for name, accuracy in results.items():
        click.echo(f"{name:<25}{accuracy:7.1%}")


if __name__ == "__main__":
    main()
