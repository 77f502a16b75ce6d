"""What learns by the likelihood of given responses: no ratio, no baseline, no penalty.

The KL to the reference is only logged.
"""

from __future__ import annotations

import torch
from torch import Tensor

from agents.algorithms.base import Algorithm
from agents.config.algorithm import LearningConfig
from agents.maths.losses import Totals
from agents.policies.base import Policy
from agents.policies.llm import response_hidden
from agents.types import LossOutput, ScoredTurn, TokenBatch, Turn


class Likelihood(Algorithm):
    """Minimise the negative log-likelihood of responses. A subclass says of which, in `prepare`."""

    Config = LearningConfig
    losses = ("nll",)

    def loss(self, policy: str, batch: TokenBatch, totals: Totals | None = None) -> LossOutput:
        """Return the mean negative log-likelihood per token."""
        totals = totals or Totals.of(batch.response_mask)
        nll = -self.policies[policy].log_probs(batch).sum() / totals.tokens
        return LossOutput(nll, {"nll": nll.detach()})

    def advantages(
        self, rewards: Tensor, mask: Tensor, baselines: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Nothing is measured against anything: what is good is imitated."""
        nothing = torch.zeros_like(rewards)
        return nothing, rewards, nothing

    @torch.no_grad()
    def scored(self, turn: Turn) -> ScoredTurn:
        """Return what is logged of a turn."""
        rewards = turn.task_rewards
        return scored(self.policies[turn.policy], turn, torch.zeros_like(rewards), rewards)


def scored(policy: Policy, turn: Turn, baselines: Tensor, returns: Tensor) -> ScoredTurn:
    """Return what is logged of a turn of which nothing is measured token by token.

    Args:
        policy: whose turn it is.
        turn: as it was played.
        baselines: (B,) what returns were measured against.
        returns: (B,)
    """
    mask = turn.tokens.response_mask
    ref_hidden = response_hidden(policy.backbone, None, turn.tokens)
    scores = policy.score(turn.tokens, ref_hidden)
    return ScoredTurn(
        mask=mask,
        log_probs=scores.log_probs,
        kls=scores.kls,
        entropies=scores.entropies,
        baselines=baselines[:, None] * mask,
        returns=returns[:, None] * mask,
    )
