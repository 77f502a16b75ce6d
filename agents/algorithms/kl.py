"""The coefficient of the KL penalty: fixed, or steered towards a target."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class KLController:
    """Coefficient η of one policy; it follows the policy through role exchanges.

    Without a target, η is fixed. With one: η ← η (1 + clip(KL / target − 1, ±0.2) · n / horizon).
    Source: Ziegler et al. 2019, arXiv 1909.08593, section 2.2.
    """

    coef: float
    """η, >= 0."""
    target: float | None = None
    """Wanted KL in nats per response, or None."""
    horizon: int = 10_000
    """Episodes."""

    def update(self, kl: float, episodes: int) -> None:
        """Take in the mean KL of a batch of episodes."""
        if self.target is None:
            return
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.coef *= 1 + error * episodes / self.horizon
