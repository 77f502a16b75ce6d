"""What a trained pair is worth where several answers may be generated, beside one policy's.

    python -m agents train arithmetic --out runs/pair
    python -m benchmarks.teams runs/pair [RUN …] --queries 512

For each policy of a pair as the first, on held-out queries: its answer alone; the other's behind
it; the majority of three of its answers, a tie going by lot; and its own second answer, behind its
first, in the observer's prompt. `either of two` would take the right one of two answers alone:
what a critic that cannot err could choose. Tokens are those that are generated. KL is to the
reference, of all answers that are asked for: that of a team is KL(first) + E KL(second), since
the second answers behind what the first has sampled. Policies are those that the run deploys:
averaged ones where it averages. Differences are from the answer alone, by query.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro
from rich.console import Console

from agents.config.train import TrainConfig
from agents.evaluation.answers import Answers, Decoding, collect_answers
from agents.evaluation.finished import load_run
from agents.evaluation.score import wrong_votes
from agents.maths.figures import majority_at_k, pass_at_k
from agents.maths.statistics import bootstrap_interval
from agents.policies.averages import shown
from agents.policies.llm import LLMPolicy
from agents.records.folder import RunFolder
from agents.tasks import build_task
from agents.terminal.hush import hushed
from agents.terminal.tables import Column, stacked
from cory_env.types import Float64Array

VOTERS = 3


class Form(NamedTuple):
    """What one way of answering brings, by query."""

    rewards: Float64Array
    """(N,)"""
    tokens: float
    """Generated for a query, in the mean."""
    kl: float
    """Nats of all its answers, in the mean."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to play."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs of pairs, in tasks whose answers are right or wrong."""
    queries: int = 512
    """Held-out ones, from the first."""
    seed: int = 0
    """Of the sampling."""


def forms_of_one(answers: Answers) -> dict[str, Form]:
    """Return what a policy alone can do with its answers.

    Args:
        answers: at least three to each query, with rewards 0 or 1.
    """
    count, right = len(answers.rewards), answers.rewards.sum(0).astype(int).tolist()
    votes = zip(right, wrong_votes(answers), strict=True)
    tokens, kl = float(answers.lengths.mean()), float(answers.kls.mean())
    majority = [majority_at_k(count, correct, others, VOTERS) for correct, others in votes]
    either = [pass_at_k(count, correct, 2) for correct in right]
    return {
        "alone": Form(answers.rewards.mean(0), tokens, kl),
        "majority of three": Form(np.array(majority), VOTERS * tokens, VOTERS * kl),
        "either of two": Form(np.array(either), 2 * tokens, 2 * kl),
    }


def second_answer(first: Answers, second: Answers) -> Form:
    """Return what the second of two answers is worth, and what both cost."""
    return Form(
        second.rewards.mean(0),
        float((first.lengths + second.lengths).mean()),
        float((first.kls + second.kls).mean()),
    )


def measure(folder: RunFolder, queries: int, seed: int) -> Iterator[tuple[str, dict[str, Form]]]:
    """Yield who is first, and all that can be done then."""
    config = folder.read_config()
    if config.observers != 1:
        raise SystemExit(f"Expected the run of a pair, got {folder} of {config.observers + 1}.")
    parts, means = load_run(config, folder.checkpoints()[-1])
    task = build_task(config.task, config.test_split, config.task_arguments)

    def play(team: Sequence[LLMPolicy], config: TrainConfig = config) -> list[Answers]:
        examples, decoding = task.examples[:queries], Decoding(samples=VOTERS, seed=seed)
        return collect_answers(config, team, task, parts.reward, examples, decoding)

    policies = list(parts.policies.items())
    with shown(parts.policies, means):
        for (name, first), (_, other) in zip(policies, policies[::-1], strict=True):
            (alone,) = play([first])
            if not np.isin(alone.rewards, (0, 1)).all():
                raise SystemExit(f"Expected rewards of 0 or 1, got others in {folder}.")
            found = forms_of_one(alone)
            found["the other behind it"] = second_answer(*play([first, other]))
            found["itself behind it"] = second_answer(*play([first, first]))
            yield name, found


@hushed()
def main() -> None:
    """Play, and show the table."""
    arguments = tyro.cli(Arguments, description=__doc__)
    console = Console(width=110)
    rows = [
        (f"{run.name}, {name}", found)
        for run in arguments.runs
        for name, found in measure(RunFolder(run), arguments.queries, arguments.seed)
    ]
    for table in stacked(columns(rows), console.width):
        console.print(table)


def columns(rows: Sequence[tuple[str, Mapping[str, Form]]]) -> list[Column]:
    """Return the table: a row for each form of each policy."""
    names, forms, rewards, ahead, tokens, kls = [], [], [], [], [], []
    for name, found in rows:
        for form, got in found.items():
            names.append(name if form == "alone" else "")
            forms.append(form)
            rewards.append(_interval(got.rewards))
            ahead.append("" if form == "alone" else _interval(got.rewards - found["alone"].rewards))
            tokens.append(f"{got.tokens:.1f}")
            kls.append(f"{got.kl:.2f}")
    return [
        Column("first", names, "left"),
        Column("answer", forms, "left"),
        Column("right", rewards),
        Column("less alone", ahead),
        Column("tokens", tokens),
        Column("KL", kls),
    ]


def _interval(values: Float64Array) -> str:
    mean, low, high = bootstrap_interval(values)
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
