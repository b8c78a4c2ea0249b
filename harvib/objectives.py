"""The terms of the loss, each a pure function, and their sum with weights.

CE + beta * sum over gates KL + beta_input * KL of the input (Srivastava et al., WACV 2021, eq. 12), and for
distillation the soft targets of Hinton et al., 2015.
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


def soft_target_loss(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of the softened distributions, in nats a clip; (B, C) both."""
    student = functional.log_softmax(logits / temperature, dim=1)
    target = functional.log_softmax(teacher / temperature, dim=1)
    divergence = functional.kl_div(student, target, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


def loss_terms(
    model: Classifier, logits: Tensor, labels: Tensor, teacher: Tensor | None, weights: LossWeights
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss to minimise, and its parts before weighting: ce, kl_gates, kl_input, distill."""
    cross_entropy = functional.cross_entropy(logits, labels, label_smoothing=weights.label_smoothing)
    parts = {"ce": cross_entropy, "kl_gates": gate_kl(model), "kl_input": input_kl(model)}
    loss = cross_entropy
    if teacher is not None and weights.distill > 0:
        parts["distill"] = soft_target_loss(logits, teacher, weights.temperature)
        loss = (1 - weights.distill) * loss + weights.distill * parts["distill"]
    loss = loss + weights.beta * parts["kl_gates"] + weights.beta_input * parts["kl_input"]
    return loss, parts
