"""Whether a judge of finished answers can tell answers to one query apart, and what a gate gains.

    python -m agents train arithmetic --observers 0 --algorithm mappo --iterations 24 --out runs/a
    python -m benchmarks.gate runs/a --out runs/a/gate.json

The gate of ReAd (Zhang et al. 2024, arXiv 2405.14314) on whole answers: a policy answers again
until a judge's value passes a quantile of those of answers to other queries, else the best of its
tries counts. Judges are the run's critic, by its value before the last token, and a verifier: a
classifier on the body of the base model, fitted on pairs of a right and a wrong answer to one
training query. The controls are their values, shuffled over all answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from agents.config.train import TrainConfig
from agents.evaluation.finished import load_run
from agents.judging.preferences import Pair
from agents.judging.reward_model import RewardModel
from agents.maths.statistics import bootstrap_interval
from agents.models.loading import load_base
from agents.parts import Parts, build_games
from agents.policies.critics import load_critic
from agents.policies.llm import LLMPolicy
from agents.policies.sampling import draw_uniforms
from agents.records.folder import RunFolder
from agents.records.objects import write_json
from agents.rollouts.collect import collect
from agents.tasks import build_task
from agents.types import TokenBatch
from cory_env.task import Task
from cory_env.types import Example, Float64Array

LEARNING_RATE = 1e-3
"""Of the verifier: that of `judge`."""
MOST_PAIRS = 2_048
BATCH = 256
"""Episodes in memory at a time."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to measure."""

    run: tyro.conf.Positional[Path]
    """A finished run of one policy with a critic, whose rewards are 0 or 1."""
    out: Path | None = None
    """File for the figures as JSON."""
    queries: int = 256
    """Held-out queries."""
    tries: int = 4
    """Answers to each."""
    quantile: float = 0.6
    """Share of the answers to training queries that do not pass."""
    fitted: int = 512
    """Training queries that the verifier is fitted on, and thresholds are of."""
    seed: int = 0
    """Of the sampling and of the verifier."""


class Answered(NamedTuple):
    """S answers to each of N queries."""

    examples: list[Example]
    texts: list[list[str]]
    """(S, N)"""
    tokens: list[TokenBatch]
    """S batches of N."""
    rewards: Float64Array
    """(S, N)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Rewards are means over queries; intervals are 95 % bootstrap over them."""

    judge: str
    queries_that_differ: int
    """Queries with a right and a wrong answer among the tries."""
    auc_within: tuple[float, float, float]
    auc_pooled: float
    """Over all pairs of a right and a wrong answer, of whichever queries."""
    one_try: float
    gate: float
    gain: tuple[float, float, float]
    """Of the gate over one try."""
    used: float
    """Tries until it passes or gives up, mean."""
    shuffled: float
    """The gate by values that say nothing."""
    best: float
    """The try of the highest value."""
    any_right: float


def main(arguments: Arguments, console: Console | None = None) -> list[Figures]:
    """Measure both judges, print a table, and write the figures."""
    console = console or Console()
    folder = RunFolder(arguments.run)
    config = folder.read_config()
    parts, _ = load_run(config, folder.checkpoints()[-1])
    (policy,) = parts.policies.values()
    splits = (config.test_split, arguments.queries), (config.train_split, arguments.fitted)
    tests, learnt = (
        _answers(config, parts, policy, split, count, arguments.tries, arguments.seed)
        for split, count in splits
    )
    verifier = _verifier(config, learnt, arguments.seed)
    judged = {
        "critic": [_critic_values(folder, side) for side in (tests, learnt)],
        "verifier": [_verifier_values(verifier, side) for side in (tests, learnt)],
    }
    rows = [
        figures(name, tests.rewards, values, float(np.quantile(others, arguments.quantile)),
                arguments.seed)
        for name, (values, others) in judged.items()
    ]  # fmt: skip
    _show(rows, arguments.run, console)
    if arguments.out:
        write_json(arguments.out, [asdict(row) for row in rows])
    return rows


def figures(
    name: str, rewards: Float64Array, values: Float64Array, threshold: float, seed: int
) -> Figures:
    """Return what a judge is worth.

    Args:
        name: of the judge.
        rewards: (S, N) 0 or 1.
        values: (S, N) what the judge says.
        threshold: from which on it lets an answer pass.
        seed: of the control.
    """
    shuffled = np.random.default_rng(seed).permutation(values.ravel()).reshape(values.shape)
    chosen, used = gated(values, threshold)
    blind, _ = gated(shuffled, threshold)
    columns = np.arange(rewards.shape[1])
    within = [auc(rewards[:, n], values[:, n]) for n in columns if len(set(rewards[:, n])) == 2]
    one = rewards[0]
    return Figures(
        judge=name,
        queries_that_differ=len(within),
        auc_within=bootstrap_interval(within or [float("nan")]),
        auc_pooled=auc(rewards.ravel(), values.ravel()),
        one_try=float(one.mean()),
        gate=float(rewards[chosen, columns].mean()),
        gain=bootstrap_interval(rewards[chosen, columns] - one),
        used=float(used.mean()),
        shuffled=float(rewards[blind, columns].mean()),
        best=float(rewards[values.argmax(0), columns].mean()),
        any_right=float(rewards.max(0).mean()),
    )


