"""The clipped losses of policy and critic, and how losses are summed over tokens: pure functions.

Every function over (B, T) tensors takes the response mask (True = counts) and never lets a masked
entry through.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def clipped_surrogate(
    ratio: Tensor, advantages: Tensor, clip: float, clip_high: float | None = None
) -> Tensor:
    """PPO's objective per token, to be maximised: min(ρ A, clip(ρ, 1 − ε, 1 + ε) A).

    Source: Schulman et al. 2017, arXiv 1707.06347, eq. 7; a higher upper bound 1 + ε_high: DAPO (Yu
        et al. 2025, arXiv 2503.14476, section 3.1).

    Args:
        ratio: (B, T).
        advantages: (B, T).
        clip: ε > 0.
        clip_high: ε_high > 0; ε if None.
    """
    clipped = ratio.clamp(1 - clip, 1 + (clip if clip_high is None else clip_high))
    return torch.minimum(ratio * advantages, clipped * advantages)


def advantage_weights(
    advantages: Tensor, beta: float, cap: float, hard: float | None = None
) -> Tensor:
    """Weights of an advantage-weighted regression: min(exp(A/β), cap), or 1[A > ε].

    Source: AWR (Peng et al. 2019, arXiv 1910.00177), algorithm 1 and its cap of 20; the hard form
        is the binary one of CRR (Wang et al. 2020, arXiv 2006.15134).

    Args:
        advantages: (B, T).
        beta: β > 0.
        cap: largest weight.
        hard: ε; None for the exponential form.

    Returns:
        (B, T).
    """
    if hard is not None:
        return (advantages > hard).to(advantages.dtype)
    return (advantages / beta).exp().clamp(max=cap)


def sequence_log_ratio(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """Mean log-ratio of each response, at each of its tokens.

    Source: GSPO (Zheng et al. 2025, arXiv 2507.18071, eq. 7): s = (π/π_old)^{1/|y|}.

    Args:
        log_ratio: (B, T), 0 where masked.
        mask: (B, T) bool.

    Returns:
        (B, T), 0 where masked.
    """
    return (log_ratio.sum(1) / mask.sum(1).clamp(min=1))[:, None] * mask


def importance_weights(
    log_probs: Tensor, sampled_log_probs: Tensor, mask: Tensor, cap: float | None
) -> Tensor:
    """Truncated weights of tokens that another engine has drawn: min(π/μ, cap).

    Source: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy training";
        truncation: Ionides 2008.

    Args:
        log_probs: (B, T) of the learner, log π.
        sampled_log_probs: (B, T) of the sampler, log μ.
        mask: (B, T) bool.
        cap: largest weight; None trusts the sampler: all weights are 1.

    Returns:
        (B, T).
    """
    if cap is None:
        return torch.ones_like(log_probs)
    return ((log_probs - sampled_log_probs) * mask).exp().clamp(max=cap)


class Totals(NamedTuple):
    """The size of all that one optimiser step averages over, of which a batch may be a part."""

    episodes: int
    tokens: int

    @classmethod
    def of(cls, mask: Tensor) -> Totals:
        """Return the totals of a mask (B, T)."""
        return cls(len(mask), int(mask.sum()))


def aggregate(
    values: Tensor, mask: Tensor, normalization: str, max_new_tokens: int, totals: Totals
) -> Tensor:
    """Return a batch's share in the average of token losses over one optimiser step.

    The shares of the parts of a step add up to the average over the whole.

    Args:
        values: (B, T).
        mask: (B, T) bool.
        normalization: `constant` divides the sum by B · max_new_tokens, so that no token's weight
            depends on a length that was sampled: unbiased (Liu et al. 2025, arXiv 2503.20783).
            `token` divides it by the number of tokens. `sequence` is the mean over responses of the
            mean over their tokens: tokens of short responses weigh more.
        max_new_tokens: of the game.
        totals: of the step, for B and the number of tokens.

    Returns:
        A scalar.
    """
    match normalization:
        case "constant":
            return (values * mask).sum() / (totals.episodes * max_new_tokens)
        case "token":
            return (values * mask).sum() / totals.tokens
        case "sequence":
            return ((values * mask).sum(1) / mask.sum(1).clamp(min=1)).sum() / totals.episodes
        case _:
            raise ValueError(
                f"Expected constant, token or sequence normalization, got {normalization!r}."
            )


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, clip: float | None
) -> Tensor:
    """Half the squared error per token, with values held within `clip` of the old ones, if given.

    Source: the larger of both errors, as in OpenAI baselines' ppo2.
    """
    loss = (values - returns) ** 2
    if clip is not None:
        clipped = old_values + (values - old_values).clamp(-clip, clip)
        loss = torch.maximum(loss, (clipped - returns) ** 2)
    return 0.5 * loss
