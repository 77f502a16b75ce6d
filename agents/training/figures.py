"""What is logged of an iteration: what policies' responses were like, and what they have learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from agents.algorithms.base import Algorithm
from agents.distributed.world import World
from agents.maths.advantages import explained_variance
from agents.maths.figures import distinct_2
from agents.records.rows import MetricRow
from agents.training.details import RewardDetails
from agents.training.learner import Learner
from agents.types import Prepared, Rollout


class Figures:
    """The metrics of an iteration, over the rows of all processes."""

    def __init__(
        self, algorithm: Algorithm, learner: Learner, details: RewardDetails, world: World
    ):
        self._algorithm = algorithm
        self._learner = learner
        self._details = details
        self._world = world

    def row(
        self,
        rollout: Rollout,
        prepared: Sequence[Prepared],
        learned: Mapping[str, Mapping[str, float]],
    ) -> MetricRow:
        """Return what is logged of every policy.

        Args:
            rollout: of this process's rows.
            prepared: what was made of each turn.
            learned: metrics of the losses, by policy.
        """
        row: MetricRow = {}
        for policy, asks in asks_of(rollout).items():
            values = {
                **self._played(policy, rollout, prepared, asks),
                **learned[policy],
                **self._judged(prepared, asks),
                **self._algorithm.figures(policy),
                "kl_coef": self._algorithm.controllers[policy].coef,
                **self._learner.figures(policy),
            }
            row |= {f"{policy}/{key}": value for key, value in values.items()}
        return row

    def _played(
        self, policy: str, rollout: Rollout, prepared: Sequence[Prepared], asks: Sequence[int]
    ) -> dict[str, Any]:
        """Return what a policy's responses were like."""
        sums = []
        for ask in asks:
            turn, scored = rollout.turns[ask], prepared[ask].scored
            gaps = (scored.log_probs - turn.tokens.sampled_log_probs).abs() * scored.mask
            tokens = [values.sum(1) for values in (scored.kls, scored.entropies, gaps)]
            length = scored.mask.float().sum(1)
            sums.append(torch.stack([turn.task_rewards, length, *tokens], dim=1))
        means = self._world.gather(torch.cat(sums)).mean(0)
        reward, length, kl, entropy, gap = means.tolist()
        texts = [text for ask in asks for text in rollout.turns[ask].responses]
        return {
            "role": "+".join(dict.fromkeys(rollout.turns[ask].role for ask in asks)),
            "task_reward": reward,
            **self._by_round(rollout, asks),
            "kl": kl,
            "combined_reward": reward - self._algorithm.controllers[policy].coef * kl,
            "entropy": entropy / length,
            "response_length": length,
            # Far from 0 if another engine has sampled with other weights than are learnt.
            "sampler_gap": gap / length,
            "distinct_2": distinct_2(self._world.gather_list(texts)),
            **self._details.means(asks),
        }

    def _by_round(self, rollout: Rollout, asks: Sequence[int]) -> dict[str, float]:
        """Return the mean task reward of each round, if there are several."""
        rounds: dict[int, list[Tensor]] = {}
        for ask in asks:
            role = rollout.turns[ask].role
            number = sum(turn.role == role for turn in rollout.turns[:ask])
            rounds.setdefault(number, []).append(rollout.turns[ask].task_rewards)
        if len(rounds) == 1:
            return {}
        return {
            f"task_reward_{number + 1}": float(self._world.gather(torch.cat(rewards)).mean())
            for number, rewards in rounds.items()
        }

    def _judged(self, prepared: Sequence[Prepared], asks: Sequence[int]) -> dict[str, float]:
        """Return how much of the returns the baselines explain."""
        own = [prepared[ask].scored for ask in asks]
        pairs = [torch.stack([s.baselines[s.mask], s.returns[s.mask]], dim=1) for s in own]
        baselines, returns = self._world.gather(torch.cat(pairs)).T
        return {"explained_variance": float(explained_variance(baselines, returns))}


def asks_of(rollout: Rollout) -> dict[str, list[int]]:
    """Return by policy, in turn order, which turns were its."""
    asks: dict[str, list[int]] = {}
    for index, turn in enumerate(rollout.turns):
        asks.setdefault(turn.policy, []).append(index)
    return asks
