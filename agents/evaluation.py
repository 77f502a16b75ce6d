"""Score policies on held-out queries: each alone, the team in turn, and the reference model.

A policy that will be used is used alone: its figures as the pioneer, on `s0`, are those that count.
All KL is exact, summed over the response, against the policy's own prompt.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

import numpy as np
import torch
from rich.console import Console

from agents.answers import Answers, Decoding, collect_answers
from agents.config import TrainConfig
from agents.figures import distinct_2, majority_at_k, pass_at_k
from agents.policy import LLMPolicy
from agents.records import REFERENCE, SampleRow, write_atomically
from agents.statistics import bootstrap_interval
from agents.tables import Column, stacked
from cory_env.game import score
from cory_env.rewards.answer import AnswerReward, final_number
from cory_env.task import Task
from cory_env.types import Reward

Interval = tuple[float, float, float]
"""Mean, lower and upper end of the 95 % bootstrap interval over queries."""

NUM_SAMPLE_QUERIES = 4
"""Queries, the first of the held-out ones, that sample texts answer."""

DISTINCT_GROUP = 32
"""Responses in which distinct-2 is counted: it depends on the number of texts."""


class EvaluationRow(TypedDict):
    """Figures of one way to answer: a policy alone, or behind its partners.

    Of several samples per query their mean counts, so that intervals are over queries.
    """

    name: str
    reward: Interval
    kl: Interval
    combined: Interval
    length: Interval
    distinct_2: Interval
    greedy: NotRequired[Interval]
    """Task reward of the most probable responses."""
    gap: NotRequired[Interval]
    """Prompt-bias gap: reward behind the partners minus reward alone, paired by query."""
    pass_at: NotRequired[dict[str, Interval]]
    """By k: probability that one of k responses is right; where the reward is 0 or 1."""
    majority_at: NotRequired[dict[str, Interval]]
    """By k > 1: probability that the majority of k responses is; with the reward `answer`."""


class Evaluation(TypedDict):
    """What `evaluation.json` holds."""

    split: str
    num_queries: int
    greedy: bool
    rows: list[EvaluationRow]
    iterations: NotRequired[int]
    """Behind the policies that were scored."""
    samples: NotRequired[int]
    """Responses per query and row, the greedy one not counted."""
    k: NotRequired[list[int]]
    """What was asked for."""


class _Shown(dict[str, Any]):
    """An evaluation that a notebook shows as its tables."""

    def __repr__(self) -> str:
        text = io.StringIO()
        print_evaluation(cast("Evaluation", self), Console(file=text, width=_SHOWN_COLUMNS))
        return text.getvalue().rstrip()


_SHOWN_COLUMNS = 100
"""Of a notebook's cell."""


def evaluate_policies(
    config: TrainConfig,
    policies: Mapping[str, LLMPolicy],
    task: Task,
    reward: Reward,
    *,
    split: str,
    num_queries: int,
    decoding: Decoding | None = None,
) -> Evaluation:
    """Score the reference, every policy alone, and every assignment of the team to the roles.

    Args:
        config: of the run: game switches, η, temperature.
        policies: by name.
        task: of the split to score on.
        reward: to score with.
        split: what to call it.
        num_queries: the first queries of the task.
        decoding: how responses are drawn; one sample per query if None.
    """
    decoding = decoding or Decoding()
    examples = task.examples[:num_queries]

    def answers(team: Sequence[LLMPolicy], how: Decoding) -> list[Answers]:
        return collect_answers(config, team, task, reward, examples, how)

    one = replace(decoding, greedy=True, greedy_too=False, k=(), samples=1)
    rows: list[EvaluationRow] = []
    counted: list[Answers] = []
    for names, team in _teams(policies):
        seats = answers(team, decoding)
        best = answers(team, one) if decoding.greedy_too else None
        for seat in range(min(1, len(team) - 1), len(team)):
            row = _row(_row_name(names, seat), seats[seat], config.kl_coef)
            if seat:
                row["gap"] = _gap(seats[seat], names[seat], rows, counted)
            if best:
                row["greedy"] = bootstrap_interval(best[seat].rewards[0])
            rows.append(row)
            counted.append(seats[seat])
    _add_rates(rows, counted, sorted(set(decoding.k)), vote=isinstance(reward, AnswerReward))
    evaluation = Evaluation(
        split=split,
        num_queries=len(examples),
        greedy=decoding.greedy,
        rows=rows,
        samples=decoding.count,
        k=sorted(set(decoding.k)),
    )
    return cast("Evaluation", _Shown(evaluation))


def write_evaluation(run: Path, evaluation: Evaluation) -> None:
    """Write the `evaluation.json` of a run folder."""
    write_atomically(run / "evaluation.json", json.dumps(evaluation, indent=2) + "\n")


def references(policies: Mapping[str, LLMPolicy]) -> dict[str, LLMPolicy]:
    """Return the reference model, or one for each base model, named after its first policy."""
    first = {id(policy.backbone): name for name, policy in reversed(list(policies.items()))}
    owners = sorted(first.values(), key=list(policies).index)
    names = [REFERENCE] if len(owners) == 1 else [f"{REFERENCE} of {name}" for name in owners]
    return {
        name: replace(policies[owner], name=name, learns=False)
        for name, owner in zip(names, owners, strict=True)
    }


def _teams(policies: Mapping[str, LLMPolicy]) -> Iterator[tuple[list[str], list[LLMPolicy]]]:
    """Yield who answers: references and policies alone, then the team in every assignment."""
    for name, policy in {**references(policies), **policies}.items():
        yield [name], [policy]
    order = list(policies)
    for shift in range(len(order) if len(order) > 1 else 0):
        names = order[shift:] + order[:shift]
        yield names, [policies[name] for name in names]


