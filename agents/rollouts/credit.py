"""Credit: an agent's shared reward, split into the rewards of its own turn and of later turns.

How rewards are shared is a rule of the game (`cory_env.game.share`).
"""

from __future__ import annotations

import numpy as np

from cory_env.game import RewardSharing, share
from cory_env.types import Float64Array


def split_credit(
    task_rewards: Float64Array, seat: int, sharing: RewardSharing, *, causal: bool
) -> tuple[Float64Array, Float64Array]:
    """Split an agent's shared reward into the rewards of its own turn and of later turns.

    The rewards of earlier turns are a constant of the state that the agent acts in. Leaving them
    out keeps the expected gradient and lowers its variance.

    Args:
        task_rewards: (B, A) in turn order.
        seat: the agent's place in turn order.
        sharing: how rewards are shared.
        causal: leave out the rewards of earlier turns, instead of adding them to those of its own.

    Returns:
        (B,) now and (B,) later; without `causal` their sum is the agent's whole shared reward.
    """
    decided = np.zeros_like(task_rewards)
    first = seat if causal else 0
    decided[:, first : seat + 1] = task_rewards[:, first : seat + 1]
    later = shares_from(task_rewards, seat + 1, sharing)
    return share(decided, sharing)[:, seat], later[:, seat]


def shares_from(task_rewards: Float64Array, seat: int, sharing: RewardSharing) -> Float64Array:
    """Return (B, A) each agent's share of the task rewards of a turn and of those after it.

    Args:
        task_rewards: (B, A) in turn order.
        seat: place of the turn.
        sharing: how rewards are shared.
    """
    decided = np.zeros_like(task_rewards)
    decided[:, seat:] = task_rewards[:, seat:]
    return share(decided, sharing)
