"""VinePPO: what a state is worth is the mean of episodes that are played on from it.

Source: Kazemnejad et al. 2024, "VinePPO: Unlocking RL Potential For LLM Reasoning Through Refined
Credit Assignment" (arXiv 2410.01679), section 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from agents.algorithms.base import Algorithm, Sampler
from agents.algorithms.configs import VineConfig
from agents.algorithms.others import against_others
from agents.algorithms.segments import Segments
from agents.types import Explored, Prefix, Rollout, StateValues, Turn
from cory_env.tokenization import TransformersCodec


class Vine(Algorithm):
    """PPO without a critic: V(s) is the mean reward of K branches.

    All tokens of a segment have the advantage V(state after it) − V(state before it), where the
    reward itself stands for the state after the last one. An agent's last state is the first of
    the next agent, and worth what was earned plus the mean of that agent's branches.
    """

    # Differs from Kazemnejad et al.: they have k3 in the loss. Here the KL is the one of all
    # algorithms, whose part in the reward is measured against that of the other responses.
    Config = VineConfig
    config: VineConfig  # pyright: ignore[reportIncompatibleVariableOverride] # never set anew

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._segments = Segments.parse(self.config.segment)
        self._has_cut = False

    def explore(self, rollout: Rollout, sampler: Sampler) -> Explored:
        """Play on from the ends of the segments of all turns.

        Raises:
            ValueError: if the mark that ends a segment is in no response of the first batch.
        """
        starts = [self._starts(turn) for turn in rollout.turns]
        self._check_cuts(starts)
        stands_for = self._unique(rollout, starts)
        prefixes = list(dict.fromkeys(stands_for.values()))
        means = sampler.branch(prefixes, self.config.k).rewards.mean(1)
        places = {prefix: i for i, prefix in enumerate(prefixes)}
        values = {prefix: means[places[one]] for prefix, one in stands_for.items()}
        return Explored(
            turns=tuple(
                _state_values(rollout, seat, starts[seat], values)
                for seat in range(len(rollout.turns))
            )
        )

    def state(self) -> dict[str, Any]:
        """Return the running moments, and whether a response has been cut."""
        return {**super().state(), "has_cut": self._has_cut}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""
        super().load_state(state)
        self._has_cut = state["has_cut"]

    def advantages(
        self, rewards: Tensor, mask: Tensor, baselines: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Measure rewards to go against the mean of all other responses at the same token."""
        return against_others(rewards, mask, self.max_new_tokens, self.world)

    def _measured(
        self,
        turn: Turn,
        rewards: Tensor,
        penalties: Tensor,
        values: Tensor | None,
        found: StateValues | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        assert found is not None
        mask = turn.tokens.response_mask
        advantages, costs, others = self.advantages(-penalties * mask, mask, None)
        before, after = (
            self._in_its_units(turn.policy, part) * mask
            for part in (found.values, found.next_values)
        )
        return after - before + advantages, rewards[:, None] * mask + costs, before + others

    def _starts(self, turn: Turn) -> list[list[int]]:
        """Return where the segments of each response begin."""
        tokens = turn.tokens
        rows = zip(tokens.response_ids.tolist(), tokens.response_mask.sum(1).tolist(), strict=True)
        if self.config.at == "handover":
            return [[0] for _ in rows]
        codec = TransformersCodec(self.policies[turn.policy].backbone.tokenizer)  # type: ignore[arg-type]
        return [
            self._segments.starts(ids[:length], lambda part: codec.decode(part, begin=False))
            for ids, length in rows
        ]

    def _check_cuts(self, starts: list[list[list[int]]]) -> None:
        """Check in the first batch that the mark of a segment is one that the policies write."""
        if self._has_cut:
            return
        cut = any(len(cuts) > 1 for rows in starts for cuts in rows)
        self._has_cut = self.world.any(cut)
        if self._segments.mark and self.config.at == "segments" and not self._has_cut:
            raise ValueError(
                f"Expected responses with ends of segments in them, got none with segment "
                f"{self.config.segment}: pass --segment tokens:4, or --at handover to cut none."
            )

    def _unique(self, rollout: Rollout, starts: list[list[list[int]]]) -> dict[Prefix, Prefix]:
        """Return for each state the first of its group that is the same: one is played on for all.

        Of a group only, since a process has whole groups: what is drawn depends on no process.
        """
        first: dict[tuple[object, ...], Prefix] = {}
        found: dict[Prefix, Prefix] = {}
        for prefix in _prefixes(starts):
            turn = rollout.turns[prefix.seat]
            said = turn.tokens.response_ids[prefix.row, : prefix.cut].tolist()
            heard = tuple(earlier.responses[prefix.row] for earlier in rollout.turns[: prefix.seat])
            state = (prefix.row // self.config.group_size, prefix.seat, heard, tuple(said))
            found[prefix] = first.setdefault(state, prefix)
        return found


def _prefixes(starts: list[list[list[int]]]) -> Iterator[Prefix]:
    for seat, rows in enumerate(starts):
        for row, cuts in enumerate(rows):
            for cut in cuts:
                yield Prefix(row, seat, cut)


def _state_values(
    rollout: Rollout, seat: int, starts: list[list[int]], values: dict[Prefix, Tensor]
) -> StateValues:
    """Spread the values (A,) of states over the tokens of a turn."""
    turn = rollout.turns[seat]
    mask = turn.tokens.response_mask
    before, after = torch.zeros(2, *mask.shape, device=mask.device)
    for row, cuts in enumerate(starts):
        later = values[Prefix(row, seat + 1, 0)][seat] if seat + 1 < len(rollout.turns) else 0.0
        bounds = [*cuts, int(mask[row].sum())]
        worth = [*(values[Prefix(row, seat, cut)][seat] for cut in cuts)]
        worth.append(turn.rewards_now[row] + later)
        for i, cut in enumerate(cuts):
            before[row, cut : bounds[i + 1]] = worth[i]
            after[row, cut : bounds[i + 1]] = worth[i + 1]
    return StateValues(values=before, next_values=after)
