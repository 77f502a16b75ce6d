"""The learner's mathematics: pure functions of tensors, no state, no models.

Every function over (B, T) tensors takes the response mask (True = counts) and never lets a masked
entry through.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Schedule = Literal["constant", "linear", "cosine"]


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the entries that count; 0 if none does."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


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


def token_rewards(final_rewards: Tensor, penalties: Tensor, mask: Tensor) -> Tensor:
    """Spread an episode over its tokens: −penalty at each, the reward at the last.

    Args:
        final_rewards: (B,).
        penalties: (B, T).
        mask: (B, T) bool, True for a prefix of each row.

    Returns:
        (B, T), 0 where masked.
    """
    last = mask & (mask.long().cumsum(1) == mask.sum(1, keepdim=True))
    return (last * final_rewards[:, None]) - penalties * mask


def next_step(values: Tensor, mask: Tensor) -> Tensor:
    """Shift (B, T) values to the left: what stands at t is the value at t + 1, 0 after the end."""
    kept = values * mask
    return torch.cat([kept[:, 1:], torch.zeros_like(kept[:, :1])], dim=1) * mask


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates: A_t = Σ_k (γλ)^k δ_{t+k}, δ_t = r_t + γ V_{t+1} − V_t.

    Source: Schulman et al. 2016, arXiv 1506.02438, eq. 16. The value after the last token is 0: a
        response that ends has no future, also when it ends at its length limit, since the game ends
        it there.

    Args:
        rewards: (B, T) at times [0, T).
        values: (B, T) at times [0, T).
        mask: (B, T) bool, True for a prefix of each row.
        gamma: discount in [0, 1].
        lam: λ in [0, 1].

    Returns:
        Advantages and returns (advantage + value), both (B, T) and 0 where masked.
    """
    deltas = (rewards + gamma * next_step(values, mask) - values) * mask
    advantages = torch.zeros_like(deltas)
    running = torch.zeros_like(deltas[:, 0])
    for t in reversed(range(deltas.shape[1])):
        running = deltas[:, t] + gamma * lam * running
        advantages[:, t] = running
    advantages = advantages * mask
    return advantages, (advantages + values) * mask


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
    log_probs: Tensor, sampled_log_probs: Tensor, mask: Tensor, cap: float
) -> Tensor:
    """Truncated weights of tokens that another engine has drawn: min(π/μ, cap).

    Source: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy training";
        truncation: Ionides 2008.

    Args:
        log_probs: (B, T) of the learner, log π.
        sampled_log_probs: (B, T) of the sampler, log μ.
        mask: (B, T) bool.
        cap: largest weight; 0 trusts the sampler: all weights are 1.

    Returns:
        (B, T).
    """
    if cap == 0:
        return torch.ones_like(log_probs)
    return ((log_probs - sampled_log_probs) * mask).exp().clamp(max=cap)


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


def explained_variance(predictions: Tensor, targets: Tensor) -> Tensor:
    """1 − Var(target − prediction) / Var(target) of values (N,); 0 for a constant target."""
    variance = targets.var(unbiased=False)
    residuals = (targets - predictions).var(unbiased=False)
    return torch.where(variance > 0, 1 - residuals / variance.clamp(min=1e-12), 0.0)


def stratified_order(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Shuffle rows into minibatches that each hold one row of every stratum of the batch.

    Column s of the result is a random order of the rows [s · N, (s + 1) · N), so that any number of
    processes that divides `size`, with consecutive rows each, has equal shares in every minibatch.

    Args:
        count: B, rows.
        size: M, rows per minibatch; divides B into N = B / M minibatches.
        generator: source of randomness.

    Returns:
        (N, M) row numbers; every row occurs once.
    """
    num_batches = count // size
    order = torch.rand(size, num_batches, generator=generator).argsort(1)
    return (order + torch.arange(size)[:, None] * num_batches).T


def schedule_factor(schedule: Schedule, iteration: int, iterations: int, warmup: int) -> float:
    """Return what the learning rates are multiplied by.

    Args:
        schedule: `constant`; `linear` from 1 to 0; `cosine`, half a period from 1 to 0 (Loshchilov
            & Hutter 2017, arXiv 1608.03983, eq. 5).
        iteration: >= 0.
        iterations: of the run; the factor would reach 0 there.
        warmup: iterations in which the factor rises from 1 / (warmup + 1) to 1.

    Returns:
        A factor in (0, 1].
    """
    if iteration < warmup:
        return (iteration + 1) / (warmup + 1)
    done = (iteration - warmup) / max(iterations - warmup, 1)
    match schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1.0 - done
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * done))
