"""Figures of a classifier from its predictions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import confusion_matrix
from torch import nn

from harvib.classifier import Classifier
from harvib.data import ClipSet
from harvib.onnxfile import OnnxClassifier

BATCH = 128
BATCH_BEHIND_FRONT = 16
"""Clips at once: the maps that a front reads and makes take some thousand times the memory of features."""
_VALUES = 1 << 22
"""Features at once, 16 MiB of float32: memory for larger pieces is asked of the system anew each time."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model does on some clips: (V, C) logits and (V,) labels, in the order of the clips."""

    logits: np.ndarray
    labels: np.ndarray

    @property
    def predictions(self) -> np.ndarray:
        """(V,) most likely class; the lower index of equals."""
        return self.logits.argmax(1)

    @property
    def accuracy(self) -> float:
        """Share of clips whose most likely class is theirs, 0 to 1."""
        return float((self.predictions == self.labels).mean())

    @property
    def loss(self) -> float:
        """Mean cross entropy in nats."""
        return float(nn.functional.cross_entropy(torch.from_numpy(self.logits), torch.from_numpy(self.labels)))

    def confusion(self) -> np.ndarray:
        """(C, C) counts: row is the true class, column the predicted one."""
        classes = np.arange(self.logits.shape[1])
        return np.asarray(confusion_matrix(self.labels, self.predictions, labels=classes))


@torch.no_grad()
def evaluate(model: Classifier | OnnxClassifier, clips: ClipSet, device: torch.device) -> Evaluation:
    """Run a model in evaluation mode over a set of clips; its training mode is restored."""
    training = model.training
    batch = BATCH_BEHIND_FRONT
    if model.front is None:
        longest = int((clips.offsets[clips.clips + 1] - clips.offsets[clips.clips]).max())
        batch = max(1, min(BATCH, _VALUES // (longest * clips.dim)))
    model.eval()
    logits = [model(part.features, part.lengths).cpu() for part in clips.batches(batch, device)]
    model.train(training)
    return Evaluation(torch.cat(logits).numpy(), clips.labels[torch.from_numpy(clips.clips)].numpy())