def gated(values: Float64Array, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (N,) which try counts of each query, and (N,) how many were made.

    Args:
        values: (S, N) of the tries, in order.
        threshold: the first value that is as high passes; where none is, the highest counts.
    """
    passes = values >= threshold
    some = passes.any(0)
    first = passes.argmax(0)
    chosen = np.where(some, first, values.argmax(0))
    return chosen, np.where(some, first + 1, len(values))


def auc(rewards: Float64Array, values: Float64Array) -> float:
    """Return the probability that a right answer has the higher value; ties count half.

    Args:
        rewards: (M,) 0 or 1.
        values: (M,)

    Returns:
        NaN without a right or without a wrong answer.
    """
    gaps = values[rewards == 1][:, None] - values[rewards == 0][None]
    return float(((gaps > 0) + 0.5 * (gaps == 0)).mean()) if gaps.size else float("nan")


def _answers(
    config: TrainConfig,
    parts: Parts,
    policy: LLMPolicy,
    split: str,
    count: int,
    tries: int,
    seed: int,
) -> Answered:
    """Let a policy answer the first queries of a split alone, several times each."""
    task: Task = build_task(config.task, split, config.task_arguments)
    examples = list(task.examples[:count])
    generator = torch.Generator().manual_seed(seed)
    limit = parts.games.rules.max_new_tokens
    turns = []
    for _ in range(tries):
        for start in range(0, len(examples), BATCH):
            asked = examples[start : start + BATCH]
            games = build_games(
                config, task, parts.reward, policy.backbone,
                num_envs=len(asked), observers=0, rounds=1,
            )  # fmt: skip
            (role,) = games.agents
            uniforms = {role: draw_uniforms(len(asked), limit, generator)}
            turns += collect(games, {role: policy}, uniforms, examples=asked).turns
    per_try = len(turns) // tries
    grouped = [turns[i * per_try : (i + 1) * per_try] for i in range(tries)]
    return Answered(
        examples,
        texts=[[text for turn in group for text in turn.responses] for group in grouped],
        tokens=[_tokens(group) for group in grouped],
        rewards=np.stack([
            torch.cat([turn.task_rewards for turn in group]).double().cpu().numpy()
            for group in grouped
        ]),
    )  # fmt: skip


def _tokens(turns: Sequence) -> TokenBatch:
    return TokenBatch.join([
        TokenBatch(**{f: getattr(turn.tokens, f) for f in TokenBatch.__dataclass_fields__})
        for turn in turns
    ])  # fmt: skip


def _critic_values(folder: RunFolder, answered: Answered) -> Float64Array:
    """Return (S, N) what the critic of a run says before the last token of each answer."""
    (path,) = folder.final_critics()
    critic = load_critic(path, device="cpu", dtype="float32")
    return np.stack([
        before_last(critic.values(tokens), tokens.response_mask).double().numpy()
        for tokens in answered.tokens
    ])  # fmt: skip


def before_last(values: Tensor, mask: Tensor) -> Tensor:
    """Return (B,) of values (B, T) that before the last token that counts."""
    last = (mask.sum(1, keepdim=True) - 1).clamp(min=0)
    return values.gather(1, last)[:, 0]


def _verifier(config: TrainConfig, learnt: Answered, seed: int) -> RewardModel:
    """Fit a classifier on a right and a wrong answer to one query, of many queries."""
    (name,) = dict.fromkeys(config.models)
    base, tokenizer = load_base(name, torch.float32)
    model = RewardModel(base, tokenizer, seed, torch.device("cpu"))
    pairs = [
        Pair(example, learnt.texts[right][n], learnt.texts[wrong][n])
        for n, example in enumerate(learnt.examples)
        for right in np.flatnonzero(learnt.rewards[:, n] == 1)
        for wrong in np.flatnonzero(learnt.rewards[:, n] == 0)
    ]
    order = np.random.default_rng(seed).permutation(len(pairs))[:MOST_PAIRS]
    model.fit([pairs[i] for i in order], [1.0] * len(order), LEARNING_RATE, seed)
    return model


@torch.no_grad()
def _verifier_values(model: RewardModel, answered: Answered) -> Float64Array:
    """Return (S, N) what a classifier says of answers behind their queries."""
    rows = []
    for texts in answered.texts:
        whole = [e.query + text for e, text in zip(answered.examples, texts, strict=True)]
        parts = [model.rewards(whole[i : i + BATCH]) for i in range(0, len(whole), BATCH)]
        rows.append(torch.cat(parts).double().numpy())
    return np.stack(rows)


def _show(rows: Sequence[Figures], run: Path, console: Console) -> None:
    table = Table(title=f"{run}: answers to one query")
    for name in asdict(rows[0]):
        table.add_column(name)
    for row in rows:
        table.add_row(*(_text(value) for value in asdict(row).values()))
    console.print(table)


def _text(value: object) -> str:
    if isinstance(value, tuple):
        mean, low, high = value
        return f"{mean:.2f} ({low:.2f} to {high:.2f})"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
