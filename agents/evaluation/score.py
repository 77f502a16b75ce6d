"""Score policies on held-out queries: each alone, the team in turn, and the reference model.

A policy that will be used is used alone: its figures as the pioneer, on `s0`, are those that count.
All KL is exact, summed over the response, against the policy's own prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import cast

import numpy as np

from agents.config.train import TrainConfig
from agents.evaluation.answers import Answers, Decoding, collect_answers
from agents.evaluation.rows import DISTINCT_GROUP, Evaluation, EvaluationRow, Interval
from agents.evaluation.samples import references
from agents.evaluation.tables import _Shown
from agents.maths.figures import distinct_2, majority_at_k, pass_at_k
from agents.maths.statistics import bootstrap_interval
from agents.models.averaging import Mean
from agents.policies.averages import shown, team_mean
from agents.policies.llm import LLMPolicy
from agents.records.rows import TEAM, last_iterate
from cory_env.rewards.answer import AnswerReward, final_number
from cory_env.task import Task
from cory_env.types import Float64Array, Reward


def evaluate_policies(
    config: TrainConfig,
    policies: Mapping[str, LLMPolicy],
    task: Task,
    reward: Reward,
    *,
    split: str,
    num_queries: int,
    means: Mapping[str, Mean] | None = None,
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
        means: the averages of policies, which are scored under their names, and the policies as
            they are as the last iterates; None where nothing was averaged.
        decoding: how responses are drawn; one sample per query if None.
    """
    decoding = decoding or Decoding()
    examples = task.examples[:num_queries]

    answers = partial(collect_answers, config, task=task, reward=reward, examples=examples)
    one = replace(decoding, greedy=True, greedy_too=False, k=(), samples=1)
    rows: list[EvaluationRow] = []
    counted: list[Answers] = []
    assigned: list[Float64Array] = []
    with closing(_teams(policies, config, means or {})) as teams:
        for names, team, mean in teams:
            seats = answers(team, decoding=decoding)
            best = answers(team, decoding=one) if decoding.greedy_too else None
            assigned += _team_rewards(seats) if len(team) > 1 else []
            order = names * (len(seats) // len(team))
            for seat in range(min(1, len(team) - 1), len(seats)):
                row = _row(_row_name(order, seat), seats[seat], config.algorithm_config.kl_coef)
                if seat:
                    row["gap"] = _gap(seats[seat], order[seat], rows, counted)
                if best:
                    row["greedy"] = bootstrap_interval(best[seat].rewards[0])
                rows.append(_with_rank(row, mean))
                counted.append(seats[seat])
    _add_rates(rows, counted, sorted(set(decoding.k)), vote=isinstance(reward, AnswerReward))
    about = {"split": split, "num_queries": len(examples), "greedy": decoding.greedy, "rows": rows}
    about |= {"samples": decoding.count, "k": sorted(set(decoding.k)), **_exchanged(assigned)}
    return cast("Evaluation", _Shown(about))


def _team_rewards(seats: Sequence[Answers]) -> list[Float64Array]:
    """Return (N,) mean rewards of all turns of a team by query."""
    return [np.mean([answers.rewards.mean(0) for answers in seats], axis=0)]


def _exchanged(assigned: Sequence[Float64Array]) -> dict[str, Interval]:
    return {"exchange_loss": exchange_loss(assigned)} if len(assigned) > 1 else {}


def exchange_loss(assigned: Sequence[Float64Array]) -> Interval:
    """Return what a team loses when its policies exchange their seats.

    Args:
        assigned: by assignment, the own one first, (N,) mean rewards of all seats by query.
    """
    own, *exchanged = assigned
    return bootstrap_interval(own - np.mean(exchanged, axis=0))


def _teams(
    policies: Mapping[str, LLMPolicy], config: TrainConfig, means: Mapping[str, Mean]
) -> Generator[tuple[list[str], list[LLMPolicy], Mean | None]]:
    """Yield who answers, and which mean it is: first whoever does so alone, then the team.

    Weights are those to score while it waits.

    Args:
        policies: by name.
        config: has the number of roles, all played by one policy where there are fewer; and
            perhaps a label behind which every policy answers alone, too.
        means: what policies are to be scored as, besides their last iterates.
    """
    contrast, roles = config.algorithm_config.contrast_label, config.observers + 1
    with shown(policies, means):
        for name, policy in {**references(policies), **policies}.items():
            yield [name], [policy], means.get(name)
        for name, policy in policies.items() if contrast else ():
            yield [f"{name} behind {contrast.strip()!r}"], [policy.labelled(contrast)], None
        if team := team_mean(policies):
            first = next(iter(policies))
            with shown(policies, {first: team}):
                yield [TEAM], [policies[first]], team
    for name in means:
        yield [last_iterate(name)], [policies[name]], None
    order = list(policies)
    with shown(policies, means):
        if len(order) < roles:
            yield order * roles, list(policies.values()) * roles, None
        for shift in range(len(order) if len(order) > 1 else 0):
            names = order[shift:] + order[:shift]
            yield names, [policies[name] for name in names], None


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


def _with_rank(row: EvaluationRow, mean: Mean | None) -> EvaluationRow:
    return {**row, "rank": mean.rank, "error": mean.error} if mean and mean.rank else row


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
