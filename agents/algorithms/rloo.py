"""RLOO: rewards measured against the others of the group (Ahmadian et al. 2024, arXiv 2402.14740).

A group is the episodes of one query; every role has its own groups. An observer's baseline is the
mean over responses to *different* pioneers: not the value of its state, but still independent of
its own action, so the gradient stays unbiased.
"""

from __future__ import annotations

from torch import Tensor

from agents.algorithms.base import Algorithm
from agents.algorithms.configs import RLOOConfig
from agents.maths.advantages import leave_one_out_mean, returns_to_go


class RLOO(Algorithm):
    """REINFORCE with the mean of the other responses of the group as baseline.

    Source: Ahmadian et al. 2024, "Back to Basics" (arXiv 2402.14740), eq. 9. The clipped ratio is
    that of PPO: it does nothing in the first step on a batch, which is all the paper takes.
    """

    # Differs from Ahmadian et al.: they give every token the return of the whole response. Here a
    # token is not paid for the penalties before it, which it cannot change.
    Config = RLOOConfig

    def advantages(
        self, rewards: Tensor, mask: Tensor, baselines: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Subtract from the rewards to go what the others of the group have earned."""
        returns = returns_to_go(rewards, mask, gamma=self.config.gamma)
        others = leave_one_out_mean(returns[:, 0], self.config.group_size)
        baselines = others[:, None] * mask
        return (returns - baselines) * mask, returns, baselines
