"""What a reward has to tell besides its scores, and what it has cost."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from agents.distributed.world import World
from agents.types import Costly, Detailed
from cory_env.game import Rules
from cory_env.types import Reward


class RewardDetails:
    """The details of the episodes that were played last, and the tokens of a judge."""

    def __init__(self, reward: Reward, world: World):
        self._reward = reward
        self._world = world
        self._answers: list[int] = []
        self._last: dict[str, Tensor] = {}

    def note(self, rules: Rules) -> None:
        """Take the details of the reward's last call: that of whole episodes, answer by answer."""
        self._answers = [turn for turn in range(len(rules.turns)) if rules.is_answer(turn)]
        details = self._reward.details if isinstance(self._reward, Detailed) else {}
        rows = {name: row.reshape(-1, len(self._answers)) for name, row in details.items()}
        self._last = {name: torch.from_numpy(row) for name, row in rows.items()}

    def means(self, asks: Sequence[int]) -> dict[str, float]:
        """Return the mean of each detail over the answers among some turns, of all processes."""
        places = [self._answers.index(ask) for ask in asks if ask in self._answers]
        if not places:
            return {}
        own = {name: row[:, places].flatten() for name, row in self._last.items()}
        return {name: float(self._world.gather(values).mean()) for name, values in own.items()}

    def tokens(self) -> int:
        """Return what a judge has read and written since this was last asked."""
        return self._reward.spent() if isinstance(self._reward, Costly) else 0
