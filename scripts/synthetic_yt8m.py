"""A made-up set in YouTube-8M's format, of which it is known how well its labels can be predicted at best.

    python scripts/synthetic_yt8m.py synthetic --train 4000 --validate 1000
    harfeat import --from yt8m 'synthetic/*.tfrecord' --out synthetic.h5

How a clip comes about:

- Topics: class c = 1, 2, ... is one of them with probability `topics` / (c H), H the sum of all 1 / c (Zipf's
  law), independently of the others; a clip has at least one.
- Frames: 20 to 60 of Gaussian noise on two scenes, which say nothing. A topic shows in 1 to 3 of them: each adds
  one of its three words, two visual ones and a sound, each a fixed direction.
- Decoys: classes that are no topic, drawn with the same probabilities, show a word four times weaker in four times
  as many frames. Over the whole clip they add up to what a topic adds: a linear model on the mean over time cannot
  tell them apart, one look at the clearest frame can. Decoys have no effect on labels.
- Labels: a topic is not among them with probability `missed`; other classes are, by mistake, in proportion to
  their frequency, about `added` a clip. Labels are drawn again where there are none.

Frames tell the topics for certain (words are far longer than the noise; a test reads them back), and beyond the
topics nothing tells more about labels. So the probability of each label given the topics, a closed formula, is the
best possible score. `ceiling.json` has its GAP@20 and other measures on the validate part, mean and deviation over
new draws of its labels, and baselines: the frequencies of classes alone, least squares on the mean over time, and
the mean over time for one who knows all words and learns only what they mean.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import joblib
import numpy as np
from sklearn.linear_model import LogisticRegression
from yt8m_records import frame_record, write_records

from harvib.gap import measures

PARTS = ("train", "validate")
RGB, AUDIO = 1024, 128
VISUAL = 2
"""Visual words of a class; it has one sound besides."""
NOISE = 0.1
"""Deviation of each value; a word and a scene are so many times longer:"""
WORD, SCENE = 60.0, 30.0
SCENES = 40
SHOWN = (1, 3)
"""Frames that a topic shows in, at least and at most."""
FAINT = 4
"""A decoy is so many times weaker than a topic, in so many times more frames."""
MOST_FRAMES = 300


@dataclass(frozen=True)
class SetSettings:
    """What the set is made of; the same settings give the same files."""

    train: int = 4000
    validate: int = 1000
    classes: int = 60
    topics: float = 2.5
    missed: float = 0.1
    added: float = 0.2
    min_frames: int = 20
    max_frames: int = 60
    shards: int = 4
    seed: int = 0

    @property
    def prior(self) -> np.ndarray:
        """(C,) probability that a class is a topic, before clips without topics are drawn again."""
        inverse = 1 / np.arange(1, self.classes + 1)
        return np.minimum(self.topics * inverse / inverse.sum(), 0.9)

    def label_chance(self, topics: np.ndarray) -> np.ndarray:
        """(..., C) probability of each label given the (..., C) topics, before labels are drawn again."""
        added = self.added * self.prior / self.prior.sum()
        return np.where(topics, 1 - self.missed, added)

    def posterior(self, topics: np.ndarray) -> np.ndarray:
        """(..., C) probability of each label given the topics and that there is some label: the best scores.

        A label implies that there is some, so its probability is only divided by that of having any.
        """
        chance = self.label_chance(topics)
        return chance / (1 - np.prod(1 - chance, axis=-1, keepdims=True))


@dataclass(frozen=True, eq=False)
class Clip:
    """One clip: (C,) bools of topics and labels, (T, 1024) and (T, 128) uint8 of frames."""

    name: str
    topics: np.ndarray
    labels: np.ndarray
    rgb: np.ndarray
    audio: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """(1152,) mean over time of the dequantised frames."""
        return dequantised(np.concatenate([self.rgb.mean(0), self.audio.mean(0)]))


def directions(settings: SetSettings) -> tuple[np.ndarray, np.ndarray]:
    """(C, 3, 1152) words of all classes, the sound last, and (S, 1152) scenes; all of length one."""
    rng = np.random.default_rng([settings.seed, 0])
    words = rng.normal(size=(settings.classes, VISUAL + 1, RGB + AUDIO))
    words[:, :VISUAL, RGB:] = 0
    words[:, VISUAL, :RGB] = 0
    scenes = rng.normal(size=(SCENES, RGB + AUDIO))
    return words / np.linalg.norm(words, axis=-1, keepdims=True), scenes / np.linalg.norm(scenes, axis=1)[:, None]


def draw_labels(settings: SetSettings, topics: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(C,) labels of a clip with these topics; at least one."""
    while True:
        labels = rng.random(settings.classes) < settings.label_chance(topics)
        if labels.any():
            return labels


