"""How far a cache's labels can be told without the order in time: two linear classifiers, fitted and tested.

Prints the test accuracy of logistic regression on every single frame (tested on each clip's middle frame) and on
the mean over time. A recurrent model that does clearly better than both has used the order of the frames.

The strength of L2 is chosen by cross-validation over groups of the train part; the test part is only scored.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from harfeat.cache import ROLES, CacheError, open_cache

STRENGTHS = (1e-3, 1e-2, 1e-1)
FOLDS = 3


@dataclass(frozen=True, eq=False)
class Clips:
    """One part of a split: the (T, D) frames of each of V clips, their labels (V,) and groups (V,)."""

    frames: list[np.ndarray]
    labels: np.ndarray
    groups: np.ndarray

    def every_frame(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(N, D) frames of all clips, with the label and group of each."""
        lengths = [len(frames) for frames in self.frames]
        return np.concatenate(self.frames), np.repeat(self.labels, lengths), np.repeat(self.groups, lengths)

    def middle_frame(self) -> np.ndarray:
        """(V, D)."""
        return np.stack([frames[len(frames) // 2] for frames in self.frames])

    def mean_over_time(self) -> np.ndarray:
        """(V, D)."""
        return np.stack([frames.mean(0) for frames in self.frames])


def read_clips(path: Path, split: str, role: str) -> Clips:
    """The clips with this role, train or test, in a split of a cache; CacheError where there are none."""
    with open_cache(path) as cache:
        chosen = np.flatnonzero(cache.split(split).roles == ROLES[role])
        if not len(chosen):
            raise CacheError(f"{path}: split {split} has no {role} clips")
        frames = [cache.read(int(clip)).features.astype(np.float32) for clip in chosen]
        groups = np.array([cache.clips[clip].group or cache.clips[clip].name for clip in chosen])
        return Clips(frames, cache.labels[chosen], groups)


def order_free_accuracies(train: Clips, test: Clips, seed: int = 0) -> dict[str, float]:
    """Test accuracy, 0 to 1, of each classifier that cannot see the order of the frames."""
    frame = _fit(*train.every_frame(), seed)
    mean = _fit(train.mean_over_time(), train.labels, train.groups, seed)
    return {
        "single frame + linear": float(frame.score(test.middle_frame(), test.labels)),
        "mean over time + linear": float(mean.score(test.mean_over_time(), test.labels)),
    }


def _fit(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int) -> Pipeline:
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=50))
    grid = {"logisticregression__C": STRENGTHS}
    return GridSearchCV(model, grid, cv=folds).fit(features, labels, groups=groups)


@click.command()
@click.option("--features", type=click.Path(path_type=Path), required=True, help="Cache file made by harfeat.")
@click.option("--split", default="group", show_default=True, help="Split of the cache.")
@click.option("--seed", default=0, show_default=True, help="Decides which groups are held out together.")
def main(features: Path, split: str, seed: int) -> None:
    """Print the test accuracy of linear classifiers that do not see the order of the frames."""
    try:
        train, test = (read_clips(features, split, role) for role in ("train", "test"))
    except CacheError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    chance = 1 / len(np.unique(train.labels))
    click.echo(f"{len(train.labels)} train and {len(test.labels)} test clips, chance {chance:.1%}")
    for name, accuracy in order_free_accuracies(train, test, seed).items():
        click.echo(f"{name:<25}{accuracy:7.1%}")


if __name__ == "__main__":
    main()
