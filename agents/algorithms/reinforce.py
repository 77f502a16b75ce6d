"""Critic-free algorithms that measure a response against others of its group, or against nothing.

A group is the episodes of one query; every role has its own groups, in which all agents of an
episode are paid as they are in the game (MAGRPO, Liu et al. 2025, arXiv 2508.04652). The baseline
of an observer is then the mean over responses to *different* pioneers: not the value of its state,
but still independent of its own action, so the gradient stays unbiased.
"""

from __future__ import annotations

from torch import Tensor

from agents.algorithms.base import Algorithm
from agents.functional import gae, group_mean, group_std, leave_one_out_mean


class ReinforcePlusPlus(Algorithm):
    """REINFORCE++: returns to go, whitened over the whole batch, and PPO's clipped step.

    Source: Hu et al. 2025, arXiv 2501.03262, eq. 5 to 8.
    """

    defaults = {"kl": "k1", "whitening": "role", "normalization": "token"}  # noqa: RUF012

    def advantages(
        self, rewards: Tensor, mask: Tensor, baselines: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rewards to go, measured against nothing."""
        returns, _ = gae(rewards, rewards * 0, mask, gamma=self.config.gamma, lam=1.0)
        return returns, returns, returns * 0


class RLOO(Algorithm):
    """REINFORCE with the mean of the other responses of the group as baseline.

    Source: Ahmadian et al. 2024, "Back to Basics" (arXiv 2402.14740), eq. 9. The clipped ratio is
    that of PPO: it does nothing in the first step on a batch, which is all the paper takes.
    """

    # Differs from Ahmadian et al.: they give every token the return of the whole response. Here a
    # token is not paid for the penalties before it, which it cannot change.
    defaults = {"group_size": 4, "whitening": "none", "normalization": "constant"}  # noqa: RUF012

    def advantages(
        self, rewards: Tensor, mask: Tensor, baselines: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Subtract from the rewards to go what the others of the group have earned."""
        returns, _ = gae(rewards, rewards * 0, mask, gamma=self.config.gamma, lam=1.0)
        others = leave_one_out_mean(returns[:, 0], self.config.group_size)
        baselines = others[:, None] * mask
        return (returns - baselines) * mask, returns, baselines


class GRPO(Algorithm):
    """Group-relative advantages, divided by the deviation of the group.

    Source: Shao et al. 2024, DeepSeekMath (arXiv 2402.03300), eq. 3 and section 4.1.2.
    """

    divides_by_deviation = True
    defaults = {  # noqa: RUF012
        **{"group_size": 8, "whitening": "none", "normalization": "sequence", "kl": "k3"},
    }

    def advantages(
        self, rewards: Tensor, mask: Tensor, baselines: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compare the return of the response with its group's, in units of their deviation."""
        returns, _ = gae(rewards, rewards * 0, mask, gamma=self.config.gamma, lam=1.0)
        totals, size = returns[:, 0], self.config.group_size
        means = group_mean(totals, size)
        advantages = totals - means
        if self.divides_by_deviation:
            advantages = advantages / (group_std(totals, size) + 1e-4)
        return advantages[:, None] * mask, returns, means[:, None] * mask


class DrGRPO(GRPO):
    """GRPO "done right": no division by the group's deviation or by the response's length.

    Source: Liu et al. 2025, arXiv 2503.20783, section 3.
    """

    # Differs from Liu et al.: they drop the KL penalty; here `--kl-coef 0` does.
    divides_by_deviation = False
    defaults = {  # noqa: RUF012
        **{"group_size": 8, "whitening": "none", "normalization": "constant", "kl": "exact"},
    }


class GSPO(GRPO):
    """GRPO with one ratio per response, the geometric mean of its tokens'.

    Source: Zheng et al. 2025, arXiv 2507.18071, eq. 5 to 7; clip ranges of section 5.1.
    """

    defaults = {  # noqa: RUF012
        **{"group_size": 8, "whitening": "none", "normalization": "sequence", "kl": "k3"},
        **{"ratio": "sequence", "clip": 3e-4, "clip_high": 4e-4},
    }
