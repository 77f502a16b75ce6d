"""Collect episodes: one `generate` call per role, the reward called once for the whole batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from agents.policy import LLMPolicy
from agents.types import Rollout, Turn
from cory_env import Example
from cory_env.game import share
from cory_env.vector import VectorEnv


def collect(
    games: VectorEnv,
    policies: Mapping[str, LLMPolicy],
    generators: Mapping[str, torch.Generator],
    *,
    examples: Sequence[Example] | None = None,
    causal_credit: bool = True,
    greedy: bool = False,
) -> Rollout:
    """Play one batch of episodes.

    Args:
        games: B episodes whose tokenizer is the policies'.
        policies: who plays each role.
        generators: the source of randomness for each role.
        examples: (B,) what to ask; None to draw from the task.
        causal_credit: leave out of an agent's reward what was decided before its turn.
        greedy: take the most probable tokens.
    """
    prompts = games.reset(examples=examples)
    played = []
    while (role := games.agent_selection) is not None:
        _, tokens = policies[role].generate(
            prompts,
            max_new_tokens=games.rules.max_new_tokens,
            generator=generators[role],
            greedy=greedy,
        )
        played.append((role, prompts, tokens))
        rows = zip(tokens.response_ids.tolist(), tokens.response_mask.sum(1).tolist(), strict=True)
        prompts = games.step([ids[:length] for ids, length in rows])

    device = played[0][2].response_ids.device
    rewards = np.stack([games.task_rewards[role] for role, _, _ in played], axis=1)
    turns = []
    for seat, (role, prompts, tokens) in enumerate(played):
        earlier, now, later = (np.zeros_like(rewards) for _ in range(3))
        earlier[:, :seat], now[:, seat], later[:, seat + 1 :] = (
            rewards[:, :seat],
            rewards[:, seat],
            rewards[:, seat + 1 :],
        )
        decided = now if causal_credit else earlier + now
        paid_now, paid_later, own = (
            torch.tensor(r, dtype=torch.float32, device=device)
            for r in (
                share(decided, games.rules.reward_sharing)[:, seat],
                share(later, games.rules.reward_sharing)[:, seat],
                rewards[:, seat],
            )
        )
        turns.append(
            Turn(
                role=role,
                policy=str(policies[role].name),
                prompts=prompts,
                responses=[response.text for response in games.responses[role]],
                tokens=tokens,
                task_rewards=own,
                rewards_now=paid_now,
                rewards_later=paid_later,
            )
        )
    return Rollout(turns=tuple(turns), queries=[example.query for example in games.examples])
