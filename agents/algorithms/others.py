"""Measure what tokens have earned against the other responses of the batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from agents.distributed.world import World
from agents.maths.advantages import returns_to_go


def against_others(
    rewards: Tensor, mask: Tensor, max_new_tokens: int, world: World
) -> tuple[Tensor, Tensor, Tensor]:
    """Measure rewards to go against the mean of all other responses at the same token.

    Args:
        rewards: (B, T) of each token, of this process.
        mask: (B, T) bool.
        max_new_tokens: the longest response that any process may have.
        world: the processes whose rows are one batch.

    Returns:
        Advantages, returns, and what they were measured against; all (B, T), 0 where masked.
    """
    returns = returns_to_go(rewards, mask, gamma=1.0)
    room = (0, max_new_tokens - mask.shape[1])
    sums = world.total(torch.stack([pad(returns.sum(0), room), pad(mask.sum(0), room)]))
    total, count = sums[:, : mask.shape[1]]
    others = (total - returns) / (count - 1).clamp(min=1) * mask
    return returns - others, returns, others
