"""Types of an evaluation, as `evaluation.json` holds it: a row per policy and way to answer.

Every figure is a mean with the ends of its interval.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

Interval = tuple[float, float, float]
"""Mean, lower and upper end of the 95 % bootstrap interval over queries."""


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
    rank: NotRequired[int]
    """Of the adapter that is the mean of several."""
    error: NotRequired[float]
    """What the rank has cost that mean, relative, in the layer where it is most."""
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
    exchange_loss: NotRequired[Interval]
    """Of more than one role: the team's mean reward with every policy in the seat that it began in,
    less that of the other assignments; paired by query."""
    k: NotRequired[list[int]]
    """What was asked for."""


def rates(row: EvaluationRow) -> dict[str, Interval]:
    """Return the figures of a row that not every evaluation has, by their headings."""
    found = {"greedy": row["greedy"]} if "greedy" in row else {}
    found |= {f"pass@{k}": value for k, value in row.get("pass_at", {}).items()}
    found |= {f"majority@{k}": value for k, value in row.get("majority_at", {}).items()}
    if "gap" in row:
        found["gap"] = row["gap"]
    return found
