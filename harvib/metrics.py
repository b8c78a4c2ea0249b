"""Figures of a classifier from its predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import confusion_matrix
from torch import nn

from harvib.classifier import Classifier
from harvib.data import ClipSet
from harvib.filed import FileClassifier
from harvib.gap import GlobalAveragePrecision, HitAtOne, MeanAveragePrecision, Measure, Perr
from harvib.labels import LabelSets
from harvib.measure import ACCURACY, GAP
from harvib.objectives import label_loss

BATCH = 128
BATCH_BEHIND_FRONT = 16
"""Clips at once: the maps that a front reads and makes take some thousand times the memory of features."""
_VALUES = 1 << 22
"""Features at once, 16 MiB of float32: memory for larger pieces is asked of the system anew each time."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model does on some clips: (V, C) logits and labels, (V,) or sets, in the order of the clips.

    The logits are kept, 4 C bytes a clip: 100,000 clips of 3,862 classes take 1.5 GB.
    """

    logits: np.ndarray
    labels: np.ndarray | LabelSets

    @property
    def several(self) -> bool:
        """Whether clips may have several labels."""
        return isinstance(self.labels, LabelSets)

    @property
    def predictions(self) -> np.ndarray:
        """(V,) most likely class; the lower index of equals."""
        return self.logits.argmax(1)

    @property
    def measure(self) -> str:
        """What `score` is called."""
        return GAP if self.several else ACCURACY

    @property
    def score(self) -> float:
        """What models are chosen by, 0 to 1: accuracy, or of several labels GAP@20."""
        return self._measured(GlobalAveragePrecision()) if self.several else self.accuracy

    @property
    def accuracy(self) -> float:
        """Share of clips whose most likely class is theirs, or of several labels (Hit@1) among theirs, 0 to 1."""
        if self.several:
            return self._measured(HitAtOne())
        return float((self.predictions == self.labels).mean())

    @property
    def loss(self) -> float:
        """Mean over the clips in nats: cross entropy, or of several labels the sum of those of the classes."""
        if isinstance(self.labels, LabelSets):
            parts = (
                label_loss(torch.from_numpy(self.logits[at]), dense).item() * len(dense)
                for at, dense in self.labels.pieces()
            )
            return sum(parts) / len(self.labels)
        return float(nn.functional.cross_entropy(torch.from_numpy(self.logits), torch.from_numpy(self.labels)))

    def figures(self) -> dict[str, float]:
        """All figures by the names that they have in report.json; of several labels also gap, perr and map."""
        found = {"accuracy": self.accuracy, "loss": self.loss}
        if self.several:
            found |= {"gap": self.score, "perr": self._measured(Perr())}
            found["map"] = self._measured(MeanAveragePrecision())
        return found

    def confusion(self) -> np.ndarray:
        """(C, C) counts: row is the true class, column the predicted one; TypeError for several labels."""
        if self.several:
            raise TypeError("clips with several labels have no confusion matrix")
        classes = np.arange(self.logits.shape[1])
        return np.asarray(confusion_matrix(self.labels, self.predictions, labels=classes))

    def _measured(self, measure: Measure) -> float:
        assert isinstance(self.labels, LabelSets)
        for at, dense in self.labels.pieces():
            measure.update(self.logits[at], dense)
        return measure.compute()


def by_part(results: Mapping[str, Evaluation]) -> dict[str, dict[str, float]]:
    """The figures of each part, as they stand in report.json: by name, then by part."""
    found = {part: result.figures() for part, result in results.items()}
    names = next(iter(found.values()))
    return {name: {part: figures[name] for part, figures in found.items()} for name in names}


@torch.no_grad()
def evaluate(model: Classifier | FileClassifier, clips: ClipSet, device: torch.device) -> Evaluation:
    """Run a model in evaluation mode over a set of clips; its training mode is restored."""
    training = model.training
    batch = BATCH_BEHIND_FRONT
    if model.front is None:
        longest = int((clips.offsets[clips.clips + 1] - clips.offsets[clips.clips]).max())
        batch = max(1, min(BATCH, _VALUES // (longest * clips.dim)))
    model.eval()
    logits, done = torch.empty(0), 0
    for part in clips.batches(batch, device):
        found = model(part.features, part.lengths).cpu()
        if not done:
            # All at once: of many classes the pieces together take as much again.
            logits = found.new_empty(len(clips), found.shape[1])
        logits[done : done + len(found)] = found
        done += len(found)
    model.train(training)
    return Evaluation(logits.numpy(), clips.own_labels())
