"""Score policies on held-out queries: each alone, the team in turn, and the reference model.

A policy that will be used is used alone: its figures as the pioneer, on `s0`, are those that count.
All KL is exact, summed over the response, against the policy's own prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypedDict

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from agents.config import TrainConfig
from agents.metrics import bootstrap_interval, distinct_2
from agents.policy import LLMPolicy, draw_uniforms, response_hidden
from agents.records import REFERENCE, SampleRow
from agents.rollout import collect
from agents.setup import build_games
from agents.types import Turn
from cory_env import Example
from cory_env.game import score
from cory_env.task import Task
from cory_env.types import Reward

Interval = tuple[float, float, float]
"""Mean, lower and upper end of the 95 % bootstrap interval."""

DISTINCT_GROUP = 32
"""Responses in which distinct-2 is counted: it depends on the number of texts."""


class EvaluationRow(TypedDict):
    """Figures of one way to answer."""

    name: str
    reward: Interval
    kl: Interval
    combined: Interval
    length: Interval
    distinct_2: Interval


class Evaluation(TypedDict):
    """What `evaluation.json` holds."""

    split: str
    num_queries: int
    greedy: bool
    rows: list[EvaluationRow]


@torch.no_grad()
def evaluate_policies(
    config: TrainConfig,
    policies: Mapping[str, LLMPolicy],
    task: Task,
    reward: Reward,
    *,
    split: str,
    num_queries: int,
    greedy: bool = False,
    seed: int = 0,
) -> Evaluation:
    """Score the reference, every policy alone, and every assignment of the team to the roles.

    Args:
        config: of the run: game switches, η, temperature.
        policies: by name.
        task: of the split to score on.
        reward: to score with.
        split: what to call it.
        num_queries: the first queries of the task.
        greedy: take the most probable token instead of sampling.
        seed: of the sampling; the same for every row.
    """
    examples = task.examples[:num_queries]
    rows: list[EvaluationRow] = []
    for name, policy in {**references(policies), **policies}.items():
        [turn] = _play(config, [policy], task, reward, examples, greedy, seed)
        rows.append(_row(name, turn, policy, config.kl_coef))
    order = list(policies)
    for shift in range(len(order) if len(order) > 1 else 0):
        team = [policies[name] for name in order[shift:] + order[:shift]]
        turns = _play(config, team, task, reward, examples, greedy, seed)
        for seat in range(1, len(turns)):
            before = ", ".join(str(policy.name) for policy in team[:seat])
            name = f"{team[seat].name} after {before}"
            rows.append(_row(name, turns[seat], team[seat], config.kl_coef))
    return Evaluation(split=split, num_queries=len(examples), greedy=greedy, rows=rows)


def references(policies: Mapping[str, LLMPolicy]) -> dict[str, LLMPolicy]:
    """Return the reference model, or one for each base model, named after its first policy."""
    first = {id(policy.backbone): name for name, policy in reversed(list(policies.items()))}
    owners = sorted(first.values(), key=list(policies).index)
    names = [REFERENCE] if len(owners) == 1 else [f"{REFERENCE} of {name}" for name in owners]
    return {n: replace(policies[o], name=None) for n, o in zip(names, owners, strict=True)}


def _play(
    config: TrainConfig,
    team: Sequence[LLMPolicy],
    task: Task,
    reward: Reward,
    examples: Sequence[Example],
    greedy: bool,
    seed: int,
) -> tuple[Turn, ...]:
    games = build_games(
        config, task, reward, team[0].backbone, num_envs=len(examples), observers=len(team) - 1
    )
    policies = dict(zip(games.agents, team, strict=True))
    generator = torch.Generator().manual_seed(seed)
    uniforms = {
        role: draw_uniforms(len(examples), games.rules.max_new_tokens, generator)
        for role in games.agents
    }
    return collect(games, policies, uniforms, examples=examples, greedy=greedy).turns


def _row(name: str, turn: Turn, policy: LLMPolicy, kl_coef: float) -> EvaluationRow:
    ref_hidden = response_hidden(policy.backbone, None, turn.tokens)
    kl = policy.score(turn.tokens, ref_hidden).kls.sum(1).double().cpu().numpy()
    rewards = turn.task_rewards.double().cpu().numpy()
    lengths = turn.tokens.response_mask.sum(1).double().cpu().numpy()
    groups = [
        distinct_2(turn.responses[start : start + DISTINCT_GROUP])
        for start in range(0, max(1, len(turn.responses) - DISTINCT_GROUP + 1), DISTINCT_GROUP)
    ]
    return EvaluationRow(
        name=name,
        reward=bootstrap_interval(rewards),
        kl=bootstrap_interval(kl),
        combined=bootstrap_interval(rewards - kl_coef * kl),
        length=bootstrap_interval(lengths),
        distinct_2=bootstrap_interval(np.array(groups)),
    )


def sample_texts(
    policies: Mapping[str, LLMPolicy],
    task: Task,
    reward: Reward,
    *,
    iteration: int,
    max_new_tokens: int,
    num_queries: int = 4,
    seed: int = 0,
) -> list[SampleRow]:
    """Let each policy answer the same few queries alone, with the same randomness every time."""
    examples = list(task.examples[:num_queries])
    prompts = [task.pioneer_prompt(example.query) for example in examples]
    rows: list[SampleRow] = []
    for name, policy in policies.items():
        generator = torch.Generator().manual_seed(seed)
        texts, _ = policy.generate(prompts, max_new_tokens=max_new_tokens, generator=generator)
        scores = score(reward, examples, texts)
        rows += [
            SampleRow(
                iteration=iteration,
                policy=name,
                role="alone",
                query=example.query,
                response=text,
                task_reward=float(score),
            )
            for example, text, score in zip(examples, texts, scores, strict=True)
        ]
    return rows


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print the table of an evaluation; it fits 80 columns."""
    how = "greedy" if evaluation["greedy"] else "sampled"
    queries = f"{evaluation['num_queries']} {evaluation['split']} queries"
    title = f"{queries}, {how}, ± half the 95 % interval"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.padding = (0, 1, 0, 0)
    table.add_column("policy", no_wrap=True)
    digits = {"reward": 2, "kl": 2, "combined": 2, "length": 1, "distinct_2": 2}
    for heading in ("reward", "KL, nats", "combined", "length", "distinct-2"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in evaluation["rows"]:
        cells = []
        for key, places in digits.items():
            mean, low, high = row[key]
            cells.append(f"{mean:.{places}f} ±{(high - low) / 2:.{places}f}")
        table.add_row(row["name"], *cells)
    console.print(table)
