"""Credit: what asks have earned, as rewards at the ends of an agent's own asks.

How rewards are shared is a rule of the game (`cory_env.game.earnings`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cory_env.types import Float64Array


def split_credit(
    earned: Float64Array,
    places: Sequence[int],
    ask: int,
    *,
    causal: bool,
    asked: NDArray[np.bool_] | None = None,
) -> tuple[Float64Array, Float64Array]:
    """Return what the agent of an ask has earned by it, and after it before it is asked again.

    The asks of one agent are one trajectory, and these are its rewards. What was earned before the
    agent's first ask is a constant of the state that it acts in. Leaving that out keeps the
    expected gradient and lowers its variance.

    Args:
        earned: (B, K, A) what each ask has earned each agent.
        places: (K,) the agent of each ask, in turn order.
        ask: which one.
        causal: leave out what was earned before an agent's first ask, instead of adding it there.
        asked: (B, K) in which episodes each ask was made; None for all.

    Returns:
        (B,) now and (B,) later; 0 where the ask was not made. Without `causal` all parts of an
        agent's asks add up to its whole reward.
    """
    place = places[ask]
    asked = np.ones(earned.shape[:2], dtype=bool) if asked is None else asked
    own = asked & (np.array(places) == place)
    mine = earned[:, :, place]
    first = ~own[:, :ask].any(axis=1) & (not causal)
    now = np.where(first, mine[:, : ask + 1].sum(axis=1), mine[:, ask])
    waiting = ~np.logical_or.accumulate(own[:, ask + 1 :], axis=1)
    later = (mine[:, ask + 1 :] * waiting).sum(axis=1)
    return now * asked[:, ask], later * asked[:, ask]
