"""Collect episodes: one `generate` call per ask, the reward called once for the whole batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.engines.base import Engine, unpadded
from agents.engines.builtin import BuiltinEngine
from agents.ledger import Ledger
from agents.policies.base import Policy
from agents.rollouts.credit import split_credit
from agents.rollouts.games import Game
from agents.types import Generation, Rollout, Turn
from cory_env import Example
from cory_env.game import as_response
from cory_env.task import Task
from cory_env.tokenization import load_tokenizer
from cory_env.types import Response


class Ask(NamedTuple):
    """One ask, in B episodes."""

    role: str
    prompts: list[str]
    """(B,) one of the others' where it was not made."""
    tokens: Generation
    """(B, …) no token counts where it was not made."""
    texts: list[str]
    """(B,) the responses; empty where it was not made."""


class Asked(NamedTuple):
    """Episodes whose last responses have been given, and perhaps not yet paid for."""

    played: list[Ask]
    """In order."""
    last: list[Response] | None
    """(B,) of the last turn, which the games have not seen; None if they have ended."""


def collect(
    games: Game,
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
        uniforms: the randomness of each role's responses, (B, M·T) from `draw_uniforms`, with M the
            `max_asks` of the games.
        engine: what generates; None for the policies themselves.
        ledger: of the costs; None if nobody counts them.
        examples: (B,) what to ask; None to draw from the task.
        isolated: (B,) where observers read the query alone; None for nowhere.
        causal_credit: leave out of an agent's reward what was decided before its first turn.
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
    games: Game,
    policies: Mapping[str, Policy],
    uniforms: Mapping[str, Tensor],
    *,
    engine: Engine | None = None,
    examples: Sequence[Example] | None = None,
    isolated: Sequence[bool] | None = None,
    greedy: bool = False,
) -> Asked:
    """Ask each role in turn, up to responses that will end all episodes. See `collect`."""
    engine = engine or BuiltinEngine()
    prompts = games.reset(examples=examples, isolated=isolated)
    times = {role: np.zeros(games.num_envs, dtype=int) for role in games.agents}
    played: list[Ask] = []
    while (role := games.agent_selection) is not None:
        rows = list(games.rows)
        generated = engine.generate(
            policies[role],
            prompts,
            max_new_tokens=games.max_new_tokens,
            uniforms=_drawn(uniforms[role], rows, times[role], games.max_new_tokens),
            greedy=greedy,
        )
        times[role][rows] += 1
        ids = unpadded(generated.tokens.response_ids, generated.tokens.response_mask)
        said = read_responses(games.max_new_tokens, policies[role], role, ids)
        ask = Ask(role, prompts, generated.tokens, [response.text for response in said])
        played.append(_spread(ask, rows, games.num_envs))
        if games.ends_next:
            return Asked(played, said)
        prompts = games.step(said)
    return Asked(played, None)


def _drawn(uniforms: Tensor, rows: list[int], times: NDArray[np.int_], length: int) -> Tensor:
    """Return (N, T) the randomness of one ask: each row has its own for every time.

    Args:
        uniforms: (B, M·T) of at most M asks.
        rows: (N,) where it is made.
        times: (B,) how often it was made before.
        length: T.

    Raises:
        ValueError: if an agent is asked more often than the game has said.
    """
    starts = torch.from_numpy(times[rows] * length)[:, None]
    if int(starts.max()) + length > uniforms.shape[1]:
        raise ValueError(
            f"Expected an agent to be asked at most max_asks={uniforms.shape[1] // length} times "
            "in an episode, got one more: let the game have a larger max_asks."
        )
    return uniforms[rows].gather(1, starts + torch.arange(length))


def _spread(ask: Ask, rows: list[int], num_envs: int) -> Ask:
    """Return an ask of some rows (N, …) as one of all (B, …), which no token of the others has."""
    if len(rows) == num_envs:
        return ask
    places = dict(zip(rows, range(len(rows)), strict=True))
    stand_in = [places.get(row, 0) for row in range(num_envs)]  # every batch has as many rows
    made = torch.tensor([row in places for row in range(num_envs)])
    device = ask.tokens.response_mask.device
    tokens = ask.tokens.take(torch.tensor(stand_in, device=device)).counting(made.to(device))
    log_probs = tokens.sampled_log_probs * tokens.response_mask
    return Ask(
        ask.role,
        [ask.prompts[place] for place in stand_in],
        replace(tokens, sampled_log_probs=log_probs),
        [ask.texts[places[row]] if row in places else "" for row in range(num_envs)],
    )


def pay(
    games: Game,
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
    if asked.last is not None:
        games.step(asked.last)
    if ledger:
        masks = [ask.tokens.response_mask for ask in asked.played]
        responses = sum(int(mask.any(1).sum()) for mask in masks)
        tokens = sum(int(mask.sum()) for mask in masks)
        ledger.add(responses=responses, tokens=tokens, reward_calls=games.reward_calls)
    return Rollout(
        turns=tuple(_paid_turns(games, names, asked.played, causal_credit)),
        states=games.states,
        gold=games.gold,
    )


def read_responses(
    max_new_tokens: int, policy: Policy, role: str, ids: Sequence[Sequence[int]]
) -> list[Response]:
    """Return the responses that a policy's tokens (B,) stand for, of a game of this limit."""
    tokenizer = load_tokenizer(policy.backbone.tokenizer)  # type: ignore[arg-type]
    return [as_response(row, role, tokenizer, max_new_tokens) for row in ids]


def _paid_turns(
    games: Game, names: Mapping[str, str], played: Sequence[Ask], causal_credit: bool
) -> Iterator[Turn]:
    """Yield the turns of episodes that have ended, with what each agent earned.

    Args:
        games: the episodes.
        names: the policy of each role.
        played: all asks.
        causal_credit: see `collect`.
    """
    device = played[0].tokens.response_ids.device
    asked = torch.stack([ask.tokens.response_mask.any(1) for ask in played], dim=1).cpu().numpy()
    order = list(games.agents)
    places = [order.index(ask.role) for ask in played]
    for turn, ask in enumerate(played):
        parts = split_credit(games.earned, places, turn, causal=causal_credit, asked=asked)
        now, later, own = (
            torch.tensor(part, dtype=torch.float32, device=device)
            for part in (*parts, games.turn_rewards[:, turn])
        )
        yield Turn(
            role=ask.role,
            policy=names[ask.role],
            prompts=ask.prompts,
            responses=ask.texts,
            tokens=ask.tokens,
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