def _row_name(names: Sequence[str], seat: int) -> str:
    return f"{names[seat]} after {', '.join(names[:seat])}" if seat else names[0]


def _row(name: str, answers: Answers, kl_coef: float) -> EvaluationRow:
    rewards, kls, lengths = (a.mean(0) for a in (answers.rewards, answers.kls, answers.lengths))
    groups = [
        distinct_2(texts[start : start + DISTINCT_GROUP])
        for texts in answers.texts
        for start in range(0, max(1, len(texts) - DISTINCT_GROUP + 1), DISTINCT_GROUP)
    ]
    return EvaluationRow(
        name=name,
        reward=bootstrap_interval(rewards),
        kl=bootstrap_interval(kls),
        combined=bootstrap_interval(rewards - kl_coef * kls),
        length=bootstrap_interval(lengths),
        distinct_2=bootstrap_interval(np.array(groups)),
    )


def _gap(
    behind: Answers, name: str, rows: Sequence[EvaluationRow], answered: Sequence[Answers]
) -> Interval:
    alone = next(a for row, a in zip(rows, answered, strict=True) if row["name"] == name)
    return bootstrap_interval(behind.rewards.mean(0) - alone.rewards.mean(0))


def _add_rates(
    rows: Sequence[EvaluationRow], answered: Sequence[Answers], sizes: Sequence[int], *, vote: bool
) -> None:
    """Add pass@k, and by vote majority@k, where every reward of every row is 0 or 1."""
    if not all(np.isin(answers.rewards, (0, 1)).all() for answers in answered):
        return
    for row, answers in zip(rows, answered, strict=True):
        count = len(answers.rewards)
        right = answers.rewards.sum(0).astype(int).tolist()
        if sizes:
            row["pass_at"] = {
                str(k): bootstrap_interval(np.array([pass_at_k(count, c, k) for c in right]))
                for k in sizes
            }
        if vote and max(sizes, default=1) > 1:
            others = wrong_votes(answers)
            row["majority_at"] = {
                str(k): bootstrap_interval(
                    np.array(
                        [
                            majority_at_k(count, c, votes, k)
                            for c, votes in zip(right, others, strict=True)
                        ]
                    )
                )
                for k in sizes
                if k > 1
            }


def wrong_votes(answers: Answers) -> list[tuple[int, ...]]:
    """For each query, how many responses give each of the wrong numbers."""
    return [
        tuple(
            Counter(
                number
                for text, reward in zip(texts, rewards, strict=True)
                if reward == 0 and (number := final_number(text)) is not None
            ).values()
        )
        for texts, rewards in zip(zip(*answers.texts, strict=True), answers.rewards.T, strict=True)
    ]


def sample_texts(
    policies: Mapping[str, LLMPolicy],
    task: Task,
    reward: Reward,
    *,
    iteration: int,
    max_new_tokens: int,
    num_queries: int = NUM_SAMPLE_QUERIES,
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
    """Print the figures of an evaluation, and what their headings mean."""
    how = "greedy" if evaluation["greedy"] else "sampled"
    queries = f"{evaluation['num_queries']} {evaluation['split']} queries"
    if (samples := evaluation.get("samples", 1)) > 1:
        how += f" {samples} times"
    console.print(f"{queries}, {how}, ± half the 95 % interval", style="italic", highlight=False)
    columns = _columns(evaluation["rows"])
    for table in stacked(columns, console.width):
        console.print(table)
    console.print(_legend([column.heading for column in columns]), style="dim", highlight=False)
    if evaluation.get("k") and not any("pass_at" in row for row in evaluation["rows"]):
        console.print("No pass@k: it counts right responses, and this reward is not 0 or 1.")


_FIGURES = {
    "reward": ("reward", 2),
    "KL, nats": ("kl", 2),
    "reward − η KL": ("combined", 2),
    "length": ("length", 1),
    "distinct-2": ("distinct_2", 2),
}
"""Headings, and the keys and decimal places of what every evaluation has."""

_MEANINGS = {
    "length": "tokens of a response",
    "distinct-2": f"share of different word pairs in {DISTINCT_GROUP} responses",
    "greedy": "reward of the most probable responses",
    "gap": "reward behind the partner less reward alone",
}


def rates(row: EvaluationRow) -> dict[str, Interval]:
    """Return the figures of a row that not every evaluation has, by their headings."""
    found = {"greedy": row["greedy"]} if "greedy" in row else {}
    found |= {f"pass@{k}": value for k, value in row.get("pass_at", {}).items()}
    found |= {f"majority@{k}": value for k, value in row.get("majority_at", {}).items()}
    if "gap" in row:
        found["gap"] = row["gap"]
    return found


def _columns(rows: Sequence[EvaluationRow]) -> list[Column]:
    """Return a line per way to answer; of what only some evaluations have, what there is."""
    columns = [Column("policy", [row["name"] for row in rows], "left")]
    for heading, (key, places) in _FIGURES.items():
        columns.append(Column(heading, [_cell(row[key], places) for row in rows]))
    for heading in dict.fromkeys(heading for row in rows for heading in rates(row)):
        columns.append(Column(heading, [_cell(rates(row).get(heading), 3) for row in rows]))
    return columns


def _cell(interval: Interval | None, places: int) -> str:
    if interval is None:
        return ""
    mean, low, high = interval
    return f"{mean:.{places}f} ±{(high - low) / 2:.{places}f}"


def _legend(headings: Sequence[str]) -> str:
    return "; ".join(f"{name}: {_MEANINGS[name]}" for name in headings if name in _MEANINGS)
