"""Collect episodes: one `generate` call per role, the reward called once for the whole batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from agents.engines.base import Engine
from agents.engines.builtin import BuiltinEngine
from agents.policy import LLMPolicy
from agents.types import Rollout, Turn
from cory_env import Example
from cory_env.game import RewardSharing, share
from cory_env.task import Task
from cory_env.tokenization import load_tokenizer
from cory_env.types import Float64Array
from cory_env.vector import VectorEnv


def collect(
    games: VectorEnv,
    policies: Mapping[str, LLMPolicy],
    uniforms: Mapping[str, Tensor],
    *,
    engine: Engine | None = None,
    examples: Sequence[Example] | None = None,
    causal_credit: bool = True,
    greedy: bool = False,
) -> Rollout:
    """Play one batch of episodes.

    Args:
        games: B episodes. Where a policy's tokenizer is not theirs, only its text crosses to the
            others.
        policies: who plays each role.
        uniforms: the randomness of each role's responses, (B, T) from `draw_uniforms`.
        engine: what generates; None for the policies themselves.
        examples: (B,) what to ask; None to draw from the task.
        causal_credit: leave out of an agent's reward what was decided before its turn.
        greedy: take the most probable tokens.
    """
    engine = engine or BuiltinEngine()
    prompts = games.reset(examples=examples)
    played = []
    while (role := games.agent_selection) is not None:
        generated = engine.generate(
            policies[role],
            prompts,
            max_new_tokens=games.rules.max_new_tokens,
            uniforms=uniforms[role],
            greedy=greedy,
        )
        played.append((role, prompts, generated.tokens))
        # The game's own rules, read with the policy's tokenizer.
        rules = replace(games.rules, tokenizer=load_tokenizer(policies[role].backbone.tokenizer))  # type: ignore[arg-type]
        tokens = generated.tokens
        rows = zip(tokens.response_ids.tolist(), tokens.response_mask.sum(1).tolist(), strict=True)
        prompts = games.step([rules.response(ids[:length], role) for ids, length in rows])

    device = played[0][2].response_ids.device
    rewards = np.stack([games.task_rewards[role] for role, _, _ in played], axis=1)
    turns = []
    for seat, (role, prompts, tokens) in enumerate(played):
        parts = split_credit(rewards, seat, games.rules.reward_sharing, causal=causal_credit)
        now, later, own = (
            torch.tensor(part, dtype=torch.float32, device=device)
            for part in (*parts, rewards[:, seat])
        )
        turns.append(
            Turn(
                role=role,
                policy=policies[role].name,
                prompts=prompts,
                responses=[response.text for response in games.responses[role]],
                tokens=tokens,
                task_rewards=own,
                rewards_now=now,
                rewards_later=later,
            )
        )
    return Rollout(turns=tuple(turns), queries=[example.query for example in games.examples])


def draw_examples(
    task: Task, generator: np.random.Generator, count: int, group_size: int
) -> list[Example]:
    """Draw the examples of `count` episodes: groups of the same one, one after the other."""
    drawn = [task.sample(generator) for _ in range(count // group_size)]
    return [example for example in drawn for _ in range(group_size)]


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
