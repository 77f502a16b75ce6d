"""What an agent is paid, split into what its own turn decides and what later turns decide."""

from __future__ import annotations

import numpy as np

from cory_env.game import RewardSharing, share
from cory_env.types import Float64Array


def split_credit(
    task_rewards: Float64Array, seat: int, sharing: RewardSharing, *, causal: bool
) -> tuple[Float64Array, Float64Array]:
    """Split what an agent is paid into what its turn decides and what later turns decide.

    What was decided before its turn is a constant of the state it acts in: left out, the expected
    gradient is the same and its variance smaller.

    Args:
        task_rewards: (B, A) in turn order.
        seat: the agent's place in turn order.
        sharing: how rewards are shared.
        causal: leave out what earlier turns decided, instead of counting it to the agent's own.

    Returns:
        (B,) now and (B,) later; with `causal` false their sum is the agent's reward.
    """
    decided = np.zeros_like(task_rewards)
    later = np.zeros_like(task_rewards)
    first = seat if causal else 0
    decided[:, first : seat + 1] = task_rewards[:, first : seat + 1]
    later[:, seat + 1 :] = task_rewards[:, seat + 1 :]
    return share(decided, sharing)[:, seat], share(later, sharing)[:, seat]
