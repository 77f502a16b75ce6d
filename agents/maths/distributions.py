"""Distributions over tokens: nucleus, log-probs, entropy and KL divergence; pure functions.

KL as a penalty, its coefficient and its place in reward or loss, is in `agents.algorithms`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def nucleus_mask(logits: Tensor, top_p: float) -> Tensor:
    """Mark the smallest set of tokens whose probability reaches `top_p`.

    Source: Holtzman et al. 2020, arXiv 1904.09751.

    Args:
        logits: (..., V).
        top_p: in (0, 1].

    Returns:
        (..., V) bool, True for kept tokens; the most probable token is always kept.
    """
    probs, order = logits.softmax(-1).sort(-1, descending=True)
    kept = probs.cumsum(-1) - probs < top_p
    return torch.zeros_like(kept).scatter(-1, order, kept)


def sampling_log_probs(
    logits: Tensor, *, temperature: float = 1.0, top_p: float = 1.0, kept_ids: Tensor | None = None
) -> Tensor:
    """Log-probabilities of the distribution that tokens are drawn from.

    Sampling and scoring both go through this function, so their ratio is 1 until the policy has
    moved.

    Args:
        logits: (..., V).
        temperature: > 0; divides the logits before the softmax.
        top_p: in (0, 1]; tokens outside the nucleus get -inf.
        kept_ids: (...) tokens that were drawn: they stay in even if the policy's nucleus has moved
            away from them, so that a ratio is never 0/0.

    Returns:
        (..., V) float32.
    """
    logits = logits.float()
    if temperature != 1.0:  # a pass over all of them
        logits = logits / temperature
    if top_p < 1.0:
        kept = nucleus_mask(logits.detach(), top_p)
        if kept_ids is not None:
            kept = kept.scatter(-1, kept_ids.unsqueeze(-1), True)
        logits = logits.masked_fill(~kept, -torch.inf)
    return logits.log_softmax(-1)


def entropy(log_probs: Tensor) -> Tensor:
    """Entropy in nats of distributions (..., V); tokens of probability 0 contribute 0."""
    return -_expectation(log_probs, log_probs)


def exact_kl(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
    """KL(π ‖ π_ref) over the whole vocabulary: Σ_v π(v) (log π(v) − log π_ref(v)).

    Source: CORY eq. 2. Differentiable in `log_probs`: this is the direct gradient.

    Args:
        log_probs: (..., V) of the policy.
        ref_log_probs: (..., V) of the reference.

    Returns:
        (...) nats, >= 0.
    """
    return _expectation(log_probs, log_probs - ref_log_probs)


def _expectation(log_probs: Tensor, values: Tensor) -> Tensor:
    # exp(-inf) * -inf is nan, and so is its gradient: take impossible tokens out of both factors.
    possible = log_probs > -torch.inf
    values = values.masked_fill(~possible, 0.0)
    return (log_probs.exp() * values).sum(-1)


def k2(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
    """½ log²(π/π_ref) of sampled tokens: a biased estimate of KL with an unbiased gradient.

    Source: Schulman 2020, "Approximating KL divergence".
    """
    return 0.5 * (log_probs - ref_log_probs) ** 2


def k3(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
    """π_ref/π − 1 − log(π_ref/π) of sampled tokens: an unbiased estimate of KL, never negative.

    As a loss, its gradient is that of KL(π_ref ‖ π). Source: Schulman 2020, "Approximating KL
    divergence"; GRPO (arXiv 2402.03300, eq. 4).
    """
    log_ratio = ref_log_probs - log_probs
    return log_ratio.exp() - 1 - log_ratio
