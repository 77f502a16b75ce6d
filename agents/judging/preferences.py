"""Pairs of responses, and which of two a judge prefers when it is asked in both orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agents.config.train import TrainConfig
from agents.evaluation.answers import Decoding, collect_answers
from agents.evaluation.finished import load_run
from agents.judging.judges import Judge
from agents.policies.averages import shown
from agents.tasks import build_task
from cory_env.types import Example, Float64Array, Reward


class Pair(NamedTuple):
    """Two different responses of one policy to one query, in an order that tells nothing."""

    example: Example
    first: str
    second: str


def draw_pairs(
    config: TrainConfig, checkpoint: Path, count: int, seed: int
) -> tuple[list[Pair], Reward]:
    """Let the policies of a run answer queries alone, each its share of them, twice each.

    Args:
        config: of the run.
        checkpoint: whose weights answer.
        count: queries to ask; those that are answered alike twice are dropped.
        seed: of queries, responses and sides.

    Returns:
        The pairs, and the reward of the run.
    """
    parts, means = load_run(config, checkpoint)
    task = build_task(config.task, config.train_split, config.task_arguments)
    generator = np.random.default_rng(seed)
    drawn = generator.choice(len(task.examples), count, replace=count > len(task.examples))
    examples = [task.examples[i] for i in drawn]
    pairs: list[Pair] = []
    with shown(parts.policies, means):
        for place, policy in enumerate(parts.policies.values()):
            own = examples[place :: len(parts.policies)]
            if own:
                decoding = Decoding(samples=2, seed=seed + place)
                answers, *_ = collect_answers(config, [policy], task, parts.reward, own, decoding)
                pairs += map(Pair, own, *answers.texts)
    sides = generator.random(len(pairs)) < 0.5
    pairs = [
        pair._replace(first=pair.second, second=pair.first) if side else pair
        for pair, side in zip(pairs, sides, strict=True)
    ]
    return [pair for pair in pairs if pair.first != pair.second], parts.reward


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """What a judge has made of N pairs."""

    labels: Float64Array
    """(N,) 1 where it prefers the first, 0 the second, and between where orders disagree."""
    said_first: float
    """Share of all answers but ties that name what is read first: ½ without a bias."""
    changed: float
    """Share of the pairs where it names the same place in both orders."""


def ask(judge: Judge, pairs: Sequence[Pair]) -> Preferences:
    """Ask a judge for each pair in both orders.

    Args:
        judge: whom.
        pairs: N of them, at least one.
    """
    examples = [pair.example for pair in pairs]
    sides = [pair.first for pair in pairs], [pair.second for pair in pairs]
    worth = {"A": 1.0, "tie": 0.5, "B": 0.0}
    there = np.array([worth[answer] for answer in judge(examples, *sides)])
    back = np.array([worth[answer] for answer in judge(examples, *reversed(sides))])
    decided = np.concatenate([there, back])
    decided = decided[decided != 0.5]
    return Preferences(
        labels=(there + 1 - back) / 2,
        said_first=float(decided.mean()) if len(decided) else 0.5,
        changed=float(((there == back) & (there != 0.5)).mean()),
    )


def agreement(one: Preferences, other: Preferences) -> float:
    """Return on which share of the pairs that both decide two judges say the same; NaN of none."""
    both = np.isin(one.labels, (0, 1)) & np.isin(other.labels, (0, 1))
    return float((one.labels == other.labels)[both].mean()) if both.any() else float("nan")
