"""GRPO: rewards in units of the group's deviation (Shao et al. 2024, arXiv 2402.03300).

A group is the episodes of one query. With observers every role has its own groups, in which all
agents of an episode are paid as they are in the game: MAGRPO (Liu et al. 2025, arXiv 2508.04652),
whose joint return is that of `credit="shared"`.
"""

from __future__ import annotations

from torch import Tensor

from agents.algorithms.base import Algorithm
from agents.algorithms.configs import GRPOConfig
from agents.maths.advantages import group_mean, group_std, returns_to_go


class GRPO(Algorithm):
    """Group-relative advantages, divided by the deviation of the group.

    Source: Shao et al. 2024, DeepSeekMath (arXiv 2402.03300), eq. 3 and section 4.1.2.
    """

    divides_by_deviation = True
    Config = GRPOConfig

    def advantages(
        self, rewards: Tensor, mask: Tensor, baselines: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compare the return of the response with its group's, in units of their deviation."""
        returns = returns_to_go(rewards, mask, gamma=self.config.gamma)
        totals, size = returns[:, 0], self.config.group_size
        means = group_mean(totals, size)
        advantages = totals - means
        if self.divides_by_deviation:
            advantages = advantages / (group_std(totals, size) + 1e-4)
        return advantages[:, None] * mask, returns, means[:, None] * mask