def draw_clip(settings: SetSettings, words: np.ndarray, scenes: np.ndarray, part: str, index: int) -> Clip:
    """The clip of this number; it depends on nothing that was drawn before."""
    rng = np.random.default_rng([settings.seed, 1 + PARTS.index(part), index])
    topics = np.zeros(settings.classes, bool)
    while not topics.any():
        topics = rng.random(settings.classes) < settings.prior
    decoys = ~topics & (rng.random(settings.classes) < settings.prior)
    length = int(rng.integers(settings.min_frames, settings.max_frames + 1))
    frames = rng.normal(size=(length, RGB + AUDIO), scale=NOISE)
    first, second = scenes[rng.choice(len(scenes), 2, replace=False)]
    cut = rng.integers(length)
    frames[:cut] += NOISE * SCENE * first
    frames[cut:] += NOISE * SCENE * second
    for classes, times in ((topics, 1), (decoys, FAINT)):
        for shown in np.flatnonzero(classes):
            count = min(times * int(rng.integers(SHOWN[0], SHOWN[1] + 1)), length)
            said = words[shown, rng.integers(VISUAL + 1, size=count)]
            frames[rng.choice(length, count, replace=False)] += NOISE * WORD / times * said
    stored = quantised(frames)
    labels = draw_labels(settings, topics, rng)
    return Clip(f"{part[:2]}{index:06d}", topics, labels, stored[:, :RGB], stored[:, RGB:])


def quantised(values: np.ndarray) -> np.ndarray:
    """Numbers as YouTube-8M stores them: uint8 of -2 to 2."""
    return np.clip(np.rint((values + 2 - 4 / 512) * 255 / 4), 0, 255).astype(np.uint8)


