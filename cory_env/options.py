"""Keyword arguments that every form of the environment takes, and the `Rules` made from them.

The forms are `aec`, `parallel`, `seat` and `vector`. The rules themselves are in `cory_env.game`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from cory_env.game import RewardSharing, Rules, Verdicts
from cory_env.names import unknown_name
from cory_env.registry import make_reward, make_task
from cory_env.task import Task
from cory_env.tokenization import TransformersTokenizer, load_tokenizer
from cory_env.types import Reward, Tokenizer

TokenizerSource = str | Path | Tokenizer | TransformersTokenizer


class GameOptions(TypedDict, total=False):
    """Keyword arguments of `make_rules`, which explains them and holds their defaults."""

    split: str
    observers: int
    rounds: int
    reward_sharing: RewardSharing
    knowledge_transfer: bool
    swap_every: int | None
    verdict: Verdicts
    reward: str | Reward | None
    tokenizer: TokenizerSource | None
    max_new_tokens: int | None
    max_prompt_tokens: int | None


def check_options(options: Mapping[str, object], *own: str) -> None:
    """Check the names of keyword arguments before they are passed to `make_rules`.

    Args:
        options: the keyword arguments.
        own: the names of further arguments, which the form itself takes.

    Raises:
        TypeError: if there is no such argument; says which one was probably meant.
    """
    known = list(GameOptions.__annotations__)
    for name in options:
        if name not in known:
            raise TypeError(
                unknown_name(
                    "an argument of the environment",
                    ["task", *own, *known],
                    name,
                    listed="`help(cory_env.raw_env)` lists them",
                )
            )


def make_rules(
    task: str | Task,
    *,
    split: str = "train",
    observers: int = 1,
    rounds: int = 1,
    reward_sharing: RewardSharing = "collective",
    knowledge_transfer: bool = True,
    swap_every: int | None = None,
    verdict: Verdicts = "none",
    reward: str | Reward | None = None,
    tokenizer: TokenizerSource | None = None,
    max_new_tokens: int | None = None,
    max_prompt_tokens: int | None = None,
) -> Rules:
    """Return the rules of a game.

    Args:
        task: a registered name, or a task object.
        split: which examples of a task given by name; a task object brings its own.
        observers: agents after the pioneer: 1 is CORY, 0 the single-agent baseline.
        rounds: how often every agent answers; in later rounds each has read all earlier responses,
            its own included.
        reward_sharing: `"collective"` (the sum), `"mean"`, `"individual"`, `"last"` for that of the
            last response alone, or a number c for own plus c times the others'.
        knowledge_transfer: whether agents see the earlier responses of others.
        swap_every: episodes between two role exchanges, in which every agent takes the next role;
            agents are then called `llm_0`, `llm_1`, … None for no exchange and agents that are
            called by their role.
        verdict: whether observers are told the task's verdict on the responses that they read, such
            as `(wrong)`: `"none"`, on `"all"`, or `"wrong"`: they read wrong ones only.
        reward: a registered name or a callable; None for the task's own.
        tokenizer: see `load_tokenizer`; None for the task's own, or else the embedded one.
        max_new_tokens: longest response; None for the task's own limit.
        max_prompt_tokens: longest prompt; None for the task's own limit.
    """
    if isinstance(task, str):
        task = make_task(task, split)
    elif not isinstance(task, Task):  # pyright: ignore[reportUnnecessaryIsInstance] # user input
        raise TypeError(f"Expected a task name or a task object, got {task!r}.")
    if reward is None:
        reward = task.reward
    if not isinstance(reward, str) and not callable(reward):
        raise TypeError(f"Expected a reward name or a callable, got {reward!r}.")
    return Rules(
        task=task,
        reward=make_reward(reward) if isinstance(reward, str) else reward,
        tokenizer=load_tokenizer(tokenizer or task.tokenizer or "embedded"),
        max_new_tokens=task.max_new_tokens if max_new_tokens is None else max_new_tokens,
        max_prompt_tokens=(
            task.max_prompt_tokens if max_prompt_tokens is None else max_prompt_tokens
        ),
        observers=observers,
        rounds=rounds,
        reward_sharing=reward_sharing,
        knowledge_transfer=knowledge_transfer,
        swap_every=swap_every,
        verdict=verdict,
    )
