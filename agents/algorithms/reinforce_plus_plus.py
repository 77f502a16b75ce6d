"""REINFORCE++: rewards measured against the batch alone (Hu et al. 2025, arXiv 2501.03262)."""

from __future__ import annotations

from torch import Tensor

from agents.algorithms.base import Algorithm
from agents.algorithms.configs import ReinforcePlusPlusConfig
from agents.maths.advantages import returns_to_go


class ReinforcePlusPlus(Algorithm):
    """REINFORCE++: returns to go, whitened over the whole batch, and PPO's clipped step.

    Source: Hu et al. 2025, arXiv 2501.03262, eq. 5 to 8.
    """

    Config = ReinforcePlusPlusConfig

    def advantages(
        self, rewards: Tensor, mask: Tensor, baselines: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rewards to go, measured against nothing."""
        returns = returns_to_go(rewards, mask, gamma=self.config.gamma)
        return returns, returns, returns * 0
