"""Fields beside what they configure: one frozen dataclass per owner, ranges beside the fields.

An algorithm or engine names its own `Config`. That of a built-in algorithm `GRPO` is `GRPOConfig`
in `agents/algorithms/configs.py`, as its own file loads torch: flags are checked in a moment.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from typing import Any, get_type_hints

import docstring_parser

from agents.config.fields import is_optional, parts_of, plain_value
from cory_env.registry import Registry


class Range(ABC):
    """What a number must be, declared beside its field: `Annotated[float, Above(0)]`."""

    @abstractmethod
    def __str__(self) -> str:
        """Return the rule as a message has it."""

    @abstractmethod
    def holds(self, value: float) -> bool:
        """Return whether a number keeps to it."""


@dataclass(frozen=True, slots=True)
class AtLeast(Range):
    """From a bound on."""

    bound: float

    def __str__(self) -> str:
        return f"at least {self.bound:g}"

    def holds(self, value: float) -> bool:
        """Return whether a number keeps to it."""
        return value >= self.bound


@dataclass(frozen=True, slots=True)
class Above(Range):
    """Above a bound."""

    bound: float

    def __str__(self) -> str:
        return f"above {self.bound:g}"

    def holds(self, value: float) -> bool:
        """Return whether a number keeps to it."""
        return value > self.bound


@dataclass(frozen=True, slots=True)
class Between(Range):
    """From one bound to another."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"between {self.low:g} and {self.high:g}"

    def holds(self, value: float) -> bool:
        """Return whether a number keeps to it."""
        return self.low <= value <= self.high


class MayChange:
    """Marks a field, `Annotated[int, MAY_CHANGE]`, that a resumption may change.

    It decides nothing of what has been learnt so far: a place, a device, how often or how long.
    """


MAY_CHANGE = MayChange()


@dataclass(frozen=True, kw_only=True)
class Options:
    """The fields of one owner, all with defaults.

    A number means itself. `None` means that there is none, or that somebody else decides.

    Raises:
        ValueError: if a value has another type than its field, or is out of range.
    """

    def __post_init__(self) -> None:
        """Bring every value into the type that it has in config.json, and check its range."""
        kinds = get_type_hints(type(self), include_extras=True)
        for field in fields(self):
            kind, *notes = parts_of(kinds[field.name])
            value = plain_value(field.name, kind, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
            for rule in notes:
                if isinstance(rule, Range) and value is not None and not rule.holds(value):
                    none = " or None" if is_optional(kind) else ""
                    raise ValueError(f"Expected {field.name} to be {rule}{none}, got {value!r}.")

    def check(self, run: Any) -> None:
        """Check what does not go together.

        Args:
            run: the `RunConfig` that it is a part of.

        Raises:
            ValueError: if two values do not; says how to mend it.
        """


def expect_divisor(name: str, value: int, batch_size: int) -> None:
    """Check that batches can be divided into equal parts.

    Raises:
        ValueError: if not; says which smaller part would do.
    """
    if batch_size % value:
        near = max(d for d in range(1, min(value, batch_size) + 1) if batch_size % d == 0)
        raise ValueError(
            f"Expected {name} to divide batch_size, got {value} and {batch_size}: try "
            f"--{name.replace('_', '-')} {near}."
        )


def field_names(options: type[Options]) -> list[str]:
    """Return the names of the fields of an owner."""
    return [field.name for field in fields(options)]


def changeable(options: type[Options]) -> set[str]:
    """Return the names of the fields of an owner that a resumption may change."""
    kinds = get_type_hints(options, include_extras=True)
    return {name for name in field_names(options) if MAY_CHANGE in parts_of(kinds[name])}


def field_docs(options: type[Any]) -> dict[str, str]:
    """Return what is said of each field of a dataclass beside it, on one line."""
    docs: dict[str, str] = {}
    for kind in reversed(options.__mro__[:-1]):
        for said in docstring_parser.parse_from_object(kind).params:
            docs[said.arg_name] = " ".join((said.description or "").split())
    return docs


def values_of(options: Options) -> dict[str, Any]:
    """Return the values of an owner by the names of its fields."""
    return {name: getattr(options, name) for name in field_names(type(options))}


def options_of(registry: Registry[Any], name: str) -> type[Options]:
    """Return the fields that an entry brings; of a built-in one without importing the entry.

    Raises:
        ValueError: if there is no such entry, or its `Config` is none.
    """
    entry = registry.unloaded(name)
    if isinstance(entry, str) and entry.startswith("agents.algorithms."):
        configs = import_module("agents.algorithms.configs")
        return getattr(configs, f"{entry.partition(':')[2]}Config")
    found = getattr(registry.find(name), "Config", Options)
    if not (isinstance(found, type) and issubclass(found, Options) and is_dataclass(found)):
        raise ValueError(
            f"Expected the Config of the {registry.kind} {name} to be a dataclass derived from "
            f"that of another {registry.kind}, got {found!r}."
        )
    return found


def having(registry: Registry[Any], field: str) -> list[str]:
    """Return the entries that have a field, of those that are there without importing any."""
    return [name for name in registry if field in field_names(options_of(registry, name))]
