"""Collect episodes: one `generate` call per role, the reward called once for the whole batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.engines.base import Engine, unpadded
from agents.engines.builtin import BuiltinEngine
from agents.ledger import Ledger
from agents.policies.base import Policy
from agents.rollouts.credit import split_credit
from agents.types import Generation, Rollout, Turn
from cory_env import Example
from cory_env.game import Rules
from cory_env.task import Task
from cory_env.tokenization import load_tokenizer
from cory_env.types import Response
from cory_env.vector import VectorEnv


class Asked(NamedTuple):
    """Episodes whose last responses have been given, and not yet paid for."""

    played: list[tuple[str, list[str], Generation]]
    """Role, prompts and responses of each turn."""
    last: list[Response]
    """(B,) of the last turn, which the games have not seen."""


def collect(
    games: VectorEnv,
    policies: Mapping[str, Policy],
    uniforms: Mapping[str, Tensor],
    *,
    engine: Engine | None = None,
    ledger: Ledger | None = None,
    examples: Sequence[Example] | None = None,
    isolated: Sequence[bool] | None = None,
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
        ledger: of the costs; None if nobody counts them.
        examples: (B,) what to ask; None to draw from the task.
        isolated: (B,) where observers read the query alone; None for nowhere.
        causal_credit: leave out of an agent's reward what was decided before its turn.
        greedy: take the most probable tokens.
    """
    asked = ask(
        games,
        policies,
        uniforms,
        engine=engine,
        examples=examples,
        isolated=isolated,
        greedy=greedy,
    )
    names = {role: policy.name for role, policy in policies.items()}
    return pay(games, names, asked, ledger=ledger, causal_credit=causal_credit)


def ask(
    games: VectorEnv,
    policies: Mapping[str, Policy],
    uniforms: Mapping[str, Tensor],
    *,
    engine: Engine | None = None,
    examples: Sequence[Example] | None = None,
    isolated: Sequence[bool] | None = None,
    greedy: bool = False,
) -> Asked:
    """Ask each role in turn; no reward is asked yet. See `collect`."""
    engine = engine or BuiltinEngine()
    prompts = games.reset(examples=examples, isolated=isolated)
    played: list[tuple[str, list[str], Generation]] = []
    while (role := games.agent_selection) is not None:
        generated = engine.generate(
            policies[role],
            prompts,
            max_new_tokens=games.rules.max_new_tokens,
            uniforms=uniforms[role],
            greedy=greedy,
        )
        played.append((role, prompts, generated.tokens))
        ids = unpadded(generated.tokens.response_ids, generated.tokens.response_mask)
        said = read_responses(games.rules, policies[role], role, ids)
        if len(played) == len(games.agents):
            return Asked(played, said)
        prompts = games.step(said)
    raise AssertionError("games end with the last role")


def pay(
    games: VectorEnv,
    names: Mapping[str, str],
    asked: Asked,
    *,
    ledger: Ledger | None = None,
    causal_credit: bool = True,
) -> Rollout:
    """Let episodes end, and ask the reward; it counts what all of that has cost.

    Args:
        games: that were asked.
        names: the policy of each role.
        asked: what came back.
        ledger: of the costs; None if nobody counts them.
        causal_credit: see `collect`.
    """
    games.step(asked.last)
    if ledger:
        responses = len(asked.played) * games.num_envs
        judged = responses - games.num_envs if games.rules.verdict != "none" else 0
        lengths = sum(int(tokens.response_mask.sum()) for _, _, tokens in asked.played)
        ledger.add(responses=responses, tokens=lengths, reward_calls=responses + judged)
    return Rollout(
        turns=tuple(_paid_turns(games, names, asked.played, causal_credit)),
        states=games.states,
        gold=[games.rules.task.worked_answer(example) for example in games.examples],
    )


def read_responses(
    rules: Rules, policy: Policy, role: str, ids: Sequence[Sequence[int]]
) -> list[Response]:
    """Return the responses that a policy's tokens (B,) stand for."""
    # The game's own rules, read with the policy's tokenizer.
    own = replace(rules, tokenizer=load_tokenizer(policy.backbone.tokenizer))  # type: ignore[arg-type]
    return [own.response(row, role) for row in ids]


def _paid_turns(
    games: VectorEnv,
    names: Mapping[str, str],
    played: Sequence[tuple[str, list[str], Generation]],
    causal_credit: bool,
) -> Iterator[Turn]:
    """Yield the turns of episodes that have ended, with what each agent earned.

    Args:
        games: the episodes.
        names: the policy of each role.
        played: role, prompts and responses of each turn.
        causal_credit: see `collect`.
    """
    device = played[0][2].response_ids.device
    rewards = np.stack([games.task_rewards[role] for role, _, _ in played], axis=1)
    for seat, (role, prompts, tokens) in enumerate(played):
        parts = split_credit(rewards, seat, games.rules.reward_sharing, causal=causal_credit)
        now, later, own = (
            torch.tensor(part, dtype=torch.float32, device=device)
            for part in (*parts, rewards[:, seat])
        )
        yield Turn(
            role=role,
            policy=names[role],
            prompts=prompts,
            responses=[response.text for response in games.responses[role]],
            tokens=tokens,
            task_rewards=own,
            rewards_now=now,
            rewards_later=later,
        )


def draw_examples(
    task: Task, generator: np.random.Generator, count: int, group_size: int
) -> list[Example]:
    """Draw the examples of `count` episodes: groups of the same one, one after the other."""
    drawn = [task.sample(generator) for _ in range(count // group_size)]
    return [example for example in drawn for _ in range(group_size)]


def draw_isolated(
    share: float, generator: np.random.Generator, count: int, group_size: int
) -> list[bool]:
    """Draw in which of `count` episodes observers read the query alone: alike in each group.

    Args:
        share: probability of each query, in [0, 1].
        generator: of the draws.
        count: episodes.
        group_size: episodes of one query, which follow each other; divides `count`.
    """
    drawn = generator.random(count // group_size) < share
    return drawn.repeat(group_size).tolist()
