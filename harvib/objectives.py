"""The terms of the loss, each a pure function, and their sum with weights.

CE + beta * sum over gates KL + beta_input * KL of the input (Srivastava et al., WACV 2021, eq. 12), and for
distillation the soft targets of Hinton et al., 2015. Where clips have several labels, logits are the log-odds of
each class by itself, and both terms are summed over the classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from harvib.classifier import Classifier


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms; `beta` and `beta_input` are those of this step (warm-up applied)."""

    beta: float = 0.0
    beta_input: float = 0.0
    distill: float = 0.0
    temperature: float = 1.0
    label_smoothing: float = 0.0

    def scaled(self, strength: float) -> LossWeights:
        """Both betas times `strength`."""
        return replace(self, beta=self.beta * strength, beta_input=self.beta_input * strength)


def gate_kl(model: Classifier) -> Tensor:
    """Sum of the KL of all masks but the input's, in nats."""
    terms = [mask.kl() for name, mask in model.masks().items() if name != "input"]
    return torch.stack(terms).sum() if terms else torch.zeros((), device=model.selection.device)


def input_kl(model: Classifier) -> Tensor:
    """KL of the input mask, in nats; zero where it is open for good."""
    mask = model.masks().get("input")
    return torch.zeros((), device=model.selection.device) if mask is None else mask.kl()


def label_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross entropy in nats a clip, the mean over (B, C) logits.

    `labels` are (B,) classes, or (B, C) 0 and 1: then it is the sum over classes of binary cross entropies, which
    know no smoothing.
    """
    if labels.ndim == 1:
        return functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    return functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="sum") / len(
        logits
    )


def right(logits: Tensor, labels: Tensor) -> Tensor:
    """(B,) bool: whether the most likely class of a clip is its label, or among them; see `label_loss`."""
    best = logits.argmax(1)
    return best == labels if labels.ndim == 1 else labels.gather(1, best[:, None])[:, 0] > 0


def soft_target_loss(logits: Tensor, teacher: Tensor, temperature: float, several: bool = False) -> Tensor:
    """T^2 KL(teacher || student) of the softened distributions, in nats a clip; (B, C) both.

    For `several` labels each class has a distribution of its own, yes or no, and their divergences are summed.
    """
    if several:
        softened = torch.sigmoid(teacher / temperature)
        crossed, own = (
            functional.binary_cross_entropy_with_logits(each / temperature, softened, reduction="sum")
            for each in (logits, teacher)
        )
        return temperature**2 * (crossed - own) / len(logits)
    student = functional.log_softmax(logits / temperature, dim=1)
    target = functional.log_softmax(teacher / temperature, dim=1)
    divergence = functional.kl_div(student, target, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


def loss_terms(
    model: Classifier, logits: Tensor, labels: Tensor, teacher: Tensor | None, weights: LossWeights
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss to minimise, and its parts before weighting: ce, kl_gates, kl_input, distill."""
    cross_entropy = label_loss(logits, labels, weights.label_smoothing)
    parts = {"ce": cross_entropy, "kl_gates": gate_kl(model), "kl_input": input_kl(model)}
    loss = cross_entropy
    if teacher is not None and weights.distill > 0:
        parts["distill"] = soft_target_loss(logits, teacher, weights.temperature, labels.ndim == 2)
        loss = (1 - weights.distill) * loss + weights.distill * parts["distill"]
    loss = loss + weights.beta * parts["kl_gates"] + weights.beta_input * parts["kl_input"]
    return loss, parts
