"""Plug-ins by name: those of this process, and those that installed distributions bring along.

A `Registry` holds one kind of them. `register(name)` is the decorator that adds one, which is all
it takes: shells, commands and tests find it by its name. A distribution brings its own by an entry
point in the registry's group, whose name is that of the plug-in and whose object is the entry; it
is loaded when the name is asked for. What is registered in the process comes first, so no
distribution can replace a built-in one.
"""

from __future__ import annotations

import ast
import traceback
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from cory_env.names import check_arguments, unknown_name
from cory_env.rewards.answer import AnswerReward
from cory_env.rewards.scored import ScoredReward
from cory_env.rewards.sentiment import SentimentReward
from cory_env.rewards.toy import MatchReward
from cory_env.task import Task
from cory_env.tasks.arithmetic import ArithmeticTask
from cory_env.tasks.gsm8k import Gsm8kTask
from cory_env.tasks.imdb import ImdbTask
from cory_env.tasks.lesson import LessonTask
from cory_env.tasks.toy import ToyTask
from cory_env.types import Reward

_IMPORTLIB = str(Path(import_module.__code__.co_filename).parent)

_Entry = TypeVar("_Entry")
_Decorated = TypeVar("_Decorated")


class Registry(MutableMapping[str, _Entry], Generic[_Entry]):
    """Entries of one kind by name.

    Args:
        kind: what an entry is, such as `task`.
        group: of the entry points of distributions, such as `cory_env.tasks`.
        entries: the built-in ones; a text is `module:attribute`, imported when it is asked for.
        base: `module:class` that all entries are subclasses of; empty for no class.
        families: `module:attribute` of what makes entries by the name behind a prefix: that of `rg`
            is called with `chain_sum`, and what the entry is called with, for `rg:chain_sum`.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        entries: Mapping[str, _Entry | str],
        *,
        base: str = "",
        families: Mapping[str, str] | None = None,
    ) -> None:
        self.kind = kind
        self.group = group
        self.base = base
        self.article = "an" if kind[0] in "aeiou" else "a"
        self._entries: dict[str, Any] = dict(entries)
        self._families = {f"{prefix}:NAME": entry for prefix, entry in (families or {}).items()}

    def __getitem__(self, name: str) -> _Entry:
        entry = self._entries[name]
        if isinstance(entry, str):
            entry = self._entries[name] = _import(entry)
        return entry

    def __setitem__(self, name: str, entry: _Entry | str) -> None:
        self._entries[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def register(self, name: str) -> Callable[[_Decorated], _Decorated]:
        """Return a decorator that adds an entry under a new name.

        Raises:
            ValueError: in the decorator, if the name is taken.
        """

        def add(entry: _Decorated) -> _Decorated:
            if name in self._entries:
                raise ValueError(
                    f"Expected a new {self.kind} name, got {name!r}, which is registered."
                )
            self._entries[name] = entry
            return entry

        return add

    def known(self) -> list[str]:
        """Return all names, those of installed distributions included; imports none of them.

        A family is one name, such as `rg:NAME`.
        """
        names = [*self._entries, *self._families, *sorted(self._installed().names)]
        return list(dict.fromkeys(names))

    def check(self, name: str, mend: str = "") -> None:
        """Check that there is an entry of a name, without importing it.

        Args:
            name: the name.
            mend: what to do if no other name is near.

        Raises:
            ValueError: if not; says which name was probably meant.
        """
        if name in self._entries or self._family(name) or name in self.known():
            return
        raise ValueError(unknown_name(f"{self.article} {self.kind}", self.known(), name, mend=mend))

    def find(self, name: str) -> _Entry:
        """Return the entry of a name.

        Raises:
            ValueError: if there is none, or it is none of its kind, or its distribution is broken.
        """
        if name not in self._entries and (family := self._family(name)):
            return partial(_import(family), name.partition(":")[2])  # type: ignore[return-value]
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
        if self.base:
            self._check_class(name)
        return self[name]

    def summary(self, name: str) -> str:
        """Return the first line of an entry's docstring, without importing it.

        Empty for what an installed distribution brings and has not been asked for yet.
        """
        entry = self._entries.get(name, self._families.get(name, ""))
        text = _docstring(entry) if isinstance(entry, str) else entry.__doc__
        return (text or "").strip().partition("\n")[0]

    def _check_class(self, name: str) -> None:
        entry, base = cast("object", self[name]), _import(self.base)
        expected = f"Expected the {self.kind} {name!r} to be a subclass of"
        if not (isinstance(entry, type) and issubclass(entry, base)):
            raise ValueError(f"{expected} {self.base.replace(':', '.')}, got {entry!r}.")
        if missing := sorted(getattr(entry, "__abstractmethods__", ())):
            raise ValueError(
                f"{expected} {base.__name__} with its methods, got {entry.__name__} without "
                f"{' and '.join(missing)}."
            )

    def unloaded(self, name: str) -> _Entry | str | None:
        """Return an entry as it stands here: `module:attribute` if nobody has asked for it yet."""
        return self._entries.get(name)

    def _family(self, name: str) -> str:
        """Return what makes the entries of a name with a prefix; empty for other names."""
        prefix, colon, _ = name.partition(":")
        return self._families.get(f"{prefix}:NAME", "") if colon else ""

    def _installed(self) -> EntryPoints:
        return entry_points(group=self.group)


TASKS: Registry[Callable[..., Task]] = Registry(
    "task",
    "cory_env.tasks",
    {
        "arithmetic": ArithmeticTask,
        "gsm8k": Gsm8kTask,
        "imdb": ImdbTask,
        "lesson": LessonTask,
        "toy": ToyTask,
    },
    families={"rg": "cory_env.tasks.reasoning_gym:ReasoningGymTask"},
)
"""Factories, called as `factory(split=…, **options)`."""
REWARDS: Registry[Callable[[], Reward]] = Registry(
    "reward",
    "cory_env.rewards",
    {
        "answer": AnswerReward,
        "match": MatchReward,
        "scored": ScoredReward,
        "sentiment": SentimentReward,
    },
)
"""Factories, called without arguments."""

register_task = TASKS.register
register_reward = REWARDS.register


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


def failure(error: BaseException) -> str:
    """Return what an import has raised, with the line and the file.

    Of several files that of the plug-in itself, not of what it imports in its turn.
    """
    words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} in line {error.lineno} of {error.filename}"
    # The first frame is that of who has caught it.
    for frame in traceback.extract_tb(error.__traceback__)[1:]:
        if not frame.filename.startswith(("<frozen", _IMPORTLIB)):
            return f"{words} in line {frame.lineno} of {frame.filename}"
    return words


def _import(reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    return getattr(import_module(module), attribute)


def _docstring(reference: str) -> str | None:
    """Return the docstring of `module:attribute`, read from the module's source."""
    module, _, attribute = reference.partition(":")
    spec = find_spec(module) if module else None
    if spec is None or spec.origin is None:
        return None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == attribute:
            return ast.get_docstring(node)
    return None


def _load(kind: str, point: EntryPoint) -> Any:
    expected = f"Expected {_origin(point)} to bring the {kind} {point.name!r}, got"
    try:
        entry = point.load()
    except (Exception, SystemExit) as error:  # a plug-in may raise anything: this is the boundary
        raise ValueError(
            f"{expected} {failure(error)} from {point.value!r}: mend or remove it."
        ) from error
    if not callable(entry):
        raise ValueError(f"{expected} {entry!r} from {point.value!r}, which cannot be called.")
    return entry


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"