def dequantised(values: np.ndarray) -> np.ndarray:
    """The numbers that stored bytes stand for."""
    return values * (4 / 255) + 4 / 512 - 2


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of a part: (V, C) topics and labels, (V, 1152) means over time."""

    topics: np.ndarray
    labels: np.ndarray
    means: np.ndarray


def write_set(settings: SetSettings, folder: Path, jobs: int = 1) -> dict[str, Any]:
    """Write all files and ceiling.json, whose contents are returned."""
    if not 1 <= settings.min_frames <= settings.max_frames <= MOST_FRAMES:
        sizes = f"--min-frames {settings.min_frames} --max-frames {settings.max_frames}"
        raise click.UsageError(f"{sizes}: between 1 and {MOST_FRAMES}, the first not above the second")
    if any(folder.glob("*.tfrecord")):
        raise click.UsageError(f"{folder} already holds a set: remove it or name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    truth: dict[str, Truth] = {}
    for part in PARTS:
        shares = [shard for shard in _shares(settings, part) if len(shard)]
        tasks = [
            joblib.delayed(_write_shard)(settings, part, shard, folder / f"{part}{number:04d}.tfrecord")
            for number, shard in enumerate(shares)
        ]
        found = joblib.Parallel(n_jobs=jobs)(tasks)
        truth[part] = Truth(*(np.concatenate(columns) for columns in zip(*found, strict=True)))
    told = ceilings(settings, truth["train"], truth["validate"])
    (folder / "ceiling.json").write_text(json.dumps(told, indent=1) + "\n")
    return told


def _shares(settings: SetSettings, part: str) -> list[np.ndarray]:
    return np.array_split(np.arange(getattr(settings, part)), settings.shards)


def _write_shard(
    settings: SetSettings, part: str, indices: np.ndarray, path: Path
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    words, scenes = directions(settings)
    seen: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def payloads() -> Iterator[bytes]:
        for index in indices:
            clip = draw_clip(settings, words, scenes, part, int(index))
            seen.append((clip.topics, clip.labels, clip.mean))
            yield frame_record(clip.name.encode(), np.flatnonzero(clip.labels).tolist(), clip.rgb, clip.audio)

    write_records(path, payloads())
    topics, labels, means = (np.stack(column) for column in zip(*seen, strict=True))
    return topics, labels, means


def ceilings(settings: SetSettings, train: Truth, validate: Truth, draws: int = 50) -> dict[str, Any]:
    """Measures of the best possible scores and of baselines on the validate part."""
    best, rng = settings.posterior(validate.topics), np.random.default_rng([settings.seed, 3])
    redrawn = [
        measures(best, np.stack([draw_labels(settings, topics, rng) for topics in validate.topics]))
        for _ in range(draws)
    ]
    spread = {name: [one[name] for one in redrawn] for name in redrawn[0]}
    frequency = np.broadcast_to(train.labels.mean(0), validate.labels.shape)
    return {
        "settings": dataclasses.asdict(settings),
        "ceiling": measures(best, validate.labels),
        "ceiling_over_draws": {
            name: {"mean": float(np.mean(values)), "deviation": float(np.std(values))}
            for name, values in spread.items()
        },
        "draws": draws,
        "class_frequencies": measures(frequency, validate.labels),
        "mean_linear": measures(_ridge(train, validate), validate.labels),
        "mean_known_words": measures(_known_words(settings, train, validate), validate.labels),
        "labels_a_clip": float(validate.labels.sum(1).mean()),
    }


def _ridge(train: Truth, validate: Truth, strength: float = 1e-3) -> np.ndarray:
    """(V, C) scores of least squares from the mean over time, learned on the train part.

    The strength is the best of 1e-6, 1e-5, ..., 0.1 for the default set.
    """
    centre = train.means.mean(0)
    x = train.means - centre
    gram = x.T @ x / len(x) + strength * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x.T @ (train.labels - train.labels.mean(0)) / len(x))
    return (validate.means - centre) @ weights + train.labels.mean(0)


def _known_words(settings: SetSettings, train: Truth, validate: Truth) -> np.ndarray:
    """(V, C) scores from the mean over time when all words and scenes are known.

    Least squares tells how much of each direction a mean holds; a logistic regression for each class, learned on
    the train part, reads its own words' amounts.
    """
    words, scenes = directions(settings)
    every = np.concatenate([words.reshape(-1, words.shape[-1]), scenes])
    inverse = np.linalg.pinv(every)
    shape = (-1, settings.classes, VISUAL + 1)
    known, asked = (
        (part.means @ inverse)[:, : settings.classes * (VISUAL + 1)].reshape(shape) for part in (train, validate)
    )
    scores = np.zeros(validate.labels.shape)
    for index in range(settings.classes):
        labels = train.labels[:, index]
        if labels.any() and not labels.all():
            fitted = LogisticRegression(C=1e3, max_iter=1000).fit(known[:, index], labels)
            scores[:, index] = fitted.predict_proba(asked[:, index])[:, 1]
    return scores


_DEFAULT = SetSettings()
_SOME = click.IntRange(min=1)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--train", default=_DEFAULT.train, show_default=True, type=_SOME, help="Clips to learn from.")
@click.option("--validate", default=_DEFAULT.validate, show_default=True, type=_SOME, help="Clips to test on.")
@click.option("--classes", default=_DEFAULT.classes, show_default=True, type=click.IntRange(min=2))
@click.option(
    "--topics",
    default=_DEFAULT.topics,
    show_default=True,
    type=click.FloatRange(0.1),
    help="Topics a clip, about.",
)
@click.option(
    "--missed",
    default=_DEFAULT.missed,
    show_default=True,
    type=click.FloatRange(0, 1, max_open=True),
    help="Share of topics that are no label.",
)
@click.option(
    "--added", default=_DEFAULT.added, show_default=True, type=click.FloatRange(0, 1), help="Wrong labels a clip."
)
@click.option("--min-frames", default=_DEFAULT.min_frames, show_default=True, type=int)
@click.option("--max-frames", default=_DEFAULT.max_frames, show_default=True, type=int)
@click.option("--shards", default=_DEFAULT.shards, show_default=True, type=_SOME, help="Files of each part.")
@click.option("--seed", default=_DEFAULT.seed, show_default=True, type=click.IntRange(min=0))
@click.option("--jobs", default=2, show_default=True, type=_SOME, help="Files at once.")
def main(folder: Path, jobs: int, **values: Any) -> None:
    """Write the set to FOLDER and tell its ceiling."""
    settings = SetSettings(**values)
    told = write_set(settings, folder, jobs)
    for name in ("class_frequencies", "mean_linear", "mean_known_words", "ceiling"):
        figures = "  ".join(f"{measure} {100 * value:.1f}" for measure, value in told[name].items())
        click.echo(f"{name.replace('_', ' '):<18}{figures}")
    click.echo(f"{settings.train} + {settings.validate} clips: {folder}")


if __name__ == "__main__":
    main()
