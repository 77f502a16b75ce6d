"""Plug-ins by name: those of this process, and those that installed distributions bring along.

Registering one is all it takes: the shells and the tests find it here. A distribution registers its
own by an entry point in the group `cory_env.tasks` or `cory_env.rewards`, whose name is that of the
plug-in and whose object is the factory; it is loaded when the name is asked for. What is registered
in the process comes first, so no distribution can replace a built-in task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any, TypeVar

from cory_env.rewards.answer import AnswerReward
from cory_env.rewards.sentiment import SentimentReward
from cory_env.rewards.toy import MatchReward
from cory_env.task import Task
from cory_env.tasks.arithmetic import ArithmeticTask
from cory_env.tasks.gsm8k import Gsm8kTask
from cory_env.tasks.imdb import ImdbTask
from cory_env.tasks.toy import ToyTask
from cory_env.types import Reward

TASKS: dict[str, Callable[..., Task]] = {
    "arithmetic": ArithmeticTask,
    "gsm8k": Gsm8kTask,
    "imdb": ImdbTask,
    "toy": ToyTask,
}
REWARDS: dict[str, Callable[[], Reward]] = {
    "answer": AnswerReward,
    "match": MatchReward,
    "sentiment": SentimentReward,
}

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

    Raises:
        ValueError: if there is no such task, or its distribution is broken.
    """
    return _find(TASKS, "task", name)(split=split, **options)


def make_reward(name: str) -> Reward:
    """Build a registered reward.

    Raises:
        ValueError: if there is no such reward, or its distribution is broken.
    """
    return _find(REWARDS, "reward", name)()


def known_tasks() -> list[str]:
    """Return the names of all tasks, those of installed distributions included."""
    return _known(TASKS, "task")


def known_rewards() -> list[str]:
    """Return the names of all rewards, those of installed distributions included."""
    return _known(REWARDS, "reward")


def _known(registry: Mapping[str, object], kind: str) -> list[str]:
    return sorted({*registry, *_installed(kind).names})


def _add(registry: dict[str, _Entry], kind: str, name: str, entry: _Entry) -> None:
    if name in registry:
        raise ValueError(f"Expected a new {kind} name, got {name!r}, which is registered.")
    registry[name] = entry


def _find(registry: dict[str, _Entry], kind: str, name: str) -> _Entry:
    if name not in registry:
        found = [point for point in _installed(kind) if point.name == name]
        if not found:
            raise ValueError(f"Expected a {kind} out of {_known(registry, kind)}, got {name!r}.")
        if len(found) > 1:
            raise ValueError(
                f"Expected one distribution to bring the {kind} {name!r}, got it from "
                f"{' and '.join(map(_origin, found))}: uninstall all but one."
            )
        entry = _load(kind, found[0])
        # Its module may register the name as well, as it is imported.
        registry.setdefault(name, entry)
    return registry[name]


def _installed(kind: str) -> EntryPoints:
    return entry_points(group=f"cory_env.{kind}s")


def _load(kind: str, point: EntryPoint) -> Any:
    expected = f"Expected {_origin(point)} to bring the {kind} {point.name!r}, got"
    try:
        factory = point.load()
    except Exception as error:  # a plug-in may raise anything: this is the boundary
        raise ValueError(
            f"{expected} {error!r} from {point.value!r}: mend or remove it."
        ) from error
    if not callable(factory):
        raise ValueError(f"{expected} {factory!r} from {point.value!r}, which cannot be called.")
    return factory


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"
