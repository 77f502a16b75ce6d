"""What pays a run: one reward by its name, or a sum of several with weights.

`0.5*runs/judge + 0.5*answer` is a sum; everything else is one name. Nothing here is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from agents.config.sources import check_source
from cory_env.registry import REWARDS

RUBRIC = "rubric:"
"""Before the file that says what a judge behind an endpoint is asked."""

_TERM = re.compile(r"\s*(?:([+-]?[\d.]+(?:e-?\d+)?)\s*\*)?\s*(\S+)\s*")


class Term(NamedTuple):
    """One reward of a sum."""

    weight: float
    name: str
    """Registered, the folder or repository of a sequence classifier, or `rubric:FILE`."""


def is_sum(reward: str) -> bool:
    """Return whether a text is a sum of rewards, not the name of one."""
    return ("*" in reward or "+" in reward) and not Path(reward).exists()


def reward_terms(reward: str) -> list[Term]:
    """Return the rewards that a text names, with their weights.

    Raises:
        ValueError: if a term is none, or a reward comes twice.
    """
    if not is_sum(reward):
        return [Term(1.0, reward)]
    terms = [_term(part, reward) for part in reward.split("+")]
    names = [term.name for term in terms]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"Expected each reward once in a sum, got {name} twice in {reward!r}: add up its "
                "weights."
            )
    return terms


def check_rewards(reward: str) -> None:
    """Check that what a text names may be rewards, without loading or asking for them.

    Raises:
        ValueError: if not; says which name was probably meant.
    """
    for _, name in reward_terms(reward):
        if name.startswith(RUBRIC):
            if not Path(name.removeprefix(RUBRIC)).is_file():
                raise ValueError(
                    f"Expected {RUBRIC}FILE with a file that says what to ask, got {name!r}: there "
                    "is none of this name; docs/judges.md has one to copy."
                )
        else:
            check_source("reward", name, REWARDS.known())


def classifiers(names: Iterable[str]) -> list[str]:
    """Return those that are neither registered nor behind an endpoint."""
    known = REWARDS.known()
    return [name for name in names if name not in known and not name.startswith(RUBRIC)]


def _term(part: str, whole: str) -> Term:
    found = _TERM.fullmatch(part)
    try:
        if found is not None and "*" not in found[2]:
            return Term(float(found[1] or 1), found[2])
    except ValueError:  # such as 1.2.3
        pass
    raise ValueError(
        f"Expected a sum of rewards to be WEIGHT*NAME with a + between them, got {part.strip()!r} "
        f"in {whole!r}: try 0.5*runs/judge+0.5*answer."
    )
