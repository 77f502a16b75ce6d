"""Plug-ins by name: those of this process, and those that installed distributions bring along.

Registering one is all it takes: the shells and the tests find it here. A distribution registers its
own by an entry point in the group `cory_env.tasks` or `cory_env.rewards`, whose name is that of the
plug-in and whose object is the factory; it is loaded when the name is asked for. What is registered
in the process comes first, so no distribution can replace a built-in task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from importlib import import_module
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any, Generic, TypeVar

from cory_env.names import check_arguments, unknown_name
from cory_env.rewards.answer import AnswerReward
from cory_env.rewards.sentiment import SentimentReward
from cory_env.rewards.toy import MatchReward
from cory_env.task import Task
from cory_env.tasks.arithmetic import ArithmeticTask
from cory_env.tasks.gsm8k import Gsm8kTask
from cory_env.tasks.imdb import ImdbTask
from cory_env.tasks.toy import ToyTask
from cory_env.types import Reward

_Entry = TypeVar("_Entry")


class Registry(MutableMapping[str, _Entry], Generic[_Entry]):
    """Entries of one kind by name.

    Args:
        kind: what an entry is, such as `task`; the group of its entry points is `cory_env.tasks`.
        entries: the built-in ones; a text is `module:attribute`, imported when it is asked for.
    """

    def __init__(self, kind: str, entries: Mapping[str, _Entry | str]) -> None:
        self.kind = kind
        self._article = "an" if kind[0] in "aeiou" else "a"
        self._entries: dict[str, Any] = dict(entries)

    def __getitem__(self, name: str) -> _Entry:
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            entry = self._entries[name] = getattr(import_module(module), attribute)
        return entry

    def __setitem__(self, name: str, entry: _Entry) -> None:
        self._entries[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def register(self, name: str, entry: _Entry) -> None:
        """Add an entry under a new name.

        Raises:
            ValueError: if the name is taken.
        """
        if name in self._entries:
            raise ValueError(f"Expected a new {self.kind} name, got {name!r}, which is registered.")
        self[name] = entry

    def known(self) -> list[str]:
        """Return all names, those of installed distributions included; imports none of them."""
        return list(dict.fromkeys([*self._entries, *sorted(self._installed().names)]))

    def check(self, name: str, mend: str = "") -> None:
        """Check that there is an entry of a name, without importing it.

        Args:
            name: the name.
            mend: what to do if no other name is near.

        Raises:
            ValueError: if not; says which name was probably meant.
        """
        if name in self._entries or name in self.known():
            return
        raise ValueError(
            unknown_name(f"{self._article} {self.kind}", self.known(), name, mend=mend)
        )

    def find(self, name: str) -> _Entry:
        """Return the entry of a name.

        Raises:
            ValueError: if there is none, or its distribution is broken.
        """
        if name not in self._entries:
            self.check(name)
            found = [point for point in self._installed() if point.name == name]
            if len(found) > 1:
                raise ValueError(
                    f"Expected one distribution to bring the {self.kind} {name!r}, got it from "
                    f"{' and '.join(map(_origin, found))}: uninstall all but one."
                )
            entry = _load(self.kind, found[0])
            # Its module may register the name as well, as it is imported.
            self._entries.setdefault(name, entry)
        return self[name]

    def _installed(self) -> EntryPoints:
        return entry_points(group=f"cory_env.{self.kind}s")


_TaskFactory = TypeVar("_TaskFactory", bound=Callable[..., Task])
_RewardFactory = TypeVar("_RewardFactory", bound=Callable[[], Reward])

TASKS: Registry[Callable[..., Task]] = Registry(
    "task",
    {"arithmetic": ArithmeticTask, "gsm8k": Gsm8kTask, "imdb": ImdbTask, "toy": ToyTask},
)
REWARDS: Registry[Callable[[], Reward]] = Registry(
    "reward",
    {"answer": AnswerReward, "match": MatchReward, "sentiment": SentimentReward},
)


def register_task(name: str) -> Callable[[_TaskFactory], _TaskFactory]:
    """Return a decorator that registers a task factory, called as `factory(split=…, **options)`.

    Raises:
        ValueError: in the decorator, if the name is taken.
    """

    def add(factory: _TaskFactory) -> _TaskFactory:
        TASKS.register(name, factory)
        return factory

    return add


def register_reward(name: str) -> Callable[[_RewardFactory], _RewardFactory]:
    """Return a decorator that registers a reward factory, called without arguments.

    Raises:
        ValueError: in the decorator, if the name is taken.
    """

    def add(factory: _RewardFactory) -> _RewardFactory:
        REWARDS.register(name, factory)
        return factory

    return add


def make_task(name: str, split: str = "train", **options: object) -> Task:
    """Build a registered task.

    Args:
        name: the name it is registered under.
        split: which examples; every task has `train` and `test`.
        options: what the task itself takes, such as `length` of `toy`.

    Raises:
        ValueError: if there is no such task or option, or its distribution is broken.
    """
    factory = TASKS.find(name)
    check_arguments(factory, options, f"an option of the task {name}", besides="split")
    return factory(split=split, **options)


def make_reward(name: str) -> Reward:
    """Build a registered reward.

    Raises:
        ValueError: if there is no such reward, or its distribution is broken.
    """
    return REWARDS.find(name)()


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
