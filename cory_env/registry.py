"""Plug-ins by name. Registering one is all it takes: the shells and the tests find it here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from cory_env.rewards.sentiment import SentimentReward
from cory_env.rewards.toy import MatchReward
from cory_env.tasks.imdb import ImdbTask
from cory_env.tasks.toy import ToyTask
from cory_env.types import Reward, Task

TASKS: dict[str, Callable[..., Task]] = {"imdb": ImdbTask, "toy": ToyTask}
REWARDS: dict[str, Callable[[], Reward]] = {"match": MatchReward, "sentiment": SentimentReward}

_Entry = TypeVar("_Entry")
_TaskFactory = TypeVar("_TaskFactory", bound=Callable[..., Task])
_RewardFactory = TypeVar("_RewardFactory", bound=Callable[[], Reward])


def register_task(name: str) -> Callable[[_TaskFactory], _TaskFactory]:
    """Return a decorator that registers a task factory, called as `factory(split=…, **options)`.

    Raises:
        ValueError: in the decorator, if the name is taken.
    """

    def add(factory: _TaskFactory) -> _TaskFactory:
        _add(TASKS, "task", name, factory)
        return factory

    return add


def register_reward(name: str) -> Callable[[_RewardFactory], _RewardFactory]:
    """Return a decorator that registers a reward factory, called without arguments.

    Raises:
        ValueError: in the decorator, if the name is taken.
    """

    def add(factory: _RewardFactory) -> _RewardFactory:
        _add(REWARDS, "reward", name, factory)
        return factory

    return add


def make_task(name: str, split: str = "train", **options: object) -> Task:
    """Build a registered task.

    Args:
        name: the name it is registered under.
        split: which examples; every task has `train` and `test`.
        options: what the task itself takes, such as `length` of `toy`.
    """
    return _find(TASKS, "task", name)(split=split, **options)


def make_reward(name: str) -> Reward:
    """Build a registered reward."""
    return _find(REWARDS, "reward", name)()


def _add(registry: dict[str, _Entry], kind: str, name: str, entry: _Entry) -> None:
    if name in registry:
        raise ValueError(f"Expected a new {kind} name, got {name!r}, which is registered.")
    registry[name] = entry


def _find(registry: Mapping[str, _Entry], kind: str, name: str) -> _Entry:
    if name not in registry:
        raise ValueError(f"Expected a {kind} out of {sorted(registry)}, got {name!r}.")
    return registry[name]
