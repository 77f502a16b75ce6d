"""Several asks of one role in an episode, which are one trajectory."""

from __future__ import annotations

import torch
from torch import Tensor

from agents.config.algorithm import AlgorithmConfig, CriticConfig
from agents.types import Rollout, ScoredTurn


def worth_before(
    config: AlgorithmConfig,
    coef: float,
    scored: ScoredTurn,
    continuation: Tensor,
    following: Tensor | None,
) -> Tensor:
    """Return (B,) what a turn is worth at the end of the turn of the same role before it.

    Args:
        config: of the algorithm.
        coef: η, price of a nat.
        scored: the turn. Where it was not made, what follows it is worth as much.
        continuation: (B,) what its first state is worth.
        following: (B,) the same of the role's next turn; None for none.
    """
    if config.kl == "exact":  # of the first state, which no action of the turn pays for
        continuation = continuation - coef * scored.kls[:, 0]
    otherwise = torch.zeros_like(continuation) if following is None else following
    return torch.where(scored.mask.any(1), config.gamma * continuation, otherwise)


def check_asked_alike(rollout: Rollout, config: AlgorithmConfig) -> None:
    """Check that nothing is measured against a turn that was not made.

    Raises:
        ValueError: if some episodes are asked less often than others, and that cannot be learnt
            from.
    """
    if all(bool(turn.tokens.response_mask.any(1).all()) for turn in rollout.turns):
        return
    if config.group_size > 1:
        raise ValueError(
            f"Expected all episodes of a group to be asked alike with group_size "
            f"{config.group_size}, got some that end earlier: pass --group-size 1, or an "
            "--algorithm with a critic, such as mappo."
        )
    if isinstance(config, CriticConfig) and config.handover == "value":
        raise ValueError(
            "Expected handover sampled where some episodes end earlier than others (there is "
            "not always a next turn), got value: pass --handover sampled."
        )
