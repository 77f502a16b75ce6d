"""Rewards per token, returns, GAE, whitening and group baselines: pure functions of tensors.

Every function over (B, T) tensors takes the response mask (True = counts) and never lets a masked
entry through.
"""

from __future__ import annotations

import torch
from torch import Tensor


def token_rewards(final_rewards: Tensor, penalties: Tensor, mask: Tensor) -> Tensor:
    """Spread an episode over its tokens: −penalty at each, the reward at the last.

    Args:
        final_rewards: (B,).
        penalties: (B, T).
        mask: (B, T) bool, True for a prefix of each row.

    Returns:
        (B, T), 0 where masked.
    """
    return (last_place(mask) * final_rewards[:, None]) - penalties * mask


def last_place(mask: Tensor) -> Tensor:
    """Mark the last entry of each row of a mask (B, T) that is True for a prefix of it."""
    return mask & (mask.long().cumsum(1) == mask.sum(1, keepdim=True))


def next_step(values: Tensor, mask: Tensor) -> Tensor:
    """Shift (B, T) values to the left: what stands at t is the value at t + 1, 0 after the end."""
    kept = values * mask
    return torch.cat([kept[:, 1:], torch.zeros_like(kept[:, :1])], dim=1) * mask


def returns_to_go(rewards: Tensor, mask: Tensor, *, gamma: float) -> Tensor:
    """Sum what each token and those after it earn: G_t = Σ_k γ^k r_{t+k}.

    Args:
        rewards: (B, T) at times [0, T).
        mask: (B, T) bool, True for a prefix of each row.
        gamma: discount in [0, 1].

    Returns:
        (B, T), 0 where masked.
    """
    rewards = rewards * mask
    returns = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        running = rewards[:, t] + gamma * running
        returns[:, t] = running
    return returns * mask


def gae(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    *,
    gamma: float,
    lam: float,
    last_values: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates: A_t = Σ_k (γλ)^k δ_{t+k}, δ_t = r_t + γ V_{t+1} − V_t.

    Source: Schulman et al. 2016, arXiv 1506.02438, eq. 16. The value after the last token is 0: a
        response that ends has no future, also when it ends at its length limit, since the game ends
        it there. An episode that is cut, though it would have gone on, has one (Pardo et al. 2018,
        arXiv 1712.00378).

    Args:
        rewards: (B, T) at times [0, T).
        values: (B, T) at times [0, T).
        mask: (B, T) bool, True for a prefix of each row.
        gamma: discount in [0, 1].
        lam: λ in [0, 1].
        last_values: (B,) at the time after the last of each row; 0 if None.

    Returns:
        Advantages and returns (advantage + value), both (B, T) and 0 where masked.
    """
    following = next_step(values, mask)
    if last_values is not None:
        following = following + last_place(mask) * last_values[:, None]
    errors = rewards + gamma * following - values
    advantages = returns_to_go(errors, mask, gamma=gamma * lam)
    return advantages, (advantages + values) * mask


def whiten(values: Tensor, mask: Tensor, population: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Shift and scale by the moments of a population: to mean 0 and variance 1 over all of it.

    Args:
        values: (B, T).
        mask: (B, T) bool.
        population: (N,) everything that is whitened together; None for the values that count.

    Returns:
        The whitened values, 0 where masked, and the scalar standard deviation they were divided by.
    """
    if population is None:
        population = values[mask]
    mean = population.mean()
    std = (population.var(unbiased=False) + 1e-8).sqrt()
    return (values - mean) / std * mask, std


def group_mean(values: Tensor, group_size: int) -> Tensor:
    """Mean of each group, for each of its members.

    Args:
        values: (B,), groups one after the other.
        group_size: G, divides B.
    """
    return values.view(-1, group_size).mean(1).repeat_interleave(group_size)


def group_std(values: Tensor, group_size: int) -> Tensor:
    """Standard deviation (unbiased) of each group, for each of its members; 0 in groups of one."""
    if group_size == 1:
        return torch.zeros_like(values)
    return values.view(-1, group_size).std(1).repeat_interleave(group_size)


def leave_one_out_mean(values: Tensor, group_size: int) -> Tensor:
    """Mean of the others of the group; 0 in groups of one.

    Source: RLOO (Ahmadian et al. 2024, arXiv 2402.14740, eq. 9).

    Args:
        values: (B,), groups one after the other.
        group_size: G, divides B.
    """
    totals = group_mean(values, group_size) * group_size
    return (totals - values) / max(group_size - 1, 1)


def explained_variance(predictions: Tensor, targets: Tensor) -> Tensor:
    """1 − Var(target − prediction) / Var(target) of values (N,); 0 for a constant target."""
    variance = targets.var(unbiased=False)
    residuals = (targets - predictions).var(unbiased=False)
    return torch.where(variance > 0, 1 - residuals / variance.clamp(min=1e-12), 0.0)
