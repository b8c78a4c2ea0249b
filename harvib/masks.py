"""The variational information bottleneck mask: one Gaussian factor a unit, and the rule that drops units.

Dai et al., "Compressing Neural Networks using the Variational Information Bottleneck" (VIBNet), ICML 2018;
applied to the gates of an LSTM by Srivastava et al., WACV 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harvib.noise import normal

INITIAL_MU = 1.0
INITIAL_LOG_VARIANCE = -9.0
INITIAL_SPREAD = 0.01
_STILL = -60.0


class VIBMask(nn.Module):
    """A factor z ~ N(mu, sigma^2) for each of `size` units.

    A unit is useful while its noise is small against its mean: with alpha = sigma^2 / mu^2 it is kept iff
    log alpha < 0, that is sigma^2 < mu^2.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.mu = nn.Parameter(INITIAL_MU + INITIAL_SPREAD * torch.randn(size))
        self.log_variance = nn.Parameter(INITIAL_LOG_VARIANCE + INITIAL_SPREAD * torch.randn(size))

    def forward(self, batch: int) -> Tensor:
        """Factors of shape (batch, size): in training one fresh draw a sequence, in evaluation `hard()`."""
        if not self.training:
            return self.hard().expand(batch, -1)
        return self.mu + normal(batch, self.mu) * torch.exp(0.5 * self.log_variance)

    def one_draw(self) -> Tensor:
        """Factors of shape (size,): one draw for all clips, the same on all processes that share a batch."""
        return self.mu + torch.randn_like(self.mu) * torch.exp(0.5 * self.log_variance)

    def log_alpha(self) -> Tensor:
        """log(sigma^2 / mu^2), (size,); +inf where mu is zero."""
        return self.log_variance - 2 * torch.log(self.mu.abs())

    def keep(self) -> Tensor:
        """Which units stay, (size,) bool."""
        return self.log_alpha() < 0

    def hard(self) -> Tensor:
        """The evaluation factors, (size,): mu where the unit stays, exactly zero where it does not."""
        return torch.where(self.keep(), self.mu, torch.zeros_like(self.mu))

    @torch.no_grad()
    def freeze(self, open_all: bool = False) -> None:
        """Make it a constant: its hard factors without noise, or one where all are to be open."""
        self.mu.copy_(torch.ones_like(self.mu) if open_all else self.hard())
        self.log_variance.fill_(_STILL)
        self.mu.requires_grad_(False)
        self.log_variance.requires_grad_(False)

    def kl(self) -> Tensor:
        """Upper bound of the information through the mask in nats: sum_j log(1 + mu_j^2 / sigma_j^2).

        VIBNet eq. 10 with the Jensen terms dropped; counted once a mask, not once a time step.
        """
        # Softplus of -log alpha neither overflows nor cancels, whatever the variance; the tiny number makes value
        # and gradient finite (zero) at mu = 0 and is nothing beside any other mu.
        tiny = torch.finfo(self.mu.dtype).tiny
        return nn.functional.softplus(torch.log(self.mu.square() + tiny) - self.log_variance).sum()
