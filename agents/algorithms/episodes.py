"""What a critic of whole answers may learn from again: episodes, as it sees them.

Nothing in it changes: adding returns another one, so that an iteration that fails can go back to
what there was before. All processes hold the same episodes, so that a run may go on with another
number of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from agents.distributed.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Episodes:
    """N episodes of A turns, the oldest first."""

    prompts: tuple[tuple[str, ...], ...]
    """(N, A) what each agent read."""
    states: Tensor
    """(N, A, D) features of that."""
    actions: Tensor
    """(N, A, D) features of what it answered."""
    rewards: Tensor
    """(N, A) what that alone has earned it."""

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self.prompts)

    def add(self, others: Episodes, capacity: int) -> Episodes:
        """Return these episodes with others behind them.

        Args:
            others: in an order that is the same on all processes.
            capacity: how many to keep at most, the latest; >= 1.
        """
        return Episodes(
            prompts=(*self.prompts, *others.prompts)[-capacity:],
            states=torch.cat([self.states, others.states])[-capacity:],
            actions=torch.cat([self.actions, others.actions])[-capacity:],
            rewards=torch.cat([self.rewards, others.rewards])[-capacity:],
        )

    def latest(self, count: int) -> Episodes:
        """Return the last so many."""
        return Episodes(
            prompts=self.prompts[-count:],
            states=self.states[-count:],
            actions=self.actions[-count:],
            rewards=self.rewards[-count:],
        )

    def of_all(self, world: World) -> Episodes:
        """Return the episodes of all processes, one's behind the other's."""
        return Episodes(
            prompts=tuple(world.gather_list(self.prompts)),
            states=world.gather(self.states),
            actions=world.gather(self.actions),
            rewards=world.gather(self.rewards),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return all of it as tensors by name; texts as UTF-8 and lengths."""
        texts = [text.encode("utf-8", "surrogatepass") for row in self.prompts for text in row]
        return {
            "prompts": torch.from_numpy(np.frombuffer(b"".join(texts), np.uint8).copy()),
            "lengths": torch.tensor([len(text) for text in texts], dtype=torch.int32),
            "states": self.states,
            "actions": self.actions,
            "rewards": self.rewards,
        }

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Return the episodes of what `tensors` returned."""
        parts = tensors["prompts"].cpu().split(tensors["lengths"].tolist())
        texts = [part.numpy().tobytes().decode("utf-8", "surrogatepass") for part in parts]
        turns = tensors["rewards"].shape[1]
        rows = range(0, len(texts), turns)
        return cls(
            prompts=tuple(tuple(texts[row : row + turns]) for row in rows),
            states=tensors["states"],
            actions=tensors["actions"],
            rewards=tensors["rewards"],
        )
