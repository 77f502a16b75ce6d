"""Play a team on a list of queries, several responses to each, some episodes at a time.

A response depends on the seed and on its place in the list. It does not depend on the number of
episodes in memory. Figures are made of the responses in `score.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from agents.config.train import TrainConfig
from agents.parts import build_games
from agents.policies.llm import LLMPolicy, response_hidden
from agents.policies.sampling import draw_uniforms
from agents.rollouts.collect import collect
from agents.types import Turn
from cory_env import Example
from cory_env.task import Task
from cory_env.types import Float64Array, Reward

BATCH_SIZE = 256
"""Episodes in memory at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How responses are drawn for an evaluation, and what is counted.

    Raises:
        ValueError: if a number is out of range, or two do not go together.
    """

    greedy: bool = False
    """Take the most probable token instead of sampling."""
    greedy_too: bool = False
    """Beside the sampled responses, also score the most probable one."""
    k: tuple[int, ...] = ()
    """Sizes for pass@k and majority@k; >= 1."""
    samples: int = 0
    """Responses per query, from which pass@k is estimated; 0 for the largest k, or 1."""
    seed: int = 0
    """Of the sampling; the same for every row."""
    batch_size: int = BATCH_SIZE
    """Episodes in memory at a time; >= 1."""

    def __post_init__(self) -> None:
        """Check ranges and cross-field rules."""
        if self.batch_size < 1:
            raise ValueError(f"Expected a batch size of at least 1, got {self.batch_size}.")
        if any(k < 1 for k in self.k):
            raise ValueError(f"Expected k to be at least 1, got {min(self.k)}.")
        least = max(self.k, default=1)
        if self.samples and self.samples < least:
            raise ValueError(f"Expected samples to be at least {least}, got {self.samples}.")
        if self.greedy and self.count > 1:
            raise ValueError(
                f"Expected one response per query where it is greedy, got {self.count}: leave out "
                "greedy, k or samples."
            )

    @property
    def count(self) -> int:
        """Responses per query."""
        return self.samples or max(self.k, default=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What one policy answered in one turn: S responses to each of N queries."""

    texts: list[list[str]]
    """(S, N)"""
    rewards: Float64Array
    """(S, N) task rewards of its own."""
    kls: Float64Array
    """(S, N) nats to the reference, against its own prompt, summed over the response."""
    lengths: Float64Array
    """(S, N) tokens."""

    @classmethod
    def empty(cls, samples: int, queries: int) -> Answers:
        """Return answers that are still to be put in."""
        return cls(
            texts=[[""] * queries for _ in range(samples)],
            rewards=np.full((samples, queries), np.nan),
            kls=np.full((samples, queries), np.nan),
            lengths=np.full((samples, queries), np.nan),
        )

    def put(self, places: Sequence[int], turn: Turn, policy: LLMPolicy) -> None:
        """Write what a batch of episodes has brought to its places among all S · N."""
        reference = response_hidden(policy.backbone, None, turn.tokens)
        kls = policy.score(turn.tokens, reference).kls.sum(1)
        self.rewards.flat[places] = turn.task_rewards.double().cpu().numpy()
        self.kls.flat[places] = kls.double().cpu().numpy()
        self.lengths.flat[places] = turn.tokens.response_mask.sum(1).double().cpu().numpy()
        for place, text in zip(places, turn.responses, strict=True):
            sample, query = divmod(place, self.rewards.shape[1])
            self.texts[sample][query] = text


@torch.no_grad()
def collect_answers(
    config: TrainConfig,
    team: Sequence[LLMPolicy],
    task: Task,
    reward: Reward,
    examples: Sequence[Example],
    decoding: Decoding,
) -> list[Answers]:
    """Let a team answer every query.

    Args:
        config: of the run: the switches of the game.
        team: A policies in turn order.
        task: that the queries belong to.
        reward: to score with.
        examples: N queries.
        decoding: how to draw responses, and how many.

    Returns:
        Answers, one for each turn: a team of all roles has as many rounds as the run.
    """
    rounds = config.rounds if len(team) == config.observers + 1 else 1
    asked = list(examples) * decoding.count
    generator = torch.Generator().manual_seed(decoding.seed)
    limit = config.max_new_tokens or task.max_new_tokens
    uniforms = [draw_uniforms(len(asked), rounds * limit, generator) for _ in team]
    # Prompts of about one length go together: padding is work, too.
    order = sorted(range(len(asked)), key=lambda i: len(asked[i].query))
    everybody = list(team) * rounds
    answers = [Answers.empty(decoding.count, len(examples)) for _ in everybody]
    for start in range(0, len(order), decoding.batch_size):
        places = order[start : start + decoding.batch_size]
        games = build_games(
            config,
            task,
            reward,
            team[0].backbone,
            num_envs=len(places),
            observers=len(team) - 1,
            rounds=rounds,
        )
        turns = collect(
            games,
            dict(zip(games.agents, team, strict=True)),
            {role: rows[places] for role, rows in zip(games.agents, uniforms, strict=True)},
            examples=[asked[i] for i in places],
            greedy=decoding.greedy,
        ).turns
        for policy, turn, answer in zip(everybody, turns, answers, strict=True):
            answer.put(places, turn, policy)
    return answers
